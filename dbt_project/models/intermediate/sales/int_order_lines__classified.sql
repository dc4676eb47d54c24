{{ config(incremental_strategy='append') }}

with

orders as (
    select * from {{ ref('int_orders__current') }}
    where {{ is_touched('order_id') }}
),

order_items as (
    select * from {{ ref('int_order_items__current') }}
    where
        deleted_at is null
        and {{ is_touched('order_id') }}
),

shipping_lines as (
    select * from {{ ref('int_shipping_lines__current') }}
    where
        deleted_at is null
        and {{ is_touched('order_id') }}
),

users as (
    select * from {{ ref('int_users__current') }}
),

products as (
    select * from {{ ref('int_products__current') }}
),

shipping_by_order as (
    select
        order_id,
        sum(amount) as amount
    from shipping_lines
    group by order_id
),

orders_with_shipping as (
    select
        orders.order_id,
        coalesce(users.user_id, {{ unknown_id('user') }}) as user_id,
        orders.status,
        coalesce(orders.currency, '{{ shop_setting("currency") }}') as currency,
        orders.ordered_at,
        case
            when orders.status = 'cancelled' then coalesce(orders.cancelled_at, orders._version_at)
        end as cancelled_at,
        orders.deleted_at,
        {{ money('orders.shipping_cost + coalesce(shipping_by_order.amount, 0)') }} as shipping_cost
    from orders
    left join shipping_by_order
        on orders.order_id = shipping_by_order.order_id
    left join users
        on orders.user_id = users.user_id
),

classified as (
    select
        case
            when orders_with_shipping.order_id is null then 'line_without_order'
            when order_items.amount < 0 then 'negative_line'
            else 'sale'
        end as line_kind,
        order_items.order_line_id,
        order_items.order_id,
        coalesce(orders_with_shipping.user_id, {{ unknown_id('user') }}) as user_id,
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        orders_with_shipping.status,
        order_items.quantity,
        order_items.amount,
        orders_with_shipping.shipping_cost as order_shipping_cost,
        coalesce(orders_with_shipping.currency, '{{ shop_setting("currency") }}') as currency,
        case
            when orders_with_shipping.order_id is null
                then coalesce(order_items.created_at, order_items._version_at)
            else orders_with_shipping.ordered_at
        end as ordered_at,
        orders_with_shipping.cancelled_at
    from order_items
    left join orders_with_shipping
        on order_items.order_id = orders_with_shipping.order_id
    left join products
        on order_items.product_id = products.product_id
    where orders_with_shipping.deleted_at is null
),

-- Shipping is spread in cents; in hundredths of a cent where the order's shipping is not whole
-- cents.
units_of_lines as (
    select
        order_line_id,
        order_id,
        case when order_shipping_cost < 0 then -1 else 1 end as shipping_sign,
        case
            when order_shipping_cost = round(order_shipping_cost, 2) then 100
            else 10000
        end as units_per_currency,
        cast(abs(order_shipping_cost) * 10000 as {{ wide_integer_type() }})
            as shipping_ten_thousandths,
        cast(amount * 10000 as {{ wide_integer_type() }}) as amount_weight,
        cast(greatest(coalesce(quantity, 0), 0) as {{ wide_integer_type() }}) as quantity_weight,
        sum(amount) over (partition by order_id) as order_amount,
        sum(greatest(coalesce(quantity, 0), 0)) over (partition by order_id) as order_quantity
    from classified
    where line_kind = 'sale'
),

weighted_lines as (
    select
        order_line_id,
        order_id,
        shipping_sign,
        units_per_currency,
        {{ whole_quotient('shipping_ten_thousandths * units_per_currency', '10000') }}
            as shipping_units,
        case
            when order_amount > 0 then amount_weight
            when order_quantity > 0 then quantity_weight
            else 1
        end as weight
    from units_of_lines
),

weighted_orders as (
    select
        *,
        cast(sum(weight) over (partition by order_id) as {{ wide_integer_type() }}) as order_weight
    from weighted_lines
),

whole_shares as (
    select
        *,
        {{ whole_quotient('shipping_units * weight', 'order_weight') }} as share_units
    from weighted_orders
),

ranked_shares as (
    select
        *,
        shipping_units - sum(share_units) over (partition by order_id) as units_left,
        row_number() over (
            partition by order_id
            order by
                shipping_units * weight - share_units * order_weight desc,
                {{ in_byte_order('order_line_id', id_type('order_line')) }} asc
        ) as remainder_rank
    from whole_shares
),

allocated as (
    select
        order_line_id,
        {{ money(
            'shipping_sign * cast('
            ~ 'share_units + case when remainder_rank <= units_left then 1 else 0 end'
            ~ ' as decimal(14, 0))'
            ~ ' * cast(case when units_per_currency = 100 then 0.01 else 0.0001 end'
            ~ ' as decimal(4, 4))'
        ) }} as shipping_cost
    from ranked_shares
),

lines as (
    select
        classified.line_kind,
        classified.order_line_id,
        classified.order_id,
        classified.user_id,
        classified.product_id,
        classified.status,
        classified.quantity,
        classified.amount,
        {{ money('coalesce(allocated.shipping_cost, 0)') }} as shipping_cost,
        classified.currency,
        classified.ordered_at,
        classified.cancelled_at
    from classified
    left join allocated
        on
            classified.order_line_id = allocated.order_line_id
            and classified.line_kind = 'sale'
),

orders_with_sales as (
    select order_id
    from classified
    where line_kind = 'sale'
    group by order_id
),

shipping_without_lines as (
    select
        'shipping_without_lines' as line_kind,
        cast(null as {{ id_type('order_line') }}) as order_line_id,
        orders_with_shipping.order_id,
        orders_with_shipping.user_id,
        {{ unknown_id('product') }} as product_id,
        orders_with_shipping.status,
        0 as quantity,
        {{ money('0') }} as amount,
        orders_with_shipping.shipping_cost,
        orders_with_shipping.currency,
        orders_with_shipping.ordered_at,
        orders_with_shipping.cancelled_at
    from orders_with_shipping
    left join orders_with_sales
        on orders_with_shipping.order_id = orders_with_sales.order_id
    where
        orders_with_sales.order_id is null
        and orders_with_shipping.deleted_at is null
        and orders_with_shipping.shipping_cost <> 0
),

lines_and_bare_shipping as (
    select * from lines
    union all
    select * from shipping_without_lines
)

select * from lines_and_bare_shipping
