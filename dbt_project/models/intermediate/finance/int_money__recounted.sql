{#- Raw's money by transaction day, from the recounted rows and by its own route: nothing here reads
    int_*__current or a fact. Made of all rows by every build, so amounts are summed by order before
    anything is joined, and only what few orders need is looked at line by line. -#}
{{ config(materialized='table') }}

with

statuses as (
    select * from {{ ref('statuses') }}
),

lines_of_orders as (
    select
        order_id,
        sum(amount) as amount,
        max(amount) as largest_amount
    from {{ ref('int_order_items__recounted') }}
    where not is_deleted
    group by order_id
),

shipping_of_orders as (
    select
        order_id,
        sum(amount) as amount
    from {{ ref('int_shipping_lines__recounted') }}
    where not is_deleted
    group by order_id
),

-- Deleted ones too, so that what is left over is lines of orders that raw does not have.
orders_with_lines as (
    select
        orders.order_id,
        orders.status,
        orders.ordered_at,
        orders.cancelled_at,
        orders.is_deleted,
        orders._version_at,
        orders.shipping_cost,
        lines_of_orders.order_id as named_order_id,
        coalesce(lines_of_orders.amount, 0) as amount,
        lines_of_orders.largest_amount
    from {{ ref('int_orders__recounted') }} as orders
    full outer join lines_of_orders
        on orders.order_id = lines_of_orders.order_id
),

valid_orders as (
    select
        orders.order_id,
        orders.status,
        orders.ordered_at,
        orders.cancelled_at,
        orders._version_at,
        orders.shipping_cost + coalesce(shipping_of_orders.amount, 0) as shipping,
        orders.amount,
        orders.largest_amount
    from orders_with_lines as orders
    left join shipping_of_orders
        on orders.order_id = shipping_of_orders.order_id
    where not orders.is_deleted
),

cancelled_orders as (
    select
        valid_orders.order_id,
        valid_orders.shipping,
        valid_orders.largest_amount,
        coalesce(valid_orders.cancelled_at, valid_orders._version_at) as cancelled_at
    from valid_orders
    left join statuses
        on valid_orders.status = statuses.raw_status
    where coalesce(statuses.status, valid_orders.status) = 'cancelled'
),

deleted_orders as (
    select order_id from {{ ref('int_orders__recounted') }}
    where is_deleted
),

lines_without_order as (
    select
        amount,
        coalesce(created_at, _version_at) as happened_at
    from {{ ref('int_order_items__recounted') }}
    where
        not is_deleted
        and (
            order_id is null
            or order_id in (
                select orders.named_order_id
                from orders_with_lines as orders
                where orders.order_id is null
            )
        )
),

valid_refunds as (
    select
        refunds.order_line_id,
        refunds.amount,
        coalesce(refunds.shipping_amount, 0) as shipping_amount,
        refunds.refunded_at
    from {{ ref('int_refunds__recounted') }} as refunds
    left join {{ ref('int_order_items__recounted') }} as order_items
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
        order_items.order_line_id,
        order_items.amount,
        cancelled_orders.cancelled_at
    from {{ ref('int_order_items__recounted') }} as order_items
    inner join cancelled_orders
        on order_items.order_id = cancelled_orders.order_id
    where
        not order_items.is_deleted
        and order_items.amount >= 0
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
    -- An order without a sale keeps its shipping.
    where largest_amount >= 0

    union all

    select
        adjusted_at as happened_at,
        amount
    from {{ ref('int_adjustments__recounted') }}
    where not is_deleted
),

-- A day begins on a quarter of an hour (mart_kpis says where), so only these need their day.
movements_by_quarter_hour as (
    select
        min(happened_at) as happened_at,
        sum(amount) as amount
    from movements
    group by {{ spans_since_1970('happened_at', 15) }}
),

movements_by_day as (
    select
        {{ date_id('happened_at') }} as date_id,
        {{ money('sum(amount)') }} as raw_net_value
    from movements_by_quarter_hour
    group by {{ date_id('happened_at') }}
)

select * from movements_by_day
