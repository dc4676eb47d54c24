-- The units that fact_inventory_daily says were sold are those of fact_orders on the days it has,
-- and those of 28 days are the sum of 28 days. Otherwise the days of stock are of another pace.

with

sales as (
    select
        fact_orders.product_id,
        fact_orders.date_id,
        dim_date.date,
        sum(fact_orders.quantity) as units_sold
    from {{ ref('fact_orders') }} as fact_orders
    inner join {{ ref('dim_date') }} as dim_date
        on fact_orders.date_id = dim_date.date_id
    where fact_orders.status <> 'cancelled'
    group by fact_orders.product_id, fact_orders.date_id, dim_date.date
),

inventory as (
    select
        fact_inventory_daily.*,
        dim_date.date,
        lag(fact_inventory_daily.units_sold_28_days) over (
            partition by fact_inventory_daily.product_id
            order by fact_inventory_daily.date_id
        ) as units_sold_until_the_day_before
    from {{ ref('fact_inventory_daily') }} as fact_inventory_daily
    inner join {{ ref('dim_date') }} as dim_date
        on fact_inventory_daily.date_id = dim_date.date_id
),

first_days as (
    select
        inventory.product_id,
        inventory.date_id,
        sum(sales.units_sold) as units_sold
    from inventory
    inner join sales
        on
            inventory.product_id = sales.product_id
            and sales.date between {{ add_days('inventory.date', -27) }} and inventory.date
    where inventory.units_sold_until_the_day_before is null
    group by inventory.product_id, inventory.date_id
)

-- From day to day, one day comes in and the one 28 days before goes out.
select
    inventory.product_id,
    inventory.date_id,
    inventory.units_sold,
    inventory.units_sold_28_days
from inventory
left join sales
    on
        inventory.product_id = sales.product_id
        and inventory.date_id = sales.date_id
left join sales as sales_gone
    on
        inventory.product_id = sales_gone.product_id
        and {{ add_days('inventory.date', -28) }} = sales_gone.date
left join first_days
    on
        inventory.product_id = first_days.product_id
        and inventory.date_id = first_days.date_id
where
    inventory.units_sold <> coalesce(sales.units_sold, 0)
    or inventory.units_sold_28_days <> coalesce(
        inventory.units_sold_until_the_day_before
        + coalesce(sales.units_sold, 0)
        - coalesce(sales_gone.units_sold, 0),
        first_days.units_sold,
        0
    )
