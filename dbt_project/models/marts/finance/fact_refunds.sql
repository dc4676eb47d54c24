{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}

with

orders as (
    select * from {{ ref('int_orders__current') }}
    where {{ is_touched('order_id') }}
),

touched_lines as (
    select * from {{ ref('int_order_items__current') }}
    where {{ is_touched('order_id') }}
),

-- By its own order or by its line: which of them counts is decided below.
refunds as (
    select * from {{ ref('int_refunds__current') }}
    where
        deleted_at is null
        and (
            {{ is_touched('order_id') }}
            or order_line_id in (select touched_lines.order_line_id from touched_lines)
        )
),

order_items as (
    select * from {{ ref('int_order_items__current') }}
    where order_line_id in (select refunds.order_line_id from refunds)
),

sale_lines as (
    select * from {{ ref('int_order_lines__classified') }}
    where
        line_kind = 'sale'
        and {{ is_touched('order_id') }}
),

users as (
    select * from {{ ref('int_users__current') }}
),

products as (
    select * from {{ ref('int_products__current') }}
),

-- A refund belongs to the order of its line, so that the two never part; without the line, to
-- the order that it names.
refunds_with_line as (
    select
        refunds.refund_id,
        refunds.order_line_id,
        coalesce(order_items.order_id, refunds.order_id) as order_id,
        coalesce(refunds.product_id, order_items.product_id) as product_id,
        refunds.user_id,
        refunds.amount,
        refunds.shipping_amount,
        refunds.refunded_at
    from refunds
    left join order_items
        on refunds.order_line_id = order_items.order_line_id
    where order_items.deleted_at is null
),

surviving_refunds as (
    select
        refunds_with_line.refund_id,
        refunds_with_line.order_line_id,
        refunds_with_line.order_id,
        coalesce(users.user_id, {{ unknown_id('user') }}) as user_id,
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        refunds_with_line.amount,
        refunds_with_line.shipping_amount,
        coalesce(orders.currency, '{{ shop_setting("currency") }}') as currency,
        refunds_with_line.refunded_at
    from refunds_with_line
    left join orders
        on refunds_with_line.order_id = orders.order_id
    left join users
        on coalesce(refunds_with_line.user_id, orders.user_id) = users.user_id
    left join products
        on refunds_with_line.product_id = products.product_id
    where
        orders.deleted_at is null
        and {{ is_touched('refunds_with_line.order_id') }}
),

refunded_before_cancellation as (
    select
        sale_lines.order_line_id,
        sum(surviving_refunds.amount) as amount
    from sale_lines
    inner join surviving_refunds
        on
            sale_lines.order_line_id = surviving_refunds.order_line_id
            and sale_lines.cancelled_at >= surviving_refunds.refunded_at
    group by sale_lines.order_line_id
),

refund_lines as (
    select
        'refund-' || refund_id as refund_line_id,
        'refund' as kind,
        order_line_id,
        order_id,
        user_id,
        product_id,
        amount,
        coalesce(shipping_amount, 0) as shipping_amount,
        currency,
        refunded_at
    from surviving_refunds
),

cancellation_lines as (
    select
        'cancellation-' || cast(sale_lines.order_line_id as {{ type_string() }}) as refund_line_id,
        'cancellation' as kind,
        sale_lines.order_line_id,
        sale_lines.order_id,
        sale_lines.user_id,
        sale_lines.product_id,
        greatest(sale_lines.amount - coalesce(refunded_before_cancellation.amount, 0), 0) as amount,
        sale_lines.shipping_cost as shipping_amount,
        sale_lines.currency,
        sale_lines.cancelled_at as refunded_at
    from sale_lines
    left join refunded_before_cancellation
        on sale_lines.order_line_id = refunded_before_cancellation.order_line_id
    where sale_lines.cancelled_at is not null
),

refunds_and_cancellations as (
    select * from refund_lines
    union all
    select * from cancellation_lines
),

fact_refunds as (
    select
        refund_line_id,
        kind,
        order_line_id,
        order_id,
        user_id,
        product_id,
        {{ date_id('refunded_at') }} as date_id,
        {{ money('amount') }} as amount,
        {{ money('shipping_amount') }} as shipping_amount,
        currency,
        refunded_at
    from refunds_and_cancellations
)

select * from fact_refunds
