-- An invoice that sells or ships is an order; its lines say the same of it, but for a minute.
-- One row per received version of such a line.
with

lines as (
    select * from {{ ref('base_online_retail__lines') }}
),

orders as (
    select
        -- ids
        invoice_number as order_id,
        customer_id as user_id,

        -- text
        'completed' as status,
        'GBP' as currency,

        -- numbers
        {{ money(0) }} as shipping_cost,

        -- timestamps
        invoiced_at as ordered_at,
        cast(null as timestamp) as cancelled_at,

        -- version
        {{ technical_columns('invoiced_at', source_key='invoice_number') }}
    from lines
    where line_role in ('sale', 'shipping')
)

select * from orders
