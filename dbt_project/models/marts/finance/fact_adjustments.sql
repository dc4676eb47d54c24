{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}

with

adjustments as (
    select * from {{ ref('int_adjustments__current') }}
    where
        deleted_at is null
        and {{ is_touched('order_id') }}
),

lines_that_are_no_sale as (
    select * from {{ ref('int_order_lines__classified') }}
    where
        line_kind <> 'sale'
        and {{ is_touched('order_id') }}
),

users as (
    select * from {{ ref('int_users__current') }}
),

products as (
    select * from {{ ref('int_products__current') }}
),

adjustments_of_the_source as (
    select
        adjustments.adjustment_id,
        adjustments.kind,
        adjustments.order_id,
        coalesce(users.user_id, {{ unknown_id('user') }}) as user_id,
        coalesce(products.product_id, {{ unknown_id('product') }}) as product_id,
        adjustments.amount,
        '{{ shop_setting("currency") }}' as currency,
        adjustments.adjusted_at
    from adjustments
    left join users
        on adjustments.user_id = users.user_id
    left join products
        on adjustments.product_id = products.product_id
),

adjustments_of_lines as (
    select
        case
            when line_kind = 'shipping_without_lines'
                then 'shipping-' || cast(order_id as {{ type_string() }})
            else 'line-' || cast(order_line_id as {{ type_string() }})
        end as adjustment_id,
        line_kind as kind,
        order_id,
        user_id,
        product_id,
        case when line_kind = 'shipping_without_lines' then shipping_cost else amount end as amount,
        currency,
        ordered_at as adjusted_at
    from lines_that_are_no_sale
),

all_adjustments as (
    select * from adjustments_of_the_source
    union all
    select * from adjustments_of_lines
),

fact_adjustments as (
    select
        adjustment_id,
        kind,
        order_id,
        user_id,
        product_id,
        {{ date_id('adjusted_at') }} as date_id,
        {{ money('amount') }} as amount,
        currency,
        adjusted_at
    from all_adjustments
)

select * from fact_adjustments
