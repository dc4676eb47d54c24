-- Days, weeks and months of mart_kpis each sum to the facts in sales, revenue and purchases.
-- Otherwise a day belongs to two weeks, or to none.

with

daily_sales as (
    select
        coalesce(sum(sales), 0) as sales,
        coalesce(sum(net_sales), 0) as revenue
    from {{ ref('mart_daily_sales') }}
),

-- assert_orders_total_their_lines holds these orders to be the facts'.
purchases as (
    select count(*) as orders_count
    from {{ ref('int_orders__totalled') }}
    where is_purchase
),

grains as (
    select 'day' as grain
    union all
    select 'week' as grain
    union all
    select 'month' as grain
),

kpis as (
    select
        grain,
        sum(sales) as sales,
        sum(revenue) as revenue,
        sum(orders_count) as orders_count
    from {{ ref('mart_kpis') }}
    group by grain
)

select
    grains.grain,
    kpis.sales,
    kpis.revenue,
    kpis.orders_count
from grains
cross join daily_sales
cross join purchases
left join kpis
    on grains.grain = kpis.grain
where
    coalesce(kpis.sales, 0) <> daily_sales.sales
    or coalesce(kpis.revenue, 0) <> daily_sales.revenue
    or coalesce(kpis.orders_count, 0) <> purchases.orders_count
