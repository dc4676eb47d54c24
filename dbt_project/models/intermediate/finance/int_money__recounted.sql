{#- Raw's money by transaction day, from the recounted rows and by its own route: nothing here reads
    int_*__current or a fact. Made of all rows by every build, so amounts are summed by order before
    anything is joined, and only what few orders need is looked at line by line. -#}
{{ config(materialized='table') }}

with

statuses as (
    select * from {{ ref('statuses') }}
),

orders as (
    select * from {{ ref('int_orders__recounted') }}
),

order_items as (
    select * from {{ ref('int_order_items__recounted') }}
),

valid_lines as (
    select * from order_items
    where not is_deleted
),

shipping_of_orders as (
    select
        order_id,
        sum(amount) as amount
    from {{ ref('int_shipping_lines__recounted') }}
    where not is_deleted
    group by order_id
),

lines_of_orders as (
    select
        order_id,
        sum(amount) as amount,
        max(case when amount >= 0 then 1 else 0 end) as has_sales
    from valid_lines
    group by order_id
),

valid_orders as (
    select
        orders.order_id,
        orders.ordered_at,
        orders.shipping_cost + coalesce(shipping_of_orders.amount, 0) as shipping,
        coalesce(lines_of_orders.amount, 0) as amount,
        lines_of_orders.has_sales,
        case
            when coalesce(statuses.status, orders.status) = 'cancelled'
                then coalesce(orders.cancelled_at, orders._version_at)
        end as cancelled_at
    from orders
    left join lines_of_orders
        on orders.order_id = lines_of_orders.order_id
    left join shipping_of_orders
        on orders.order_id = shipping_of_orders.order_id
    left join statuses
        on orders.status = statuses.raw_status
    where not orders.is_deleted
),

cancelled_orders as (
    select * from valid_orders
    where cancelled_at is not null
),

deleted_orders as (
    select order_id from orders
    where is_deleted
),

lines_without_order as (
    select
        valid_lines.amount,
        coalesce(valid_lines.created_at, valid_lines._version_at) as happened_at
    from valid_lines
    left join orders
        on valid_lines.order_id = orders.order_id
    where orders.order_id is null
),

valid_refunds as (
    select
        refunds.order_line_id,
        refunds.amount,
        coalesce(refunds.shipping_amount, 0) as shipping_amount,
        refunds.refunded_at
    from {{ ref('int_refunds__recounted') }} as refunds
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

cancelled_lines as (
    select
        valid_lines.order_line_id,
        valid_lines.amount,
        cancelled_orders.cancelled_at
    from valid_lines
    inner join cancelled_orders
        on valid_lines.order_id = cancelled_orders.order_id
    where valid_lines.amount >= 0
),

refunded_before_cancellation as (
    select
        cancelled_lines.order_line_id,
        sum(valid_refunds.amount) as amount
    from cancelled_lines
    inner join valid_refunds
        on
            cancelled_lines.order_line_id = valid_refunds.order_line_id
            and cancelled_lines.cancelled_at >= valid_refunds.refunded_at
    group by cancelled_lines.order_line_id
),

movements as (
    select
        ordered_at as happened_at,
        amount + shipping as amount
    from valid_orders

    union all

    select
        happened_at,
        amount
    from lines_without_order

    union all

    select
        refunded_at as happened_at,
        -amount - shipping_amount as amount
    from valid_refunds

    union all

    select
        cancelled_lines.cancelled_at as happened_at,
        -greatest(
            cancelled_lines.amount - coalesce(refunded_before_cancellation.amount, 0), 0
        ) as amount
    from cancelled_lines
    left join refunded_before_cancellation
        on cancelled_lines.order_line_id = refunded_before_cancellation.order_line_id

    union all

    select
        cancelled_at as happened_at,
        -shipping as amount
    from cancelled_orders
    where has_sales = 1

    union all

    select
        adjusted_at as happened_at,
        amount
    from {{ ref('int_adjustments__recounted') }}
    where not is_deleted
),

movements_by_day as (
    select
        {{ date_id('happened_at') }} as date_id,
        {{ money('sum(amount)') }} as raw_net_value
    from movements
    group by {{ date_id('happened_at') }}
)

select * from movements_by_day
