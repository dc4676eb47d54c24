-- int_orders__totalled has each order of fact_orders once, as it is there, with what its lines sum
-- to. Otherwise all that is counted by order or by customer is of other sales.

with

-- What the orders lack: each line, less what the order has of it. Not kept, because it is looked at
-- again only when there is a fault.
lines as not materialized (
    select
        order_id,
        user_id,
        status <> 'cancelled' as is_purchase,
        ordered_at,
        1 as lines_count,
        quantity as units,
        amount,
        shipping_cost
    from {{ ref('fact_orders') }}

    union all

    select
        order_id,
        user_id,
        is_purchase,
        ordered_at,
        -lines_count as lines_count,
        -units as units,
        -amount as amount,
        -shipping_cost as shipping_cost
    from {{ ref('int_orders__totalled') }}
),

weighed as (
    select
        cast(lines_count as {{ wide_integer_type() }}) as lines_count,
        cast(units as {{ wide_integer_type() }}) as units,
        cast(amount * 10000 as {{ wide_integer_type() }}) as amount,
        cast(shipping_cost * 10000 as {{ wide_integer_type() }}) as shipping_cost,
        {{ fingerprint(['order_id', 'user_id', 'is_purchase', 'ordered_at']) }} as weight
    from lines
),

-- Of each order nothing is lacking where all sums are 0 whatever number an order is weighed with. So
-- millions of orders need no group each; which ones differ is asked only when one of these does.
compared as (
    select
        coalesce(sum(lines_count * weight), 0) <> 0
        or coalesce(sum(units * weight), 0) <> 0
        or coalesce(sum(amount * weight), 0) <> 0
        or coalesce(sum(shipping_cost * weight), 0) <> 0 as differ
    from weighed
),

differing as (
    select
        order_id,
        user_id,
        is_purchase,
        ordered_at,
        sum(lines_count) as missing_lines,
        sum(units) as missing_units,
        sum(amount) as missing_amount,
        sum(shipping_cost) as missing_shipping
    from lines
    where (select compared.differ from compared)
    group by order_id, user_id, is_purchase, ordered_at
    having
        sum(lines_count) <> 0
        or sum(units) <> 0
        or sum(amount) <> 0
        or sum(shipping_cost) <> 0
)

select * from differing
