-- The shares of an order's lines sum to the order's shipping exactly, and shipping without
-- lines is an adjustment. Otherwise the spreading loses or invents cents.

with

orders as (
    select * from {{ ref('int_orders__recounted') }}
    where not is_deleted
),

shipping_lines as (
    select
        order_id,
        sum(amount) as amount
    from {{ ref('int_shipping_lines__recounted') }}
    where not is_deleted
    group by order_id
),

charged as (
    select
        orders.order_id,
        orders.shipping_cost + coalesce(shipping_lines.amount, 0) as shipping
    from orders
    left join shipping_lines
        on orders.order_id = shipping_lines.order_id
),

spread as (
    select
        order_id,
        shipping_cost as shipping
    from {{ ref('fact_orders') }}

    union all

    select
        order_id,
        amount as shipping
    from {{ ref('fact_adjustments') }}
    where kind = 'shipping_without_lines'
),

spread_by_order as (
    select
        order_id,
        sum(shipping) as shipping
    from spread
    group by order_id
)

select
    charged.order_id,
    charged.shipping as charged,
    spread_by_order.shipping as spread
from charged
full outer join spread_by_order
    on charged.order_id = spread_by_order.order_id
where coalesce(charged.shipping, 0) <> coalesce(spread_by_order.shipping, 0)
