with

source as (
    select * from {{ source('raw_shop', 'order_items') }}
    where _sdc_load_id <= {{ load_bound() }}
),

order_items as (
    select
        -- ids
        {{ to_id('order_line_id', 'order_line') }} as order_line_id,
        {{ to_id('order_id', 'order') }} as order_id,
        {{ to_id('product_id', 'product') }} as product_id,

        -- numbers
        {{ to_integer('quantity') }} as quantity,
        {{ to_decimal('unit_price') }} as unit_price,
        {{ to_decimal_or_zero('discount') }} as discount,
        {{ money_or_null(
            quantity_times_price(to_integer('quantity'), to_decimal('unit_price'))
            ~ ' - ' ~ to_decimal_or_zero('discount')
        ) }} as amount,

        -- timestamps
        {{ to_utc_timestamp('created_at') }} as created_at,

        {{ technical_columns(
            to_utc_timestamp('updated_at'),
            to_utc_timestamp('deleted_at'),
            source_key='order_line_id'
        ) }}
    from source
)

select * from order_items
