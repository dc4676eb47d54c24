-- Every order line that raw has now, of an order that is not deleted, is either a sale or an
-- adjustment, and nothing else is. Otherwise rows got lost or were counted twice in a way that
-- sums to zero.

with

order_items as (
    select * from {{ recounted('order_items', ['order_id', 'amount']) }} as recounted
),

orders as (
    select * from {{ recounted('orders', []) }} as recounted
),

raw_lines as (
    select
        cast(order_items.order_line_id as {{ type_string() }}) as order_line_id,
        order_items.amount
    from order_items
    left join orders
        on order_items.order_id = orders.order_id
    where
        not order_items.is_deleted
        and not coalesce(orders.is_deleted, false)
),

fact_lines as (
    select
        cast(order_line_id as {{ type_string() }}) as order_line_id,
        amount
    from {{ ref('fact_orders') }}

    union all

    select
        substr(adjustment_id, 6) as order_line_id,
        amount
    from {{ ref('fact_adjustments') }}
    where kind in ('line_without_order', 'negative_line')
),

counted as (
    select
        order_line_id,
        amount,
        1 as in_raw,
        0 as in_facts
    from raw_lines

    union all

    select
        order_line_id,
        amount,
        0 as in_raw,
        1 as in_facts
    from fact_lines
),

compared as (
    select
        order_line_id,
        amount,
        sum(in_raw) as times_in_raw,
        sum(in_facts) as times_in_facts
    from counted
    group by order_line_id, amount
)

select *
from compared
where
    times_in_raw <> 1
    or times_in_facts <> 1
