-- A cancellation does not name the line that it gives back: customer and product are its own.
-- One row per received version of a line of a cancellation.
with

lines as (
    select * from {{ ref('base_online_retail__lines') }}
),

refunds as (
    select
        -- ids
        line_id as refund_id,
        cast(null as {{ type_string() }}) as order_line_id,
        invoice_number as order_id,
        product_id,
        customer_id as user_id,

        -- text
        cast(null as {{ type_string() }}) as reason,

        -- numbers
        {{ money('case when is_shipping then 0 else -amount end') }} as amount,
        {{ money('case when is_shipping then -amount else 0 end') }} as shipping_amount,

        -- timestamps
        invoiced_at as refunded_at,

        -- version
        {{ technical_columns('invoiced_at', source_key='line_id') }}
    from lines
    where line_role = 'refund'
)

select * from refunds
