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
    select max(lines_by_product.product_id) as product_id
    from lines_by_product
    where
        lines_by_product.lines_count
        = (select max(largest.lines_count) from lines_by_product as largest)
),

baskets as (
    select order_id
    from lines
    group by order_id
    having count(distinct product_id) <= {{ var('basket_products_max') }}
),

baskets_of_chosen as (
    select distinct lines.order_id
    from lines
    inner join chosen
        on lines.product_id = chosen.product_id
    inner join baskets
        on lines.order_id = baskets.order_id
),

recounted as (
    select
        chosen.product_id,
        lines.product_id as recommended_product_id,
        count(distinct lines.order_id) as orders_together
    from lines
    inner join baskets_of_chosen
        on lines.order_id = baskets_of_chosen.order_id
    inner join chosen
        on lines.product_id <> chosen.product_id
    group by
        chosen.product_id,
        lines.product_id
    having count(distinct lines.order_id) >= {{ var('recommendation_orders_min') }}
),

recommendations as (
    select recommended.*
    from {{ ref('mart_product_recommendations') }} as recommended
    inner join chosen
        on recommended.product_id = chosen.product_id
),

counts as (
    select
        (select count(*) from baskets) as total_orders,
        (select count(*) from baskets_of_chosen) as product_orders,
        (select count(*) from recounted) as candidates_count,
        (select count(*) from recommendations) as recommendations_count
),

faults as (
    select
        'number of recommendations' as fault,
        counts.candidates_count as expected,
        counts.recommendations_count as found
    from counts
    where
        counts.recommendations_count
        <> least(counts.candidates_count, {{ var('recommendations_per_product') }})

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
        'orders of the product, and all orders' as fault,
        counts.product_orders + counts.total_orders as expected,
        recommendations.product_orders + recommendations.total_orders as found
    from recommendations
    cross join counts
    where
        recommendations.product_orders <> counts.product_orders
        or recommendations.total_orders <> counts.total_orders
)

select * from faults
