{#- Made in full on each run: an order more changes every lift. The pairs are kept incrementally, so
    what is left is one count over them (DECISIONS.md has the time). -#}
with

orders as (
    select * from {{ ref('int_orders__totalled') }}
),

pairs as (
    select * from {{ ref('int_products__paired') }}
),

all_baskets as (
    select count(*) as total_orders
    from orders
    where is_basket
),

-- A product that is rarer than the floor is in no pair that reaches it.
pair_counts as (
    select
        product_id,
        other_product_id,
        count(*) as orders_together
    from pairs
    group by
        product_id,
        other_product_id
    having count(*) >= {{ var('recommendation_orders_min') }}
),

-- Without a filter: one that all readers of the counts have would be asked of every pair before it
-- is counted.
product_counts as (
    select
        product_id,
        max(case when product_id = other_product_id then orders_together end) as orders_count
    from pair_counts
    group by product_id
),

both_ways as (
    select
        product_id,
        other_product_id as recommended_product_id,
        orders_together
    from pair_counts
    where product_id <> other_product_id

    union all

    select
        other_product_id as product_id,
        product_id as recommended_product_id,
        orders_together
    from pair_counts
    where product_id <> other_product_id
),

with_counts as (
    select
        both_ways.product_id,
        both_ways.recommended_product_id,
        both_ways.orders_together,
        product_counts.orders_count as product_orders,
        recommended_counts.orders_count as recommended_orders,
        all_baskets.total_orders
    from both_ways
    inner join product_counts
        on both_ways.product_id = product_counts.product_id
    inner join product_counts as recommended_counts
        on both_ways.recommended_product_id = recommended_counts.product_id
    cross join all_baskets
),

with_measures as (
    select
        *,
        {{ ratio('orders_together', 'total_orders') }} as support,
        {{ ratio('orders_together', 'product_orders') }} as confidence,
        {{ ratio('orders_together * total_orders', 'product_orders * recommended_orders') }} as lift
    from with_counts
),

ranked as (
    select
        *,
        row_number() over (
            partition by product_id
            order by
                lift desc,
                orders_together desc,
                {{ in_byte_order('recommended_product_id', id_type('product')) }} asc
        ) as recommendation_rank
    from with_measures
),

mart_product_recommendations as (
    select
        product_id,
        cast(recommendation_rank as integer) as rank,
        recommended_product_id,
        orders_together,
        product_orders,
        recommended_orders,
        total_orders,
        support,
        confidence,
        lift
    from ranked
    where recommendation_rank <= {{ var('recommendations_per_product') }}
)

select * from mart_product_recommendations
