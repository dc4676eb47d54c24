-- Every customer is in one cohort, all of a cohort buy in its first month, and its months run
-- without a gap; what cohorts spend is what customers spend. Otherwise retention is a share of
-- something else.

with

customers as (
    select
        count(*) as customers_count,
        coalesce(sum(sales), 0) as sales
    from {{ ref('mart_customers') }}
),

retention as (
    select * from {{ ref('mart_cohort_retention') }}
),

all_cohorts as (
    select
        coalesce(sum(case when months_since = 0 then cohort_size end), 0) as customers_count,
        coalesce(sum(sales), 0) as sales
    from retention
),

last_months as (
    select max({{ month_number('date') }}) as month_number
    from {{ ref('mart_daily_sales') }}
),

cohorts as (
    select
        cohort_month,
        count(*) as months_count,
        min(months_since) as first_month,
        max({{ month_number('cohort_month') }} + months_since) as month_number,
        max(months_since) as last_month
    from retention
    group by cohort_month
),

faults as (
    select
        'customers or sales' as fault,
        null as cohort_month
    from customers
    cross join all_cohorts
    where
        customers.customers_count <> all_cohorts.customers_count
        or customers.sales <> all_cohorts.sales

    union all

    select
        'active customers' as fault,
        cohort_month
    from retention
    where
        active_customers > cohort_size
        or (months_since = 0 and (active_customers <> cohort_size or retention_rate <> 1))

    union all

    select
        'months' as fault,
        cohorts.cohort_month
    from cohorts
    cross join last_months
    where
        cohorts.first_month <> 0
        or cohorts.months_count <> cohorts.last_month + 1
        or cohorts.month_number <> last_months.month_number
)

select * from faults
