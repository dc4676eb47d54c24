with

products as (
    select * from {{ ref('int_products__current') }}
),

known_products as (
    select
        product_id,
        name,
        coalesce(category, 'unknown') as category,
        price,
        deleted_at
    from products
),

unknown_product as (
    select
        {{ unknown_id('product') }} as product_id,
        'unknown' as name,
        'unknown' as category,
        cast(null as {{ money_type() }}) as price,
        cast(null as timestamp) as deleted_at
),

dim_products as (
    select * from known_products
    union all
    select * from unknown_product
)

select * from dim_products
