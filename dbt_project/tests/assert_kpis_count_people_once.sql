-- Whoever visits or buys is active, once in each period: a week has at least as many people as its
-- busiest day, and at most as many as its days together. Days follow one another without a gap,
-- from the first event on. Otherwise people are counted twice, or lost.

with

kpis as (
    select
        grain,
        period_start,
        period_end,
        orders_count,
        buyers,
        coalesce(visitors, 0) as visitors,
        active_users
    from {{ ref('mart_kpis') }}
),

days as (
    select * from kpis
    where grain = 'day'
),

longer_periods as (
    select
        kpis.grain,
        kpis.period_start,
        kpis.active_users,
        max(days.active_users) as most_active_users,
        sum(days.active_users) as active_users_of_days,
        max(days.visitors) as most_visitors,
        sum(days.visitors) as visitors_of_days,
        max(days.buyers) as most_buyers,
        sum(days.buyers) as buyers_of_days,
        max(kpis.visitors) as visitors,
        max(kpis.buyers) as buyers
    from kpis
    inner join days
        on days.period_start between kpis.period_start and kpis.period_end
    where kpis.grain <> 'day'
    group by
        kpis.grain,
        kpis.period_start,
        kpis.active_users
),

span as (
    select
        count(*) as days_count,
        min(period_start) as first_day,
        max(period_start) as last_day
    from days
),

events as (
    select
        {{ shop_day('min(occurred_at)') }} as first_day,
        {{ shop_day('max(occurred_at)') }} as last_day
    from {{ ref('int_events__current') }}
    where deleted_at is null
),

faults as (
    select
        'people of a period' as fault,
        grain,
        period_start
    from kpis
    where
        active_users < visitors
        or active_users < buyers
        or active_users > visitors + buyers
        or buyers > orders_count

    union all

    select
        'people of days and longer periods' as fault,
        grain,
        period_start
    from longer_periods
    where
        active_users not between most_active_users and active_users_of_days
        or visitors not between most_visitors and visitors_of_days
        or buyers not between most_buyers and buyers_of_days

    union all

    select
        'days are missing' as fault,
        'day' as grain,
        span.first_day as period_start
    from span
    cross join events
    where
        span.days_count <> {{ days_between('span.first_day', 'span.last_day') }} + 1
        or span.first_day > events.first_day
        or span.last_day < events.last_day
        or (span.days_count = 0 and events.first_day is not null)
)

select * from faults
