-- What a history says of a key now is what the dimension says of it, for every key and no other.
-- The two are computed apart; else a dashboard of today and a history's last row disagree.

with

users_now as (
    select
        dim_users.user_id,
        dim_users.name,
        dim_users.email,
        dim_users.is_email_valid,
        dim_users.phone,
        -- The dimension imputes ages, a history does not.
        int_users__current.age,
        dim_users.country,
        dim_users.registered_at,
        dim_users.deleted_at
    from {{ ref('dim_users') }} as dim_users
    left join {{ ref('int_users__current') }} as int_users__current
        on dim_users.user_id = int_users__current.user_id
),

user_versions as (
    select
        user_id,
        name,
        email,
        is_email_valid,
        phone,
        age,
        country,
        registered_at,
        deleted_at
    from {{ ref('dim_users_history') }}
    where is_current
),

products_now as (
    select
        product_id,
        name,
        category,
        price,
        deleted_at
    from {{ ref('dim_products') }}
),

product_versions as (
    select
        product_id,
        name,
        category,
        price,
        deleted_at
    from {{ ref('dim_products_history') }}
    where is_current
),

user_differences as (
    (
        select * from users_now
        except
        select * from user_versions
    )

    union all

    (
        select * from user_versions
        except
        select * from users_now
    )
),

product_differences as (
    (
        select * from products_now
        except
        select * from product_versions
    )

    union all

    (
        select * from product_versions
        except
        select * from products_now
    )
)

select
    'user' as member,
    cast(user_id as {{ type_string() }}) as member_id,
    name,
    deleted_at
from user_differences

union all

select
    'product' as member,
    cast(product_id as {{ type_string() }}) as member_id,
    name,
    deleted_at
from product_differences
