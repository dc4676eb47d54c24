-- The days of mart_daily_sales sum to the facts, in money, lines and units. Otherwise a day got
-- lost, or was joined twice.

with

facts as (
    select
        count(*) as lines_count,
        coalesce(sum(quantity), 0) as units_sold,
        coalesce(sum(amount), 0) as sales,
        coalesce(sum(shipping_cost), 0) as shipping
    from {{ ref('fact_orders') }}
),

refunds as (
    select coalesce(sum(amount + shipping_amount), 0) as refunds
    from {{ ref('fact_refunds') }}
),

adjustments as (
    select coalesce(sum(amount), 0) as adjustments
    from {{ ref('fact_adjustments') }}
),

orders as (
    -- An order has one day, so that orders_count is additive. assert_orders_total_their_lines holds
    -- these orders to be the facts'.
    select count(*) as orders_count
    from {{ ref('int_orders__totalled') }}
),

days as (
    select
        coalesce(sum(orders_count), 0) as orders_count,
        coalesce(sum(lines_count), 0) as lines_count,
        coalesce(sum(units_sold), 0) as units_sold,
        coalesce(sum(sales), 0) as sales,
        coalesce(sum(shipping), 0) as shipping,
        coalesce(sum(refunds), 0) as refunds,
        coalesce(sum(adjustments), 0) as adjustments,
        coalesce(sum(net_sales), 0) as net_sales,
        count(case when customers_count > orders_count then 1 end) as days_with_too_many_customers
    from {{ ref('mart_daily_sales') }}
)

select days.*
from days
cross join facts
cross join refunds
cross join adjustments
cross join orders
where
    days.orders_count <> orders.orders_count
    or days.lines_count <> facts.lines_count
    or days.units_sold <> facts.units_sold
    or days.sales <> facts.sales
    or days.shipping <> facts.shipping
    or days.refunds <> refunds.refunds
    or days.adjustments <> adjustments.adjustments
    or days.net_sales <> facts.sales + facts.shipping - refunds.refunds + adjustments.adjustments
    or days.days_with_too_many_customers > 0
