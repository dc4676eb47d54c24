with

source as (
    select * from {{ source('raw_web', 'events') }}
    where _sdc_load_id <= {{ load_bound() }}
),

events as (
    select
        -- ids
        cast({{ trimmed('event_id') }} as {{ type_string() }}) as event_id,
        {{ to_id('user_id', 'user') }} as user_id,
        {{ to_id('product_id', 'product') }} as product_id,

        -- text
        {{ lower_case(trimmed('event_type')) }} as event_type,

        -- timestamps
        {{ to_utc_timestamp('occurred_at') }} as occurred_at,

        {{ technical_columns(to_utc_timestamp('received_at'), source_key='event_id') }}
    from source
)

select * from events
