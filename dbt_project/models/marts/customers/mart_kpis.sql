{#- Made in full on each run: people counted by week and month do not add up from days, and a late
    event may fall into any of them. It reads one row per order, and three columns of the events
    (DECISIONS.md has the time). -#}
with

events as (
    select * from {{ ref('int_events__current') }}
    where deleted_at is null
),

users as (
    select * from {{ ref('dim_users') }}
    where user_id <> {{ unknown_id('user') }}
),

purchases as (
    select * from {{ ref('int_orders__totalled') }}
    where is_purchase
),

daily_sales as (
    select * from {{ ref('mart_daily_sales') }}
),

dim_date as (
    select * from {{ ref('dim_date') }}
),

last_day as (
    select max(date) as day from daily_sales
),

timed_events as (
    select
        user_id,
        occurred_at,
        {{ spans_since_1970('occurred_at', 15) }} as quarter_hour
    from events
),

-- In every time zone a day begins on a quarter of an hour (but in Newfoundland's, on one night of
-- each year until 2011): looking up the day of each of these, and not of each event, saves most of
-- this model's time.
quarter_hours as (
    select
        quarter_hour,
        {{ shop_day('min(occurred_at)') }} as day
    from timed_events
    group by quarter_hour
),

used_days as (
    select date as day from daily_sales
    union all
    select day from quarter_hours
),

span as (
    select
        min(day) as first_day,
        max(day) as last_day
    from used_days
),

periods_of_days as (
    select
        dim_date.date as day,
        {{ first_of_week('dim_date.date') }} as week_start,
        {{ first_of_month('dim_date.date') }} as month_start
    from dim_date
    cross join span
    where dim_date.date between span.first_day and span.last_day
),

-- 1 for a visit, 2 for a purchase, 3 for both: one number to aggregate, and events are not made
-- distinct before purchases join them.
visits_and_purchases as (
    select
        timed_events.user_id,
        quarter_hours.day,
        1 as seen_as
    from timed_events
    inner join quarter_hours
        on timed_events.quarter_hour = quarter_hours.quarter_hour

    union all

    select
        user_id,
        day,
        2 as seen_as
    from purchases
),

days_of_anybody as (
    select
        user_id,
        day,
        bit_or(seen_as) as seen_as
    from visits_and_purchases
    group by
        user_id,
        day
),

-- Looked up when each is there once.
user_days as (
    select days_of_anybody.* from days_of_anybody
    inner join users
        on days_of_anybody.user_id = users.user_id
),

user_periods as (
    select
        'day' as grain,
        user_id,
        day as period_start,
        seen_as
    from user_days

    union all

    select
        'week' as grain,
        user_id,
        {{ first_of_week('day') }} as period_start,
        bit_or(seen_as) as seen_as
    from user_days
    group by
        user_id,
        {{ first_of_week('day') }}

    union all

    select
        'month' as grain,
        user_id,
        {{ first_of_month('day') }} as period_start,
        bit_or(seen_as) as seen_as
    from user_days
    group by
        user_id,
        {{ first_of_month('day') }}
),

people as (
    select
        grain,
        period_start,
        count(case when seen_as >= 2 then 1 end) as buyers,
        count(case when seen_as <> 2 then 1 end) as visitors,
        count(*) as active_users,
        count(case when seen_as = 3 then 1 end) as buying_visitors
    from user_periods
    group by
        grain,
        period_start
),

purchases_by_day as (
    select
        day,
        count(*) as orders_count,
        sum(amount) as amount
    from purchases
    group by day
),

days as (
    select
        periods_of_days.day,
        periods_of_days.week_start,
        periods_of_days.month_start,
        coalesce(daily_sales.sales, 0) as sales,
        coalesce(daily_sales.net_sales, 0) as revenue,
        coalesce(purchases_by_day.orders_count, 0) as orders_count,
        coalesce(purchases_by_day.amount, 0) as purchased_amount
    from periods_of_days
    left join daily_sales
        on periods_of_days.day = daily_sales.date
    left join purchases_by_day
        on periods_of_days.day = purchases_by_day.day
),

periods as (
    select
        'day' as grain,
        day as period_start,
        day as period_end,
        sales,
        revenue,
        orders_count,
        purchased_amount
    from days

    union all

    select
        'week' as grain,
        week_start as period_start,
        {{ add_days('week_start', 6) }} as period_end,
        sum(sales) as sales,
        sum(revenue) as revenue,
        sum(orders_count) as orders_count,
        sum(purchased_amount) as purchased_amount
    from days
    group by week_start

    union all

    select
        'month' as grain,
        month_start as period_start,
        {{ last_of_month('month_start') }} as period_end,
        sum(sales) as sales,
        sum(revenue) as revenue,
        sum(orders_count) as orders_count,
        sum(purchased_amount) as purchased_amount
    from days
    group by month_start
),

mart_kpis as (
    select
        periods.grain,
        periods.period_start,
        periods.period_end,
        coalesce(periods.period_end <= last_day.day, false) as is_complete,
        {{ money('periods.sales') }} as sales,
        {{ money('periods.revenue') }} as revenue,
        cast(periods.orders_count as bigint) as orders_count,
        {{ average_money('periods.purchased_amount', 'periods.orders_count') }}
            as average_order_value,
        cast(coalesce(people.buyers, 0) as bigint) as buyers,
        cast({{ 'coalesce(people.visitors, 0)' if has_entity('events') else 'null' }} as bigint)
            as visitors,
        cast(coalesce(people.active_users, 0) as bigint) as active_users,
        {{ ratio('people.buying_visitors', 'people.visitors') }} as conversion_rate
    from periods
    cross join last_day
    left join people
        on
            periods.grain = people.grain
            and periods.period_start = people.period_start
)

select * from mart_kpis
