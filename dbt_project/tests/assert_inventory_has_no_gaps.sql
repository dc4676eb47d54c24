-- Each known product that was counted has a row for every day from its first count to the shop's
-- last count or its own end; otherwise a day's stock, and what it was worth, is missing.

with

counts as (
    select
        product_id,
        {{ shop_day('recorded_at') }} as date
    from {{ ref('int_stock_levels__current') }}
    where deleted_at is null
),

products as (
    select
        product_id,
        {{ shop_day('deleted_at') }} as deleted_on
    from {{ ref('dim_products') }}
    where product_id <> {{ unknown_id('product') }}
),

last_day as (
    select max(date) as date from counts
),

spans as (
    select
        counts.product_id,
        min(counts.date) as first_date,
        min(least(coalesce(products.deleted_on, last_day.date), last_day.date)) as last_date
    from counts
    inner join products
        on counts.product_id = products.product_id
    cross join last_day
    group by counts.product_id
),

expected as (
    select
        product_id,
        first_date,
        last_date,
        {{ datediff('first_date', 'last_date', 'day') }} + 1 as days  -- noqa: LT05
    from spans
    where first_date <= last_date
),

found as (
    select
        fact_inventory_daily.product_id,
        min(dim_date.date) as first_date,
        max(dim_date.date) as last_date,
        count(distinct dim_date.date) as days
    from {{ ref('fact_inventory_daily') }} as fact_inventory_daily
    inner join {{ ref('dim_date') }} as dim_date
        on fact_inventory_daily.date_id = dim_date.date_id
    group by fact_inventory_daily.product_id
)

select
    expected.product_id as expected_id,
    found.product_id as found_id
from expected
full outer join found
    on
        expected.product_id = found.product_id
        and expected.first_date = found.first_date
        and expected.last_date = found.last_date
        and expected.days = found.days
where
    expected.product_id is null
    or found.product_id is null
