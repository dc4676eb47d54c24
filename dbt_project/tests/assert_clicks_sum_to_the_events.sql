-- Every current click is in one window of fact_product_clicks, in its hour and on its day, counted
-- by another route. Otherwise a late, repeated or corrected event left a window behind.

with

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

-- As small numbers, because millions of them are compared.
counted as (
    select
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        {{ hours_since_1970('events.occurred_at') }} as hours,
        1 as clicks
    from {{ ref('int_events__recounted') }} as events
    left join products
        on events.product_id = products.product_id
    where
        not events.is_deleted
        and events.event_type in ('click', 'view')
        and events.product_id is not null

    union all

    select
        product_id,
        {{ hours_since_1970('window_start') }} as hours,
        cast(-clicks as integer) as clicks
    from windows
),

differing_hours as (
    select
        product_id,
        hours,
        sum(clicks) as missing_clicks
    from counted
    group by product_id, hours
    having sum(clicks) <> 0
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
        || ' since 1970 that the facts lack' as fault,
        missing_clicks as found
    from differing_hours

    union all

    select
        'day of the windows from ' || {{ as_text('first_window') }} || ' to '
        || {{ as_text('last_window') }} as fault,
        date_id as found
    from windows_by_day
    where
        date_id <> {{ date_id('first_window') }}
        or date_id <> {{ date_id('last_window') }}
        or date_id is null
)

select * from faults
