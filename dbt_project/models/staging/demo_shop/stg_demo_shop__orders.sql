with

source as (
    select * from {{ source('raw_shop', 'orders') }}
    where _sdc_load_id <= {{ load_bound() }}
),

orders as (
    select
        -- ids
        {{ to_integer('order_id') }} as order_id,
        {{ to_integer('user_id') }} as user_id,

        -- text: the shop's own word, which int_orders__current maps to pending, completed or
        -- cancelled
        lower(trim(status)) as status,

        -- timestamps
        {{ to_utc_timestamp('ordered_at') }} as ordered_at,
        {{ to_utc_timestamp('cancelled_at') }} as cancelled_at,

        -- numbers
        coalesce({{ to_decimal('shipping_cost') }}, 0) as shipping_cost,

        -- text
        upper(trim(currency)) as currency,

        {{ technical_columns(to_utc_timestamp('updated_at')) }}
    from source
)

select * from orders
