-- Every current click is in one window of fact_product_clicks, in its hour and on its day, counted
-- by another route. Otherwise a late, repeated or corrected event left a window behind.

with

clicks as (
    select
        product_id,
        {{ datediff(beginning_of_time(), 'occurred_at', 'hour') }} as hours,
        1 as expected_clicks,
        0 as found_clicks
    from {{ ref('int_events__recounted') }}
    where
        not is_deleted
        and event_type in ('click', 'view')
        and product_id is not null
),

products as (
    select product_id from {{ ref('dim_products') }}
),

windows as (
    select
        product_id,
        window_start,
        date_id,
        clicks
    from {{ ref('fact_product_clicks') }}
),

counted as (
    select
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        clicks.hours,
        clicks.expected_clicks,
        clicks.found_clicks
    from clicks
    left join products
        on clicks.product_id = products.product_id

    union all

    select
        product_id,
        {{ datediff(beginning_of_time(), 'window_start', 'hour') }} as hours,
        0 as expected_clicks,
        clicks as found_clicks
    from windows
),

clicks_by_hour as (
    select
        product_id,
        hours,
        sum(expected_clicks) as expected_clicks,
        sum(found_clicks) as found_clicks
    from counted
    group by product_id, hours
),

-- Days are in the order of their windows: where the first and the last one of a day are its own,
-- all between them are.
windows_by_day as (
    select
        date_id,
        min(window_start) as first_window,
        max(window_start) as last_window
    from windows
    group by date_id
),

faults as (
    select
        'clicks of product ' || {{ as_text('product_id') }} || ' in hour ' || {{ as_text('hours') }}
        || ' since 1970' as fault,
        expected_clicks as expected,
        found_clicks as found
    from clicks_by_hour
    where expected_clicks <> found_clicks

    union all

    select
        'day of the windows from ' || {{ as_text('first_window') }} || ' to '
        || {{ as_text('last_window') }} as fault,
        {{ date_id('first_window') }} as expected,
        date_id as found
    from windows_by_day
    where
        date_id <> {{ date_id('first_window') }}
        or date_id <> {{ date_id('last_window') }}
        or date_id is null
)

select * from faults
