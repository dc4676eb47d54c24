{#- Made anew by every build: whether an episode is an alert depends on the shop's latest click. It
    is cheap, because the clicks are read of those few hours alone in which a product can have been
    trending; fact_product_clicks tells them. -#}
{{ config(meta={'entities': ['events']}) }}

with

windows as (
    select * from {{ ref('fact_product_clicks') }}
    where product_id <> {{ unknown_id('product') }}
),

all_clicks as (
    select * from {{ ref('int_clicks__identified') }}
),

-- An hour touches at most 13 windows of five minutes, so one of them has a 13th of its clicks. Most
-- products never have that, and of their hours nothing need be summed.
bursting_products as (
    select product_id
    from windows
    where 13 * clicks >= {{ var('trending_clicks_min') }}
    group by product_id
),

hours as (
    select
        windows.product_id,
        date_trunc('hour', windows.window_start) as hour_start,
        sum(windows.clicks) as clicks
    from windows
    inner join bursting_products
        on windows.product_id = bursting_products.product_id
    group by windows.product_id, date_trunc('hour', windows.window_start)
),

hours_in_order as (
    select
        product_id,
        hour_start,
        clicks,
        lag(hour_start) over of_product as previous_start,
        lag(clicks) over of_product as previous_clicks
    from hours
    window of_product as (partition by product_id order by hour_start)
),

-- Whatever hour ends with a click of this one lies in this one and the one before.
busy_hours as (
    select
        product_id,
        hour_start,
        previous_start
    from hours_in_order
    where
        clicks + case
            when previous_start = {{ dateadd('hour', -1, 'hour_start') }} then previous_clicks
            else 0
        end >= {{ var('trending_clicks_min') }}
),

-- With the hour before, however far back it is: its clicks count into the busy hour, or they are
-- what ends an episode before it.
hours_to_read as (
    select
        product_id,
        hour_start
    from busy_hours

    union

    select
        product_id,
        previous_start as hour_start
    from busy_hours
    where previous_start is not null
),

clicks as (
    select
        all_clicks.product_id,
        all_clicks.occurred_at
    from all_clicks
    inner join hours_to_read
        on
            all_clicks.product_id = hours_to_read.product_id
            and date_trunc('hour', all_clicks.occurred_at) = hours_to_read.hour_start
),

counted as (
    select
        product_id,
        occurred_at,
        count(*) over (
            partition by product_id
            order by occurred_at
            {{ frame_of_an_hour() }}
        ) as clicks_within_hour
    from clicks
),

-- Clicks between which none is below the threshold have as many of those before them. Clicks of
-- one moment count alike, so that no order is needed among them.
numbered as (
    select
        product_id,
        occurred_at,
        clicks_within_hour,
        count(case when clicks_within_hour < {{ var('trending_clicks_min') }} then 1 end) over (
            partition by product_id
            order by occurred_at
            range between unbounded preceding and current row
        ) as episode
    from counted
),

with_peak as (
    select
        product_id,
        episode,
        occurred_at,
        clicks_within_hour,
        max(clicks_within_hour) over (partition by product_id, episode) as peak_clicks
    from numbered
    where clicks_within_hour >= {{ var('trending_clicks_min') }}
),

episodes as (
    select
        product_id,
        min(occurred_at) as started_at,
        max(occurred_at) as ended_at,
        count(*) as clicks,
        max(peak_clicks) as peak_clicks,
        min(case when clicks_within_hour = peak_clicks then occurred_at end) as peak_at
    from with_peak
    group by product_id, episode
),

last_window as (
    select max(window_start) as window_start from {{ ref('fact_product_clicks') }}
),

latest_click as (
    select max(all_clicks.occurred_at) as occurred_at
    from all_clicks
    cross join last_window
    where all_clicks.occurred_at >= last_window.window_start
),

mart_trending_products as (
    select
        episodes.product_id,
        episodes.started_at,
        episodes.ended_at,
        {{ date_id('episodes.started_at') }} as date_id,
        episodes.clicks,
        episodes.peak_clicks,
        episodes.peak_at,
        episodes.ended_at > {{ dateadd('hour', -1, 'latest_click.occurred_at') }} as is_alert
    from episodes
    cross join latest_click
)

select * from mart_trending_products
