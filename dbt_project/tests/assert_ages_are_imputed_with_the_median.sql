-- Every imputed age is the median of the ages that current users gave themselves, rounded half
-- up, and every user but the unknown one has an age as soon as one user has. Otherwise age
-- groups shift without any user changing.

with

dim_users as (
    select * from {{ ref('dim_users') }}
    where user_id <> {{ unknown_id('user') }}
),

median_age as (
    select {{ median_half_up('age') }} as age
    from dim_users
    where
        not is_age_imputed
        and deleted_at is null
)

select dim_users.*
from dim_users
cross join median_age
where
    (dim_users.is_age_imputed and dim_users.age <> median_age.age)
    or (dim_users.age is null and median_age.age is not null)
