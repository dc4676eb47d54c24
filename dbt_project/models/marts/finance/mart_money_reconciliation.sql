with

recounted as (
    select * from {{ ref('int_money__recounted') }}
),

mart_daily_sales as (
    select * from {{ ref('mart_daily_sales') }}
),

dim_date as (
    select * from {{ ref('dim_date') }}
),

quarantine as (
    select * from {{ source('ops', 'quarantine') }}
    where replayed_load_id is null
),

days as (
    select date_id from recounted
    union
    select date_id from mart_daily_sales
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
        coalesce(mart_daily_sales.sales, 0) as sales,
        coalesce(mart_daily_sales.shipping, 0) as shipping,
        coalesce(mart_daily_sales.refunds, 0) as refunds,
        coalesce(mart_daily_sales.adjustments, 0) as adjustments,
        coalesce(quarantined_by_day.quarantined_rows, 0) as quarantined_rows
    from days
    left join dim_date
        on days.date_id = dim_date.date_id
    left join recounted
        on days.date_id = recounted.date_id
    left join mart_daily_sales
        on days.date_id = mart_daily_sales.date_id
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
