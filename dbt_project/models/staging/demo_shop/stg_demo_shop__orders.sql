with

source as (
    select * from {{ source('raw_shop', 'orders') }}
    where _sdc_load_id <= {{ load_bound() }}
),

orders as (
    select
        -- ids
        {{ to_id('order_id', 'order') }} as order_id,
        {{ to_id('user_id', 'user') }} as user_id,

        -- text: the shop's own word, which int_orders__current maps to pending, completed or
        -- cancelled
        {{ lower_case(trimmed('status')) }} as status,

        -- timestamps
        {{ to_utc_timestamp('ordered_at') }} as ordered_at,
        {{ to_utc_timestamp('cancelled_at') }} as cancelled_at,

        -- numbers
        {{ to_decimal_or_zero('shipping_cost') }} as shipping_cost,

        -- text
        {{ upper_case(trimmed('currency')) }} as currency,

        {{ technical_columns(
            to_utc_timestamp('updated_at'),
            to_utc_timestamp('deleted_at'),
            source_key='order_id'
        ) }}
    from source
)

select * from orders
