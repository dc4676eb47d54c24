-- For the product of most lines, its recommendations recounted from fact_orders: the same, none
-- missing, also none at all. Otherwise pairs were lost or counted twice on their way.

with

lines as (
    select
        order_id,
        product_id
    from {{ ref('fact_orders') }}
    where
        status <> 'cancelled'
        and product_id <> {{ unknown_id('product') }}
),

lines_by_product as (
    select
        product_id,
        count(*) as lines_count
    from lines
    group by product_id
),

chosen as (
    select max(product_id) as product_id
    from lines_by_product
    where lines_count = (select max(largest.lines_count) from lines_by_product as largest)
),

orders_of_chosen as (
    select lines.order_id
    from lines
    inner join chosen
        on lines.product_id = chosen.product_id
    group by lines.order_id
),

products_of_orders as (
    select
        lines.order_id,
        lines.product_id
    from lines
    inner join orders_of_chosen
        on lines.order_id = orders_of_chosen.order_id
    group by
        lines.order_id,
        lines.product_id
),

baskets as (
    select order_id
    from products_of_orders
    group by order_id
    having count(*) <= {{ var('basket_products_max') }}
),

-- The product itself is among them, with all of its baskets.
recounted as (
    select
        products_of_orders.product_id as recommended_product_id,
        count(*) as orders_together
    from products_of_orders
    inner join baskets
        on products_of_orders.order_id = baskets.order_id
    group by products_of_orders.product_id
    having count(*) >= {{ var('recommendation_orders_min') }}
),

recommendations as (
    select recommended.*
    from {{ ref('mart_product_recommendations') }} as recommended
    inner join chosen
        on recommended.product_id = chosen.product_id
),

counts as (
    select
        (select count(*) from baskets) as product_orders,
        (select count(*) from recounted) as candidates_count,
        (select count(*) from recommendations) as recommendations_count
),

faults as (
    select
        'number of recommendations' as fault,
        candidates_count as expected,
        recommendations_count as found
    from counts
    where
        recommendations_count
        <> least(greatest(candidates_count - 1, 0), {{ var('recommendations_per_product') }})

    union all

    select
        'orders together' as fault,
        recounted.orders_together as expected,
        recommendations.orders_together as found
    from recommendations
    left join recounted
        on recommendations.recommended_product_id = recounted.recommended_product_id
    where coalesce(recounted.orders_together, 0) <> recommendations.orders_together

    union all

    select
        'orders of the product' as fault,
        counts.product_orders as expected,
        recommendations.product_orders as found
    from recommendations
    cross join counts
    where recommendations.product_orders <> counts.product_orders
)

select * from faults
