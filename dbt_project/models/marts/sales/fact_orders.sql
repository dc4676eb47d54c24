{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}

with

sale_lines as (
    select * from {{ ref('int_order_lines__classified') }}
    where
        line_kind = 'sale'
        and {{ is_touched('order_id') }}
),

fact_orders as (
    select
        order_line_id,
        order_id,
        user_id,
        product_id,
        {{ date_id('ordered_at') }} as date_id,
        status,
        quantity,
        amount,
        shipping_cost,
        currency,
        ordered_at
    from sale_lines
)

select * from fact_orders
