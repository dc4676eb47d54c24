with

source as (
    select * from {{ source('raw_stock', 'stock_levels') }}
    where _sdc_load_id <= {{ load_bound() }}
),

stock_levels as (
    select
        -- ids
        {{ to_id('product_id', 'product') }} as product_id,

        -- numbers
        {{ to_integer('quantity_on_hand') }} as quantity_on_hand,

        -- timestamps
        {{ to_utc_timestamp('recorded_at') }} as recorded_at,

        {{ technical_columns(to_utc_timestamp('recorded_at'), source_key='product_id') }}
    from source
)

select * from stock_levels
