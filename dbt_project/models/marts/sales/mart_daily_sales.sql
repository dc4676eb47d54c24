with

fact_orders as (
    select * from {{ ref('fact_orders') }}
),

fact_refunds as (
    select * from {{ ref('fact_refunds') }}
),

fact_adjustments as (
    select * from {{ ref('fact_adjustments') }}
),

orders as (
    select * from {{ ref('int_orders__totalled') }}
),

dim_date as (
    select * from {{ ref('dim_date') }}
),

sales_by_day as (
    select
        date_id,
        count(*) as lines_count,
        sum(quantity) as units_sold,
        sum(amount) as sales,
        sum(shipping_cost) as shipping
    from fact_orders
    group by date_id
),

-- Counted among orders: of lines, each of two distinct counts costs more than all sums.
orders_by_day as (
    select
        day,
        count(*) as orders_count,
        count(distinct user_id) as customers_count
    from orders
    group by day
),

refunds_by_day as (
    select
        date_id,
        sum(amount + shipping_amount) as refunds
    from fact_refunds
    group by date_id
),

adjustments_by_day as (
    select
        date_id,
        sum(amount) as adjustments
    from fact_adjustments
    group by date_id
),

days as (
    select date_id from sales_by_day
    union
    select date_id from refunds_by_day
    union
    select date_id from adjustments_by_day
),

mart_daily_sales as (
    select
        days.date_id,
        dim_date.date,
        cast(coalesce(orders_by_day.orders_count, 0) as bigint) as orders_count,
        cast(coalesce(sales_by_day.lines_count, 0) as bigint) as lines_count,
        cast(coalesce(sales_by_day.units_sold, 0) as bigint) as units_sold,
        cast(coalesce(orders_by_day.customers_count, 0) as bigint) as customers_count,
        {{ money('coalesce(sales_by_day.sales, 0)') }} as sales,
        {{ money('coalesce(sales_by_day.shipping, 0)') }} as shipping,
        {{ money('coalesce(refunds_by_day.refunds, 0)') }} as refunds,
        {{ money('coalesce(adjustments_by_day.adjustments, 0)') }} as adjustments,
        {{ money(
            'coalesce(sales_by_day.sales, 0) + coalesce(sales_by_day.shipping, 0)'
            ~ ' - coalesce(refunds_by_day.refunds, 0) + coalesce(adjustments_by_day.adjustments, 0)'
        ) }} as net_sales
    from days
    left join dim_date
        on days.date_id = dim_date.date_id
    left join sales_by_day
        on days.date_id = sales_by_day.date_id
    left join orders_by_day
        on dim_date.date = orders_by_day.day
    left join refunds_by_day
        on days.date_id = refunds_by_day.date_id
    left join adjustments_by_day
        on days.date_id = adjustments_by_day.date_id
)

select * from mart_daily_sales
