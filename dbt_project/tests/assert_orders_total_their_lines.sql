-- int_orders__totalled has each order of fact_orders, once, as it is there, with what its lines sum
-- to, and no other. Otherwise all that is counted by order or by customer is of other sales.

with

-- What the orders lack: each line, less what the order has of it. Not kept, because it is looked at
-- again only when there is a fault.
lines as not materialized (
    select
        order_id,
        user_id,
        status <> 'cancelled' as is_purchase,
        ordered_at,
        date_id,
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
        {{ day_number('day') }} as date_id,
        -lines_count as lines_count,
        -units as units,
        -amount as amount,
        -shipping_cost as shipping_cost
    from {{ ref('int_orders__totalled') }}
),

compared as (
    select
        {{ is_unbalanced(
            ['lines_count', 'units', 'amount * 10000', 'shipping_cost * 10000'],
            ['order_id', 'user_id', 'is_purchase', 'ordered_at', 'date_id']
        ) }} as differ
    from lines
),

differing as (
    select
        order_id,
        user_id,
        is_purchase,
        ordered_at,
        date_id,
        sum(lines_count) as missing_lines,
        sum(units) as missing_units,
        sum(amount) as missing_amount,
        sum(shipping_cost) as missing_shipping
    from lines
    where (select compared.differ from compared)
    group by order_id, user_id, is_purchase, ordered_at, date_id
    having
        sum(lines_count) <> 0
        or sum(units) <> 0
        or sum(amount) <> 0
        or sum(shipping_cost) <> 0
),

-- What has as many lines as the facts may have them in two rows, or be a row without any.
counted as (
    select
        count(*) as orders,
        count(distinct order_id) as different_orders,
        count(case when lines_count >= 1 then 1 end) as orders_with_lines
    from {{ ref('int_orders__totalled') }}
),

faults as (
    select
        'of order ' || {{ as_text('order_id') }} || ' or its lines, something is missing' as fault,
        missing_lines,
        missing_units,
        missing_amount,
        missing_shipping
    from differing

    union all

    select
        'of ' || {{ as_text('orders') }} || ' orders, ' || {{ as_text('different_orders') }}
        || ' are different and ' || {{ as_text('orders_with_lines') }} || ' have lines' as fault,
        null as missing_lines,
        null as missing_units,
        null as missing_amount,
        null as missing_shipping
    from counted
    where
        orders <> different_orders
        or orders <> orders_with_lines
)

select * from faults
