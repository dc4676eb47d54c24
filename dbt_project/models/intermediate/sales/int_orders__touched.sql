{#- Which load last changed anything that the facts say of an order: the order, a line, shipping
    line, refund or adjustment that any version put into it, or the first appearance of its user
    or of a product. Facts recompute the orders whose load is beyond their watermark; the rows
    of an order depend on nothing outside of it. -#}
{{ config(unique_key='order_id') }}

with

orders as (
    select * from {{ ref('int_orders__current') }}
),

order_items as (
    select * from {{ ref('int_order_items__current') }}
),

shipping_lines as (
    select * from {{ ref('int_shipping_lines__current') }}
),

refunds as (
    select * from {{ ref('int_refunds__current') }}
),

adjustments as (
    select * from {{ ref('int_adjustments__current') }}
),

late_users as (
    select
        user_id,
        _first_load_id
    from {{ ref('int_users__current') }}
    where {{ is_news('_first_load_id') }}
),

late_products as (
    select
        product_id,
        _first_load_id
    from {{ ref('int_products__current') }}
    where {{ is_news('_first_load_id') }}
),

changed_lines as (
    select
        order_line_id,
        _first_load_id,
        _changed_load_id
    from order_items
    where {{ is_news('_changed_load_id') }}
),

changed_refunds as (
    select
        refund_id,
        _first_load_id,
        _changed_load_id
    from refunds
    where {{ is_news('_changed_load_id') }}
),

-- Before these loads raw has no version of what changed; without changes nothing need be read.
first_lines as (
    select coalesce(min(_first_load_id), {{ load_bound() }} + 1) as _load_id from changed_lines
),

first_refunds as (
    select coalesce(min(_first_load_id), {{ load_bound() }} + 1) as _load_id from changed_refunds
),

-- A line, refund or adjustment may move between orders: every order that any of its versions
-- named is touched.
line_versions as (
    select
        {{ known_order('received.order_id') }} as order_id,
        changed_lines._changed_load_id
    from {{ staging('order_items') }} as received
    inner join changed_lines
        on received.order_line_id = changed_lines.order_line_id
    where received._load_id >= (select first_lines._load_id from first_lines)
),

shipping_line_versions as (
    select
        {{ known_order('received.order_id') }} as order_id,
        shipping_lines._changed_load_id
    from {{ staging('shipping_lines') }} as received
    inner join shipping_lines
        on received.shipping_line_id = shipping_lines.shipping_line_id
    where {{ is_news('shipping_lines._changed_load_id') }}
),

refund_versions as (
    select
        {{ known_order('received.order_id') }} as order_id,
        received.order_line_id,
        changed_refunds._changed_load_id
    from {{ staging('refunds') }} as received
    inner join changed_refunds
        on received.refund_id = changed_refunds.refund_id
    where received._load_id >= (select first_refunds._load_id from first_refunds)
),

adjustment_versions as (
    select
        {{ known_order('received.order_id') }} as order_id,
        adjustments._changed_load_id
    from {{ staging('adjustments') }} as received
    inner join adjustments
        on received.adjustment_id = adjustments.adjustment_id
    where {{ is_news('adjustments._changed_load_id') }}
),

touches as (
    select
        order_id,
        _changed_load_id
    from orders
    where {{ is_news('_changed_load_id') }}

    union all

    select
        order_id,
        _changed_load_id
    from line_versions

    union all

    select
        order_id,
        _changed_load_id
    from shipping_line_versions

    union all

    select
        order_id,
        _changed_load_id
    from refund_versions

    union all

    select
        order_id,
        _changed_load_id
    from adjustment_versions

    union all

    -- A refund belongs to the order of its line; before the line was known, to the order that
    -- it names itself.
    select
        order_items.order_id,
        refund_versions._changed_load_id
    from refund_versions
    inner join order_items
        on refund_versions.order_line_id = order_items.order_line_id

    union all

    select
        refunds.order_id,
        changed_lines._changed_load_id
    from refunds
    inner join changed_lines
        on refunds.order_line_id = changed_lines.order_line_id

    union all

    select
        orders.order_id,
        late_users._first_load_id
    from orders
    inner join late_users
        on orders.user_id = late_users.user_id

    union all

    select
        coalesce(order_items.order_id, refunds.order_id) as order_id,
        late_users._first_load_id
    from refunds
    inner join late_users
        on refunds.user_id = late_users.user_id
    left join order_items
        on refunds.order_line_id = order_items.order_line_id

    union all

    select
        adjustments.order_id,
        late_users._first_load_id
    from adjustments
    inner join late_users
        on adjustments.user_id = late_users.user_id

    union all

    select
        order_items.order_id,
        late_products._first_load_id
    from order_items
    inner join late_products
        on order_items.product_id = late_products.product_id

    union all

    select
        coalesce(order_items.order_id, refunds.order_id) as order_id,
        late_products._first_load_id
    from refunds
    inner join late_products
        on refunds.product_id = late_products.product_id
    left join order_items
        on refunds.order_line_id = order_items.order_line_id

    union all

    select
        adjustments.order_id,
        late_products._first_load_id
    from adjustments
    inner join late_products
        on adjustments.product_id = late_products.product_id
),

touched as (
    select
        order_id,
        max(_changed_load_id) as _changed_load_id
    from touches
    group by order_id
)

select * from touched
