{{ config(materialized='incremental', unique_key='product_id', on_schema_change='fail') }}

with

product_versions as (
    select * from {{ ref('int_products__versioned') }}
    where {{ is_news('_changed_load_id') }}
),

known_products as (
    select
        product_id,
        version_number,
        name,
        category,
        price,
        deleted_at,
        _version_at as version_at,
        valid_from,
        valid_to,
        is_current
    from product_versions
),

unknown_product as (
    select
        {{ unknown_id('product') }} as product_id,
        1 as version_number,
        'unknown' as name,
        'unknown' as category,
        cast(null as {{ money_type() }}) as price,
        cast(null as timestamp) as deleted_at,
        cast(null as timestamp) as version_at,
        {{ beginning_of_time() }} as valid_from,
        cast(null as timestamp) as valid_to,
        true as is_current
),

dim_products_history as (
    select * from known_products
    union all
    select * from unknown_product
)

select * from dim_products_history
