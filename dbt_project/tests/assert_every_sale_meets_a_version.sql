-- A sale finds a version of its user and of its product at the time of its order; that it finds no
-- second one is what versions_follow tests. Otherwise a report by category of then loses revenue.

with

sales as (
    select
        order_line_id,
        user_id,
        product_id,
        ordered_at
    from {{ ref('fact_orders') }}
),

users_history as (
    select * from {{ ref('dim_users_history') }}
),

products_history as (
    select * from {{ ref('dim_products_history') }}
)

select sales.*
from sales
left join users_history
    on
        sales.user_id = users_history.user_id
        and {{ is_valid_at('users_history', 'sales.ordered_at') }}
left join products_history
    on
        sales.product_id = products_history.product_id
        and {{ is_valid_at('products_history', 'sales.ordered_at') }}
where
    users_history.user_id is null
    or products_history.product_id is null
