-- Every refund that raw has now is in fact_refunds with its amount, unless its order or line is
-- deleted, and no other is. Otherwise money that was given back still counts as earned.

with

refunds as (
    select * from {{ ref('int_refunds__recounted') }}
),

order_items as (
    select * from {{ ref('int_order_items__recounted') }}
),

deleted_orders as (
    select order_id from {{ ref('int_orders__recounted') }}
    where is_deleted
),

raw_refunds as (
    select
        'refund-' || refunds.refund_id as refund_line_id,
        refunds.amount,
        refunds.shipping_amount
    from refunds
    left join order_items
        on refunds.order_line_id = order_items.order_line_id
    left join deleted_orders
        on
            -- A line may name no order: then the order that the refund names does not count either.
            case
                when order_items.order_line_id is null then refunds.order_id
                else order_items.order_id
            end = deleted_orders.order_id
    where
        not refunds.is_deleted
        and not coalesce(order_items.is_deleted, false)
        and deleted_orders.order_id is null
),

fact_refunds as (
    select
        refund_line_id,
        amount,
        shipping_amount
    from {{ ref('fact_refunds') }}
    where kind = 'refund'
)

select
    raw_refunds.refund_line_id as raw_refund_line_id,
    fact_refunds.refund_line_id as fact_refund_line_id
from raw_refunds
full outer join fact_refunds
    on
        raw_refunds.refund_line_id = fact_refunds.refund_line_id
        and raw_refunds.amount = fact_refunds.amount
        and raw_refunds.shipping_amount = fact_refunds.shipping_amount
where
    raw_refunds.refund_line_id is null
    or fact_refunds.refund_line_id is null
