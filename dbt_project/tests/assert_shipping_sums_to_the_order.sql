-- The shares of an order's lines sum to the order's shipping exactly, and shipping without
-- lines is an adjustment. Otherwise the spreading loses or invents cents.

with

orders as (
    select
        order_id,
        shipping_cost
    from {{ ref('int_orders__recounted') }}
    where not is_deleted
),

-- What the facts lack: an order's shipping, less what they have of it. Not kept, because it is
-- looked at again only when there is a fault.
shipping as not materialized (
    select
        order_id,
        shipping_cost as missing
    from orders

    union all

    select
        shipping_lines.order_id,
        shipping_lines.amount as missing
    from {{ ref('int_shipping_lines__recounted') }} as shipping_lines
    inner join orders
        on shipping_lines.order_id = orders.order_id
    where not shipping_lines.is_deleted

    union all

    select
        order_id,
        -shipping_cost as missing
    from {{ ref('fact_orders') }}

    union all

    select
        order_id,
        -amount as missing
    from {{ ref('fact_adjustments') }}
    where kind = 'shipping_without_lines'
),

compared as (
    select {{ is_unbalanced(['missing * 10000'], ['order_id']) }} as differ from shipping
),

differing as (
    select
        order_id,
        sum(missing) as missing_in_facts
    from shipping
    where (select compared.differ from compared)
    group by order_id
    having sum(missing) <> 0
)

select * from differing
