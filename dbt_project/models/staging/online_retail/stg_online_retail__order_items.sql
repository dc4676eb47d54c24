-- One row per received version of a line that sells a product.
with

lines as (
    select * from {{ ref('base_online_retail__lines') }}
),

order_items as (
    select
        -- ids
        line_id as order_line_id,
        invoice_number as order_id,
        product_id,

        -- numbers
        quantity,
        unit_price,
        {{ money(0) }} as discount,
        amount,

        -- timestamps
        invoiced_at as created_at,

        -- version
        {{ technical_columns('invoiced_at', source_key='line_id') }}
    from lines
    where line_role = 'sale'
)

select * from order_items
