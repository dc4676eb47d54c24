-- What a history says of a key now is what the dimension says of it, for every key and no other.
-- The two are computed apart; else a dashboard of today and a history's last row disagree.

with

users_now as (
    select
        user_id,
        name,
        email,
        is_email_valid,
        phone,
        -- The dimension imputes ages, a history does not.
        case when not is_age_imputed then age end as age,
        country,
        registered_at,
        deleted_at
    from {{ ref('dim_users') }}
),

user_versions as (
    select * from {{ ref('dim_users_history') }}
    where is_current
),

products_now as (
    select * from {{ ref('dim_products') }}
),

product_versions as (
    select * from {{ ref('dim_products_history') }}
    where is_current
)

select
    'user' as member,
    cast(coalesce(users_now.user_id, user_versions.user_id) as {{ type_string() }}) as member_id,
    users_now.name as name_now,
    user_versions.name as name_in_history
from users_now
full outer join user_versions
    on users_now.user_id = user_versions.user_id
where
    {{ is_otherwise('users_now', 'user_versions', 'user_id', [
        'name', 'email', 'is_email_valid', 'phone', 'age', 'country', 'registered_at', 'deleted_at'
    ]) }}

union all

select
    'product' as member,
    cast(
        coalesce(products_now.product_id, product_versions.product_id) as {{ type_string() }}
    ) as member_id,
    products_now.name as name_now,
    product_versions.name as name_in_history
from products_now
full outer join product_versions
    on products_now.product_id = product_versions.product_id
where
    {{ is_otherwise('products_now', 'product_versions', 'product_id', [
        'name', 'category', 'price', 'deleted_at'
    ]) }}
