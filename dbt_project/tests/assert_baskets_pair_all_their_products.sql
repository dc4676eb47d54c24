-- A basket of n products has n (n + 1) / 2 pairs, each product with itself included, and none is
-- larger than the limit. Otherwise pairs are missing or repeated, or one order outweighs the rest.

with

pairs_of_orders as (
    select
        order_id,
        count(*) as pairs_count,
        count(case when product_id = other_product_id then 1 end) as products_count
    from {{ ref('int_products__paired') }}
    group by order_id
),

baskets as (
    select order_id
    from {{ ref('int_orders__totalled') }}
    where is_basket
)

select
    coalesce(baskets.order_id, pairs_of_orders.order_id) as order_id,
    pairs_of_orders.pairs_count,
    pairs_of_orders.products_count
from baskets
full outer join pairs_of_orders
    on baskets.order_id = pairs_of_orders.order_id
where
    baskets.order_id is null
    or pairs_of_orders.order_id is null
    or 2 * pairs_of_orders.pairs_count
    <> pairs_of_orders.products_count * (pairs_of_orders.products_count + 1)
    or pairs_of_orders.products_count > {{ var('basket_products_max') }}
