-- Every current click is in one window of fact_product_clicks, counted from staging by another
-- route. Otherwise a late, repeated or corrected event left a window behind.

with

events as (
    select * from {{ recounted('events', ['event_type', 'product_id', 'occurred_at']) }}
        as recounted
    where
        not is_deleted
        and event_type in ('click', 'view')
        and product_id is not null
),

products as (
    select product_id from {{ ref('dim_products') }}
),

expected as (
    select
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        {{ date_id('events.occurred_at') }} as date_id,
        extract(hour from events.occurred_at) as hour_of_day,
        count(*) as clicks
    from events
    left join products
        on events.product_id = products.product_id
    group by
        coalesce(products.product_id, {{ unknown_id('product') }}),
        {{ date_id('events.occurred_at') }},
        extract(hour from events.occurred_at)
),

found as (
    select
        product_id,
        date_id,
        extract(hour from window_start) as hour_of_day,
        sum(clicks) as clicks
    from {{ ref('fact_product_clicks') }}
    group by product_id, date_id, extract(hour from window_start)
)

select
    expected.clicks as expected_clicks,
    found.clicks as found_clicks,
    coalesce(expected.product_id, found.product_id) as product_id,
    coalesce(expected.date_id, found.date_id) as date_id
from expected
full outer join found
    on
        expected.product_id = found.product_id
        and expected.date_id = found.date_id
        and expected.hour_of_day = found.hour_of_day
where coalesce(expected.clicks, 0) <> coalesce(found.clicks, 0)
