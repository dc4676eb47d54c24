-- One row per received version of a line that is neither sale, shipping nor refund.
with

lines as (
    select * from {{ ref('base_online_retail__lines') }}
),

adjustments as (
    select
        -- ids
        line_id as adjustment_id,
        invoice_number as order_id,
        product_id,
        customer_id as user_id,

        -- text
        line_role as kind,

        -- numbers
        amount,

        -- timestamps
        invoiced_at as adjusted_at,

        -- version
        {{ technical_columns('invoiced_at', source_key='line_id') }}
    from lines
    where line_role not in ('sale', 'shipping', 'refund')
)

select * from adjustments
