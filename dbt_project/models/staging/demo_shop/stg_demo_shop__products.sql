with

source as (
    select * from {{ source('raw_catalog', 'products') }}
    where _sdc_load_id <= {{ load_bound() }}
),

products as (
    select
        -- ids
        {{ to_id('product_id', 'product') }} as product_id,

        -- text
        nullif({{ trimmed('name') }}, '') as name,
        nullif({{ trimmed('category') }}, '') as category,

        -- numbers
        {{ to_decimal('price') }} as price,

        {{ technical_columns(to_utc_timestamp('updated_at'), source_key='product_id') }}
    from source
)

select * from products
