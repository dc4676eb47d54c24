-- A customer is known by a number and a country alone.
-- One row per received version of a line with a customer.
with

lines as (
    select * from {{ ref('base_online_retail__lines') }}
),

users as (
    select
        -- ids
        customer_id as user_id,

        -- text
        cast(null as {{ type_string() }}) as name,
        'unknown@example.com' as email,
        cast(null as {{ type_string() }}) as phone,
        country,

        -- numbers
        cast(null as integer) as age,

        -- booleans
        false as is_email_valid,

        -- timestamps
        cast(null as timestamp) as registered_at,

        -- version
        {{ technical_columns('invoiced_at', source_key='customer_id') }}
    from lines
    where customer_id is not null
)

select * from users
