-- mart_customers has every known user with an order line that is not cancelled, and nobody else,
-- with what the facts say of them; a higher score is never worth less. Otherwise a customer is
-- missed, or a campaign goes to the wrong ones.

with

purchases as (
    select
        user_id,
        count(distinct order_id) as orders_count,
        sum(quantity) as units_bought,
        sum(amount) as sales,
        min(ordered_at) as first_order_at,
        max(ordered_at) as last_order_at
    from {{ ref('fact_orders') }}
    where
        status <> 'cancelled'
        and user_id <> {{ unknown_id('user') }}
    group by user_id
),

money as (
    select
        user_id,
        sum(amount + shipping_cost) as amount
    from {{ ref('fact_orders') }}
    group by user_id

    union all

    select
        user_id,
        -sum(amount + shipping_amount) as amount
    from {{ ref('fact_refunds') }}
    group by user_id
),

values_of_users as (
    select
        user_id,
        sum(amount) as lifetime_value
    from money
    group by user_id
),

customers as (
    select * from {{ ref('mart_customers') }}
),

scores as (
    select
        monetary_score as score,
        min(lifetime_value) as least,
        max(lifetime_value) as most
    from customers
    group by monetary_score
),

faults as (
    select
        'customer' as fault,
        cast(coalesce(purchases.user_id, customers.user_id) as {{ type_string() }}) as faulty
    from purchases
    full outer join customers
        on purchases.user_id = customers.user_id
    left join values_of_users
        on purchases.user_id = values_of_users.user_id
    where
        purchases.user_id is null
        or customers.user_id is null
        or purchases.orders_count <> customers.orders_count
        or purchases.units_bought <> customers.units_bought
        or purchases.sales <> customers.sales
        or purchases.first_order_at <> customers.first_order_at
        or purchases.last_order_at <> customers.last_order_at
        or values_of_users.lifetime_value <> customers.lifetime_value

    union all

    select
        'monetary score' as fault,
        cast(higher.score as {{ type_string() }}) as faulty
    from scores as higher
    inner join scores as lower_scores
        on higher.score > lower_scores.score
    where higher.least <= lower_scores.most
)

select * from faults
