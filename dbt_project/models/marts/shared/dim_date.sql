with

used_days as (
    select date_id from {{ ref('fact_orders') }}
    union all
    select date_id from {{ ref('fact_refunds') }}
    union all
    select date_id from {{ ref('fact_adjustments') }}
    union all
    select {{ date_id('min(occurred_at)') }} as date_id from {{ ref('int_events__current') }}
    where deleted_at is null
    union all
    select {{ date_id('max(occurred_at)') }} as date_id from {{ ref('int_events__current') }}
    where deleted_at is null
    union all
    select {{ date_id('recorded_at') }} as date_id from {{ ref('int_stock_levels__current') }}
    where deleted_at is null
),

-- Whole years, so that a year's report has all of its days.
years as (
    select
        cast(floor(min(date_id) / 10000) as integer) as first_year,
        cast(floor(max(date_id) / 10000) as integer) as last_year
    from used_days
),

-- 0 to 99,999: 273 years
numbers as (
    {{ whole_numbers(5) }}
),

candidate_days as (
    select
        years.last_year,
        {{ add_days('make_date(years.first_year, 1, 1)', 'numbers.number') }} as day
    from numbers
    cross join years
),

days as (
    select day
    from candidate_days
    where extract(year from day) <= last_year
),

dim_date as (
    select
        {{ day_number('day') }} as date_id,
        day as date,
        cast(extract(year from day) as integer) as year,
        cast(extract(quarter from day) as integer) as quarter,
        cast(extract(month from day) as integer) as month,
        cast(extract(day from day) as integer) as day,
        {{ day_of_week('day') }} as day_of_week,
        {{ day_of_week('day') }} >= 6 as is_weekend
    from days
)

select * from dim_date
