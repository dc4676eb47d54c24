{#- A user's row depends on that user alone, but for an age that is the median of all: when it
    moves, whoever has it is made anew too. -#}
{{ config(materialized='incremental', unique_key='user_id', on_schema_change='fail') }}

with

users as (
    select * from {{ ref('int_users__current') }}
),

age_groups as (
    select * from {{ ref('age_groups') }}
),

median_age as (
    select {{ median_half_up('age') }} as age
    from users
    where deleted_at is null
),

with_imputed_age as (
    select
        users.user_id,
        users.name,
        users.email,
        users.is_email_valid,
        users.phone,
        coalesce(users.age, median_age.age) as age,
        users.age is null and median_age.age is not null as is_age_imputed,
        users.country,
        users.registered_at,
        users.deleted_at
    from users
    cross join median_age
    where
        {{ is_news('users._changed_load_id') }}
        or (users.age is null and median_age.age is distinct from {{ age_imputed_until_now() }})
),

known_users as (
    select
        with_imputed_age.user_id,
        with_imputed_age.name,
        -- A user of whom only a deletion is known has no address either.
        coalesce(with_imputed_age.email, 'unknown@example.com') as email,
        coalesce(with_imputed_age.is_email_valid, false) as is_email_valid,
        with_imputed_age.phone,
        with_imputed_age.age,
        with_imputed_age.is_age_imputed,
        coalesce(age_groups.age_group, 'Unknown') as age_group,
        with_imputed_age.country,
        with_imputed_age.registered_at,
        with_imputed_age.deleted_at
    from with_imputed_age
    left join age_groups
        on
            with_imputed_age.age > age_groups.age_above
            and with_imputed_age.age <= age_groups.age_up_to
),

unknown_user as (
    select
        {{ unknown_id('user') }} as user_id,
        'unknown' as name,
        'unknown@example.com' as email,
        false as is_email_valid,
        cast(null as {{ type_string() }}) as phone,
        cast(null as integer) as age,
        false as is_age_imputed,
        'Unknown' as age_group,
        'unknown' as country,
        cast(null as timestamp) as registered_at,
        cast(null as timestamp) as deleted_at
),

dim_users as (
    select * from known_users
    union all
    select * from unknown_user
)

select * from dim_users
