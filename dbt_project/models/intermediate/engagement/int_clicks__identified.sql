{#- What counts as a click, for all that is said of clicks. -#}
{{ config(materialized='view') }}

with

events as (
    select * from {{ ref('int_events__current') }}
    where
        deleted_at is null
        and event_type in ('click', 'view')
        and product_id is not null
),

products as (
    select product_id from {{ ref('int_products__current') }}
),

clicks as (
    select
        events.event_id,
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        events.user_id,
        events.occurred_at,
        {{ click_window('events.occurred_at') }} as window_start,
        events.first_received_at > {{ dateadd('hour', 1, 'events.occurred_at') }} as is_late
    from events
    left join products
        on events.product_id = products.product_id
)

select * from clicks
