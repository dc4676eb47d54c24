with

source as (
    select * from {{ source('raw_shop', 'order_items') }}
    where _sdc_load_id <= {{ load_bound() }}
),

order_items as (
    select
        -- ids
        {{ to_integer('order_line_id') }} as order_line_id,
        {{ to_integer('order_id') }} as order_id,
        {{ to_integer('product_id') }} as product_id,

        -- numbers
        {{ to_integer('quantity') }} as quantity,
        {{ to_decimal('unit_price') }} as unit_price,
        coalesce({{ to_decimal('discount') }}, 0) as discount,
        {{ money(
            to_integer('quantity') ~ ' * ' ~ to_decimal('unit_price')
            ~ ' - coalesce(' ~ to_decimal('discount') ~ ', 0)'
        ) }} as amount,

        -- timestamps
        {{ to_utc_timestamp('created_at') }} as created_at,

        {{ technical_columns(to_utc_timestamp('updated_at')) }}
    from source
)

select * from order_items
