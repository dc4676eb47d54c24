-- mart_customers has every known user with an order line that is not cancelled, and nobody else,
-- with what the facts say of them; a higher score is never worth less. Otherwise a customer is
-- missed, or a campaign goes to the wrong ones.

with

lines as (
    select
        user_id,
        order_id,
        status <> 'cancelled' as is_purchase,
        quantity,
        amount,
        shipping_cost,
        ordered_at
    from {{ ref('fact_orders') }}
    where user_id <> {{ unknown_id('user') }}
),

lines_by_user as (
    select
        user_id,
        count(case when is_purchase then 1 end) as lines_count,
        sum(case when is_purchase then quantity end) as units_bought,
        sum(case when is_purchase then amount end) as sales,
        min(case when is_purchase then ordered_at end) as first_order_at,
        max(case when is_purchase then ordered_at end) as last_order_at,
        sum(amount + shipping_cost) as paid
    from lines
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
        lines_by_user.*,
        lines_by_user.paid - coalesce(refunds_by_user.refunded, 0) as lifetime_value
    from lines_by_user
    left join refunds_by_user
        on lines_by_user.user_id = refunds_by_user.user_id
    where lines_by_user.lines_count > 0
),

-- An order has one user, so that their counts add up.
purchases as (
    select count(distinct order_id) as orders_count
    from lines
    where is_purchase
),

customers as (
    select * from {{ ref('mart_customers') }}
),

all_customers as (
    select coalesce(sum(orders_count), 0) as orders_count from customers
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
            'units_bought', 'sales', 'first_order_at', 'last_order_at', 'lifetime_value'
        ]) }}
        or expected.lines_count < customers.orders_count

    union all

    select
        'number of purchases' as fault,
        cast(all_customers.orders_count as {{ type_string() }}) as faulty
    from all_customers
    cross join purchases
    where all_customers.orders_count <> purchases.orders_count

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
