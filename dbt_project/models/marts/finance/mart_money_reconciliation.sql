with

recounted as (
    select * from {{ ref('int_money__recounted') }}
),

fact_orders as (
    select * from {{ ref('fact_orders') }}
),

fact_refunds as (
    select * from {{ ref('fact_refunds') }}
),

fact_adjustments as (
    select * from {{ ref('fact_adjustments') }}
),

dim_date as (
    select * from {{ ref('dim_date') }}
),

quarantine as (
    select * from {{ source('ops', 'quarantine') }}
    where replayed_load_id is null
),

sales_by_day as (
    select
        date_id,
        sum(amount) as sales,
        sum(shipping_cost) as shipping
    from fact_orders
    group by date_id
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
    select date_id from recounted
    union
    select date_id from sales_by_day
    union
    select date_id from refunds_by_day
    union
    select date_id from adjustments_by_day
),

-- A day of quarantine without money counts with the last day of money before it (else the
-- first), so that none is lost.
quarantine_by_own_day as (
    select
        {{ date_id(naive_utc('quarantined_at')) }} as date_id,
        count(*) as quarantined_rows
    from quarantine
    group by {{ date_id(naive_utc('quarantined_at')) }}
),

quarantine_by_known_day as (
    select
        quarantine_by_own_day.date_id as own_date_id,
        quarantine_by_own_day.quarantined_rows,
        coalesce(
            max(case when days.date_id <= quarantine_by_own_day.date_id then days.date_id end),
            min(days.date_id)
        ) as date_id
    from quarantine_by_own_day
    cross join days
    group by quarantine_by_own_day.date_id, quarantine_by_own_day.quarantined_rows
),

quarantined_by_day as (
    select
        date_id,
        sum(quarantined_rows) as quarantined_rows
    from quarantine_by_known_day
    group by date_id
),

amounts as (
    select
        days.date_id,
        dim_date.date,
        coalesce(recounted.raw_net_value, 0) as raw_net_value,
        coalesce(sales_by_day.sales, 0) as sales,
        coalesce(sales_by_day.shipping, 0) as shipping,
        coalesce(refunds_by_day.refunds, 0) as refunds,
        coalesce(adjustments_by_day.adjustments, 0) as adjustments,
        coalesce(quarantined_by_day.quarantined_rows, 0) as quarantined_rows
    from days
    left join dim_date
        on days.date_id = dim_date.date_id
    left join recounted
        on days.date_id = recounted.date_id
    left join sales_by_day
        on days.date_id = sales_by_day.date_id
    left join refunds_by_day
        on days.date_id = refunds_by_day.date_id
    left join adjustments_by_day
        on days.date_id = adjustments_by_day.date_id
    left join quarantined_by_day
        on days.date_id = quarantined_by_day.date_id
),

mart_money_reconciliation as (
    select
        date_id,
        date,
        {{ money('raw_net_value') }} as raw_net_value,
        {{ money('sales') }} as sales,
        {{ money('shipping') }} as shipping,
        {{ money('refunds') }} as refunds,
        {{ money('adjustments') }} as adjustments,
        {{ money('raw_net_value - (sales + shipping - refunds + adjustments)') }} as difference,
        cast(quarantined_rows as bigint) as quarantined_rows
    from amounts
)

select * from mart_money_reconciliation
