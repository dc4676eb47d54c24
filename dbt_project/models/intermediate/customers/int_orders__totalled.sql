{#- Reads only lines of touched orders: an order's totals depend on nothing else. -#}
{{ config(incremental_strategy='append') }}

with

sale_lines as (
    select * from {{ ref('int_order_lines__classified') }}
    where
        line_kind = 'sale'
        and {{ is_touched('order_id') }}
),

-- User, status and time are the order's own, the same on each of its lines.
totals as (
    select
        order_id,
        user_id,
        status,
        ordered_at,
        count(*) as lines_count,
        count(distinct case when product_id <> {{ unknown_id('product') }} then product_id end)
            as products_count,
        sum(quantity) as units,
        sum(amount) as amount,
        sum(shipping_cost) as shipping_cost
    from sale_lines
    group by
        order_id,
        user_id,
        status,
        ordered_at
),

orders_totalled as (
    select
        order_id,
        user_id,
        status <> 'cancelled' as is_purchase,
        -- Beyond the limit an order is a stock list: what lies in it together says nothing.
        status <> 'cancelled'
        and products_count between 1 and {{ var('basket_products_max') }} as is_basket,
        {{ shop_day('ordered_at') }} as day,
        ordered_at,
        lines_count,
        products_count,
        cast(units as bigint) as units,
        {{ money('amount') }} as amount,
        {{ money('shipping_cost') }} as shipping_cost
    from totals
)

select * from orders_totalled
