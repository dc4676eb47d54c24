-- A shipping line has no date of its own: without its order its money would be on no day, and
-- so in no mart.

with

shipping_lines as (
    select * from {{ ref('int_shipping_lines__current') }}
    where deleted_at is null
),

orders as (
    select * from {{ ref('int_orders__current') }}
)

select shipping_lines.*
from shipping_lines
left join orders
    on shipping_lines.order_id = orders.order_id
where orders.order_id is null
