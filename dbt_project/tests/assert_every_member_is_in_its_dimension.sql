-- Every user and product that raw ever named is in its dimension, deleted ones with deleted_at,
-- beside one unknown member. Otherwise facts point to the unknown member although the shop
-- knows better.

with

raw_users as (
    select * from {{ ref('int_users__recounted') }}
),

raw_products as (
    select * from {{ ref('int_products__recounted') }}
),

expected as (
    select
        'user' as member,
        cast(user_id as {{ type_string() }}) as member_id,
        is_deleted
    from raw_users

    union all

    select
        'product' as member,
        cast(product_id as {{ type_string() }}) as member_id,
        is_deleted
    from raw_products

    union all

    select
        'user' as member,
        cast({{ unknown_id('user') }} as {{ type_string() }}) as member_id,
        false as is_deleted

    union all

    select
        'product' as member,
        cast({{ unknown_id('product') }} as {{ type_string() }}) as member_id,
        false as is_deleted
),

found as (
    select
        'user' as member,
        cast(user_id as {{ type_string() }}) as member_id,
        deleted_at is not null as is_deleted
    from {{ ref('dim_users') }}

    union all

    select
        'product' as member,
        cast(product_id as {{ type_string() }}) as member_id,
        deleted_at is not null as is_deleted
    from {{ ref('dim_products') }}
)

select
    expected.member_id as expected_id,
    found.member_id as found_id
from expected
full outer join found
    on
        expected.member = found.member
        and expected.member_id = found.member_id
        and expected.is_deleted = found.is_deleted
where
    expected.member_id is null
    or found.member_id is null
