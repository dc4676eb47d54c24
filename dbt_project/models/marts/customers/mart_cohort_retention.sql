{#- Made in full on each run: a late first order moves a customer to another cohort. It reads one
    row per order. -#}
with

purchases as (
    select * from {{ ref('int_orders__totalled') }}
    where is_purchase
),

customers as (
    select * from {{ ref('mart_customers') }}
),

dim_date as (
    select * from {{ ref('dim_date') }}
),

last_day as (
    select max(date) as day from {{ ref('mart_daily_sales') }}
),

cohorts as (
    select
        cohort_month,
        count(*) as cohort_size
    from customers
    group by cohort_month
),

months as (
    select date as month
    from dim_date
    where day = 1
),

-- Also the months in which nobody of a cohort came back.
cohort_months as (
    select
        cohorts.cohort_month,
        months.month,
        cohorts.cohort_size
    from cohorts
    inner join months
        on cohorts.cohort_month <= months.month
    inner join last_day
        on months.month <= last_day.day
),

customer_months as (
    select
        purchases.user_id,
        customers.cohort_month,
        {{ first_of_month('purchases.day') }} as month,
        sum(purchases.amount) as sales
    from purchases
    inner join customers
        on purchases.user_id = customers.user_id
    group by
        purchases.user_id,
        customers.cohort_month,
        {{ first_of_month('purchases.day') }}
),

activity as (
    select
        cohort_month,
        month,
        count(*) as active_customers,
        sum(sales) as sales
    from customer_months
    group by
        cohort_month,
        month
),

measured as (
    select
        cohort_months.cohort_month,
        {{ month_number('cohort_months.month') }}
        - {{ month_number('cohort_months.cohort_month') }} as months_since,
        cohort_months.cohort_size,
        coalesce(activity.active_customers, 0) as active_customers,
        coalesce(activity.sales, 0) as sales
    from cohort_months
    left join activity
        on
            cohort_months.cohort_month = activity.cohort_month
            and cohort_months.month = activity.month
),

mart_cohort_retention as (
    select
        cohort_month,
        months_since,
        cohort_size,
        active_customers,
        {{ ratio('active_customers', 'cohort_size') }} as retention_rate,
        {{ money('sales') }} as sales
    from measured
)

select * from mart_cohort_retention
