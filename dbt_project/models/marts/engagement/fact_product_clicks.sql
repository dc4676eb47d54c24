{#- A window depends on its own clicks alone, so only touched ones are counted again. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    meta={'touched': 'windows', 'entities': ['events']}
) }}

with

clicks as (
    select * from {{ ref('int_clicks__identified') }}
    where
        {{ is_touched_window('product_id', 'window_start') }}
        and {{ is_since_touched_windows('occurred_at') }}
),

fact_product_clicks as (
    select
        product_id,
        window_start,
        {{ date_id('window_start') }} as date_id,
        count(*) as clicks,
        count(distinct user_id) as known_users,
        count(case when is_late then 1 end) as late_clicks
    from clicks
    group by product_id, window_start
)

select * from fact_product_clicks
