-- Every current click is in its window of fact_product_clicks, and on its day, counted by another
-- route. Otherwise a late, repeated or corrected event left a window behind.
{%- set prime = 2147483647 %}

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

-- As small numbers, because millions of them are compared. Not kept, because they are looked at
-- again only when there is a fault.
counted as not materialized (
    select
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        {{ spans_since_1970('events.occurred_at', 5) }} as place,
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
        {{ spans_since_1970('window_start', 5) }} as place,
        cast(-clicks as integer) as clicks
    from windows
),

-- A product's windows are equal where four sums are: of their clicks, and of these times the first
-- three powers of their place in time, as remainders of a prime. Faults in up to four windows of a
-- product cannot cancel out in all four (DECISIONS.md), and millions of windows need no group each.
squared as (
    select
        product_id,
        clicks,
        cast(place as bigint) as place,
        cast(place as bigint) * place % {{ prime }} as square
    from counted
),

differing_products as (
    select product_id
    from squared
    group by product_id
    having
        sum(clicks) <> 0
        or sum(clicks * place) <> 0
        or sum(clicks * square) <> 0
        or sum(clicks * (square * place % {{ prime }})) <> 0
),

differing_windows as (
    select
        product_id,
        place,
        sum(clicks) as missing_clicks
    from counted
    where product_id in (select differing_products.product_id from differing_products)
    group by product_id, place
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
        'clicks of product '
        || {{ as_text('product_id') }}
        || ' in window '
        || {{ as_text('place') }}
        || ' since 1970 that the facts lack' as fault,
        missing_clicks as found
    from differing_windows

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
