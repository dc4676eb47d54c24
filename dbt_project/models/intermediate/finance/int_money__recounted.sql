{#- Raw's money by transaction day, from staging and by its own route: nothing here reads
    int_*__current or a fact. -#}
{{ config(materialized='table') }}

with

statuses as (
    select * from {{ ref('statuses') }}
),

orders as (
    select * from
        {{ recounted('orders', ['status', 'ordered_at', 'cancelled_at', 'shipping_cost']) }}
            as recounted
),

order_items as (
    select * from {{ recounted('order_items', ['order_id', 'amount', 'created_at']) }} as recounted
),

shipping_lines as (
    select * from {{ recounted('shipping_lines', ['order_id', 'amount']) }} as recounted
),

refunds as (
    select * from
        {{ recounted(
            'refunds',
            ['order_line_id', 'order_id', 'amount', 'shipping_amount', 'refunded_at']
        ) }}
            as recounted
),

adjustments as (
    select * from {{ recounted('adjustments', ['amount', 'adjusted_at']) }} as recounted
),

shipping_of_orders as (
    select
        order_id,
        sum(amount) as amount
    from shipping_lines
    where not is_deleted
    group by order_id
),

valid_orders as (
    select
        orders.order_id,
        orders.ordered_at,
        orders.shipping_cost + coalesce(shipping_of_orders.amount, 0) as shipping,
        case
            when coalesce(statuses.status, orders.status) = 'cancelled'
                then coalesce(orders.cancelled_at, orders.version_at)
        end as cancelled_at
    from orders
    left join shipping_of_orders
        on orders.order_id = shipping_of_orders.order_id
    left join statuses
        on orders.status = statuses.raw_status
    where not orders.is_deleted
),

deleted_orders as (
    select order_id from orders
    where is_deleted
),

valid_lines as (
    select
        order_items.order_line_id,
        order_items.order_id,
        order_items.amount,
        order_items.amount >= 0 and valid_orders.order_id is not null as is_sale,
        valid_orders.cancelled_at,
        coalesce(
            valid_orders.ordered_at, order_items.created_at, order_items.version_at
        ) as happened_at
    from order_items
    left join valid_orders
        on order_items.order_id = valid_orders.order_id
    left join deleted_orders
        on order_items.order_id = deleted_orders.order_id
    where
        not order_items.is_deleted
        and deleted_orders.order_id is null
),

valid_refunds as (
    select
        refunds.order_line_id,
        refunds.amount,
        coalesce(refunds.shipping_amount, 0) as shipping_amount,
        refunds.refunded_at
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

refunded_before_cancellation as (
    select
        valid_lines.order_line_id,
        sum(valid_refunds.amount) as amount
    from valid_lines
    inner join valid_refunds
        on
            valid_lines.order_line_id = valid_refunds.order_line_id
            and valid_lines.cancelled_at >= valid_refunds.refunded_at
    group by valid_lines.order_line_id
),

orders_with_sales as (
    select distinct order_id from valid_lines
    where is_sale
),

movements as (
    select
        happened_at,
        amount
    from valid_lines

    union all

    select
        ordered_at as happened_at,
        shipping as amount
    from valid_orders

    union all

    select
        refunded_at as happened_at,
        -amount - shipping_amount as amount
    from valid_refunds

    union all

    select
        valid_lines.cancelled_at as happened_at,
        -greatest(
            valid_lines.amount - coalesce(refunded_before_cancellation.amount, 0), 0
        ) as amount
    from valid_lines
    left join refunded_before_cancellation
        on valid_lines.order_line_id = refunded_before_cancellation.order_line_id
    where
        valid_lines.is_sale
        and valid_lines.cancelled_at is not null

    union all

    select
        valid_orders.cancelled_at as happened_at,
        -valid_orders.shipping as amount
    from valid_orders
    inner join orders_with_sales
        on valid_orders.order_id = orders_with_sales.order_id
    where valid_orders.cancelled_at is not null

    union all

    select
        adjusted_at as happened_at,
        amount
    from adjustments
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
