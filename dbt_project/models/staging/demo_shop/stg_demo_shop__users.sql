with

source as (
    select * from {{ source('raw_crm', 'users') }}
    where _sdc_load_id <= {{ load_bound() }}
),

users as (
    select
        -- ids
        {{ to_id('user_id', 'user') }} as user_id,

        -- text
        nullif({{ trimmed('name') }}, '') as name,
        {{ clean_email('email') }} as email,
        {{ is_valid_email('email') }} as is_email_valid,
        {{ clean_phone('phone') }} as phone,

        -- numbers
        {{ clean_age('age') }} as age,

        -- text
        nullif({{ trimmed('country') }}, '') as country,

        -- timestamps
        {{ to_utc_timestamp('registered_at') }} as registered_at,

        {{ technical_columns(to_utc_timestamp('updated_at'), source_key='user_id') }}
    from source
)

select * from users
