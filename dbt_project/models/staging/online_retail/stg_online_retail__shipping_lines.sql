-- One row per received version of a line that charges shipping.
with

lines as (
    select * from {{ ref('base_online_retail__lines') }}
),

shipping_lines as (
    select
        -- ids
        line_id as shipping_line_id,
        invoice_number as order_id,

        -- numbers
        amount,

        -- version
        {{ technical_columns('invoiced_at', source_key='line_id') }}
    from lines
    where line_role = 'shipping'
)

select * from shipping_lines
