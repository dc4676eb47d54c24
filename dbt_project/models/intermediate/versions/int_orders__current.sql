{{ config(unique_key='order_id') }}

{{ current_versions('orders', presence='ordered_at') }},

statuses as (
    select * from {{ ref('statuses') }}
),

with_accepted_status as (
    select
        current_rows.order_id,
        current_rows.user_id,
        -- A word that the seed lacks stays as it is, and the test of accepted statuses blocks
        -- publishing.
        coalesce(statuses.status, current_rows.status) as status,
        current_rows.ordered_at,
        current_rows.cancelled_at,
        current_rows.shipping_cost,
        current_rows.currency,
        current_rows.deleted_at,
        current_rows._version_at,
        current_rows._first_load_id,
        current_rows._changed_load_id
    from current_rows
    left join statuses
        on current_rows.status = statuses.raw_status
)

select * from with_accepted_status
