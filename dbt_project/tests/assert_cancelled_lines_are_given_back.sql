-- Every line of a cancelled order, and no other, has one cancellation, which gives back its
-- whole shipping and, with the refunds before it, at least its amount. Otherwise net sales
-- count orders that never happened.

with

cancelled_lines as (
    select * from {{ ref('fact_orders') }}
    where status = 'cancelled'
),

cancellations as (
    select * from {{ ref('fact_refunds') }}
    where kind = 'cancellation'
),

given_back as (
    select
        order_line_id,
        sum(amount) as amount
    from {{ ref('fact_refunds') }}
    group by order_line_id
)

select
    cancelled_lines.order_line_id,
    cancellations.refund_line_id
from cancelled_lines
full outer join cancellations
    on cancelled_lines.order_line_id = cancellations.order_line_id
left join given_back
    on cancelled_lines.order_line_id = given_back.order_line_id
where
    cancelled_lines.order_line_id is null
    or cancellations.order_line_id is null
    or cancellations.shipping_amount <> cancelled_lines.shipping_cost
    or cancellations.amount > cancelled_lines.amount
    or given_back.amount < cancelled_lines.amount
