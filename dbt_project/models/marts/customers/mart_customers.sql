{#- Made in full on each run: every new day moves every customer's recency, and scores compare all
    customers. It reads one row per order, not per line (DECISIONS.md has the time). -#}
with

orders as (
    select * from {{ ref('int_orders__totalled') }}
    where user_id <> {{ unknown_id('user') }}
),

refunds as (
    select * from {{ ref('fact_refunds') }}
),

rfm_segments as (
    select * from {{ ref('rfm_segments') }}
),

last_day as (
    select max(date) as day from {{ ref('mart_daily_sales') }}
),

-- Cancelled orders are no purchases, but what came in with them counts: the refunds have it too.
orders_by_user as (
    select
        user_id,
        min(case when is_purchase then ordered_at end) as first_order_at,
        max(case when is_purchase then ordered_at end) as last_order_at,
        min(case when is_purchase then day end) as first_day,
        max(case when is_purchase then day end) as last_day,
        count(case when is_purchase then 1 end) as orders_count,
        sum(case when is_purchase then units end) as units_bought,
        sum(case when is_purchase then amount end) as sales,
        sum(amount + shipping_cost) as paid
    from orders
    group by user_id
),

refunds_by_user as (
    select
        user_id,
        sum(amount + shipping_amount) as refunded
    from refunds
    group by user_id
),

customers as (
    select
        orders_by_user.user_id,
        orders_by_user.first_order_at,
        orders_by_user.last_order_at,
        orders_by_user.orders_count,
        orders_by_user.units_bought,
        orders_by_user.sales,
        orders_by_user.paid - coalesce(refunds_by_user.refunded, 0) as lifetime_value,
        {{ days_between('orders_by_user.last_day', 'last_day.day') }} as days_since_last_order,
        {{ first_of_month('orders_by_user.first_day') }} as cohort_month
    from orders_by_user
    cross join last_day
    left join refunds_by_user
        on orders_by_user.user_id = refunds_by_user.user_id
    where orders_by_user.orders_count > 0
),

-- How many customers are worse; equal ones have the same number.
compared as (
    select
        *,
        count(*) over () as customers_count,
        rank() over (order by days_since_last_order desc) - 1 as worse_in_recency,
        rank() over (order by orders_count asc) - 1 as worse_in_frequency,
        rank() over (order by lifetime_value asc) - 1 as worse_in_value
    from customers
),

scored as (
    select
        *,
        1 + {{ whole_quotient('5 * worse_in_recency', 'customers_count') }} as recency_score,
        1 + {{ whole_quotient('5 * worse_in_frequency', 'customers_count') }} as frequency_score,
        1 + {{ whole_quotient('5 * worse_in_value', 'customers_count') }} as monetary_score
    from compared
),

mart_customers as (
    select
        scored.user_id,
        scored.first_order_at,
        scored.last_order_at,
        scored.orders_count,
        cast(scored.units_bought as bigint) as units_bought,
        {{ money('scored.sales') }} as sales,
        {{ money('scored.lifetime_value') }} as lifetime_value,
        {{ average_money('scored.sales', 'scored.orders_count') }} as average_order_value,
        scored.days_since_last_order,
        cast(scored.recency_score as integer) as recency_score,
        cast(scored.frequency_score as integer) as frequency_score,
        cast(scored.monetary_score as integer) as monetary_score,
        rfm_segments.rfm_segment,
        scored.cohort_month
    from scored
    left join rfm_segments
        on
            scored.recency_score = rfm_segments.recency_score
            and scored.frequency_score = rfm_segments.frequency_score
)

select * from mart_customers
