-- A basket of n products has n (n + 1) / 2 pairs, each product with itself included, and it has at
-- least one product and no more than the limit. Otherwise pairs are missing or repeated, or one
-- order outweighs the rest.

with

baskets as (
    select
        order_id,
        products_count
    from {{ ref('int_orders__totalled') }}
    where is_basket
),

-- What the pairs lack: those of each basket, less each that is there. Not kept, because they are
-- looked at again only when there is a fault.
pairs as not materialized (
    select
        order_id,
        products_count as missing_products,
        {{ whole_quotient('products_count * (products_count + 1)', '2') }} as missing_pairs
    from baskets

    union all

    select
        order_id,
        case when product_id = other_product_id then -1 else 0 end as missing_products,
        -1 as missing_pairs
    from {{ ref('int_products__paired') }}
),

compared as (
    select {{ is_unbalanced(['missing_products', 'missing_pairs'], ['order_id']) }} as differ
    from pairs
),

faults as (
    select
        'pairs are missing' as fault,
        order_id,
        sum(missing_products) as products,
        sum(missing_pairs) as pairs
    from pairs
    where (select compared.differ from compared)
    group by order_id
    having
        sum(missing_products) <> 0
        or sum(missing_pairs) <> 0

    union all

    select
        'too few or too many products' as fault,
        order_id,
        products_count as products,
        null as pairs
    from baskets
    where products_count not between 1 and {{ var('basket_products_max') }}
)

select * from faults
