-- mart_customers has every known user with an order line that is not cancelled, and nobody else,
-- with what the facts say of them; a higher score is never worth less. Otherwise a customer is
-- missed, or a campaign goes to the wrong ones.

with

-- By order: assert_orders_total_their_lines holds these orders to be the facts'.
orders_by_user as (
    select
        user_id,
        count(case when is_purchase then 1 end) as orders_count,
        sum(case when is_purchase then units end) as units_bought,
        sum(case when is_purchase then amount end) as sales,
        min(case when is_purchase then ordered_at end) as first_order_at,
        max(case when is_purchase then ordered_at end) as last_order_at,
        sum(amount + shipping_cost) as paid
    from {{ ref('int_orders__totalled') }}
    where user_id <> {{ unknown_id('user') }}
    group by user_id
),

refunds_by_user as (
    select
        user_id,
        sum(amount + shipping_amount) as refunded
    from {{ ref('fact_refunds') }}
    group by user_id
),

expected as (
    select
        orders_by_user.*,
        orders_by_user.paid - coalesce(refunds_by_user.refunded, 0) as lifetime_value
    from orders_by_user
    left join refunds_by_user
        on orders_by_user.user_id = refunds_by_user.user_id
    where orders_by_user.orders_count > 0
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
        cast(coalesce(expected.user_id, customers.user_id) as {{ type_string() }}) as faulty
    from expected
    full outer join customers
        on expected.user_id = customers.user_id
    where
        {{ is_otherwise('expected', 'customers', 'user_id', [
            'orders_count', 'units_bought', 'sales', 'first_order_at', 'last_order_at',
            'lifetime_value'
        ]) }}

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
