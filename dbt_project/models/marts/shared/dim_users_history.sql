{{ config(materialized='incremental', unique_key='user_id', on_schema_change='fail') }}

with

user_versions as (
    select * from {{ ref('int_users__versioned') }}
    where {{ is_news('_changed_load_id') }}
),

known_users as (
    select
        user_id,
        version_number,
        name,
        email,
        is_email_valid,
        phone,
        age,
        country,
        registered_at,
        deleted_at,
        _version_at as version_at,
        valid_from,
        valid_to,
        is_current
    from user_versions
),

unknown_user as (
    select
        {{ unknown_id('user') }} as user_id,
        1 as version_number,
        'unknown' as name,
        'unknown@example.com' as email,
        false as is_email_valid,
        cast(null as {{ type_string() }}) as phone,
        cast(null as integer) as age,
        'unknown' as country,
        cast(null as timestamp) as registered_at,
        cast(null as timestamp) as deleted_at,
        cast(null as timestamp) as version_at,
        {{ beginning_of_time() }} as valid_from,
        cast(null as timestamp) as valid_to,
        true as is_current
),

dim_users_history as (
    select * from known_users
    union all
    select * from unknown_user
)

select * from dim_users_history
