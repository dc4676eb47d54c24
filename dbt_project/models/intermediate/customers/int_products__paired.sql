{#- Kept order by order, so that a run pairs the products of touched orders only; what remains for
    the mart is to count. Each product is also paired with itself, which counts its orders in the
    same pass. -#}
{{ config(incremental_strategy='append') }}

with

baskets as (
    select order_id from {{ ref('int_orders__totalled') }}
    where
        is_basket
        and {{ is_touched('order_id') }}
),

sale_lines as (
    select * from {{ ref('int_order_lines__classified') }}
    where
        line_kind = 'sale'
        and product_id <> {{ unknown_id('product') }}
        and {{ is_touched('order_id') }}
),

products_of_baskets as (
    select
        sale_lines.order_id,
        sale_lines.product_id
    from sale_lines
    inner join baskets
        on sale_lines.order_id = baskets.order_id
    group by
        sale_lines.order_id,
        sale_lines.product_id
),

products_paired as (
    select
        products_of_baskets.order_id,
        products_of_baskets.product_id,
        others.product_id as other_product_id
    from products_of_baskets
    inner join products_of_baskets as others
        on
            products_of_baskets.order_id = others.order_id
            and products_of_baskets.product_id <= others.product_id
)

select * from products_paired
