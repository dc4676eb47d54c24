-- Two products are as close from either side: equal support and lift where each is recommended
-- with the other. A confidence is at least the support, and a product's rank follows its lift.
-- Otherwise the page of one product says what the other's denies.

with

recommendations as (
    select * from {{ ref('mart_product_recommendations') }}
),

faults as (
    select
        'sides' as fault,
        recommendations.product_id,
        recommendations.rank
    from recommendations
    inner join recommendations as others
        on
            recommendations.product_id = others.recommended_product_id
            and recommendations.recommended_product_id = others.product_id
    where
        recommendations.orders_together <> others.orders_together
        or recommendations.product_orders <> others.recommended_orders
        or recommendations.support <> others.support
        or recommendations.lift <> others.lift

    union all

    select
        'measures' as fault,
        product_id,
        rank
    from recommendations
    where
        confidence < support
        or orders_together > product_orders
        or orders_together > recommended_orders
        or product_orders > total_orders
        or product_id = recommended_product_id

    union all

    select
        'rank' as fault,
        recommendations.product_id,
        recommendations.rank
    from recommendations
    inner join recommendations as others
        on
            recommendations.product_id = others.product_id
            and recommendations.rank > others.rank
    where
        recommendations.lift > others.lift
        or recommendations.recommended_product_id = others.recommended_product_id
)

select * from faults
