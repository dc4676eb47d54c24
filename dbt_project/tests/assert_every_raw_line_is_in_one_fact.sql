-- Every order line that raw has now, of an order that is not deleted, is either a sale or an
-- adjustment, and nothing else is. Otherwise rows got lost or were counted twice in a way that
-- sums to zero.

with

deleted_orders as (
    select order_id from {{ ref('int_orders__recounted') }}
    where is_deleted
),

raw_lines as (
    select
        order_items.order_line_id,
        order_items.amount
    from {{ ref('int_order_items__recounted') }} as order_items
    left join deleted_orders
        on order_items.order_id = deleted_orders.order_id
    where
        not order_items.is_deleted
        and deleted_orders.order_id is null
),

fact_lines as (
    select
        order_line_id,
        amount
    from {{ ref('fact_orders') }}

    union all

    select
        cast(substr(adjustment_id, 6) as {{ id_type('order_line') }}) as order_line_id,
        amount
    from {{ ref('fact_adjustments') }}
    where kind in ('line_without_order', 'negative_line')
),

differing as (
    select
        raw_lines.order_line_id as raw_order_line_id,
        raw_lines.amount as raw_amount,
        fact_lines.order_line_id as fact_order_line_id,
        fact_lines.amount as fact_amount
    from raw_lines
    full outer join fact_lines
        on raw_lines.order_line_id = fact_lines.order_line_id
    where {{ is_otherwise('raw_lines', 'fact_lines', 'order_line_id', ['amount']) }}
),

-- A line that is in the facts twice meets its raw line twice: only the numbers of rows tell.
counts as (
    select
        (select count(*) from raw_lines) as raw_rows,
        (select count(*) from fact_lines) as fact_rows
),

faults as (
    select
        'line' as fault,
        differing.*
    from differing

    union all

    select
        'raw has ' || {{ as_text('raw_rows') }} || ' lines, the facts have '
        || {{ as_text('fact_rows') }} as fault,
        null as raw_order_line_id,
        null as raw_amount,
        null as fact_order_line_id,
        null as fact_amount
    from counts
    where raw_rows <> fact_rows
)

select * from faults
