-- The clicks of each episode, and those of the hour that ends with its peak, counted one by one
-- from the events; and no full hour that reaches the threshold is without its episode. Otherwise
-- somebody is alarmed for nothing, or is not alarmed.

with

clicks as (
    select * from {{ ref('int_clicks__identified') }}
    where product_id <> {{ unknown_id('product') }}
),

windows as (
    select * from {{ ref('fact_product_clicks') }}
    where product_id <> {{ unknown_id('product') }}
),

episodes as (
    select * from {{ ref('mart_trending_products') }}
),

counted as (
    select
        episodes.product_id,
        episodes.started_at,
        count(case when clicks.occurred_at >= episodes.started_at then 1 end) as clicks,
        count(
            case
                when
                    clicks.occurred_at <= episodes.peak_at
                    and clicks.occurred_at > {{ dateadd('hour', -1, 'episodes.peak_at') }}
                    then 1
            end
        ) as peak_clicks,
        count(
            case
                when
                    clicks.occurred_at <= episodes.started_at
                    and clicks.occurred_at > {{ dateadd('hour', -1, 'episodes.started_at') }}
                    then 1
            end
        ) as clicks_at_start
    from episodes
    inner join clicks
        on
            episodes.product_id = clicks.product_id
            and {{ dateadd('hour', -1, 'episodes.started_at') }} < clicks.occurred_at
            and episodes.ended_at >= clicks.occurred_at
    group by episodes.product_id, episodes.started_at
),

wrong_episodes as (
    select
        episodes.product_id,
        episodes.started_at,
        'the clicks are others' as fault
    from episodes
    left join counted
        on
            episodes.product_id = counted.product_id
            and episodes.started_at = counted.started_at
    where
        counted.product_id is null
        or counted.clicks <> episodes.clicks
        or counted.peak_clicks <> episodes.peak_clicks
        or counted.clicks_at_start < {{ var('trending_clicks_min') }}
),

-- Twelve windows make a full hour, and one of them has a twelfth of its clicks. That no window
-- lacks a click is tested by assert_clicks_sum_to_the_events.
bursting_products as (
    select product_id
    from windows
    where 12 * clicks >= {{ var('trending_clicks_min') }}
    group by product_id
),

-- From full hour to full hour, which is not all that the rule says, but found another way.
full_hours as (
    select
        windows.product_id,
        date_trunc('hour', windows.window_start) as hour_start,
        sum(windows.clicks) as clicks
    from windows
    inner join bursting_products
        on windows.product_id = bursting_products.product_id
    group by windows.product_id, date_trunc('hour', windows.window_start)
),

missing_episodes as (
    select
        full_hours.product_id,
        full_hours.hour_start as started_at,
        'there is no episode' as fault
    from full_hours
    left join episodes
        on
            full_hours.product_id = episodes.product_id
            and full_hours.hour_start <= episodes.ended_at
            and episodes.started_at < {{ dateadd('hour', 1, 'full_hours.hour_start') }}
    where
        full_hours.clicks >= {{ var('trending_clicks_min') }}
        and episodes.product_id is null
)

select * from wrong_episodes
union all
select * from missing_episodes
