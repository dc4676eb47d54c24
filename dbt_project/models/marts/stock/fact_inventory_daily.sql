{#- Made anew by every build: each day adds a row to every product, and late sales change four
    weeks. The rows are products times days, which are few beside the lines sold. -#}
{{ config(meta={'entities': ['stock_levels']}) }}

with

counts as (
    select
        product_id,
        recorded_at,
        quantity_on_hand,
        {{ shop_day('recorded_at') }} as date
    from {{ ref('int_stock_levels__current') }}
    where deleted_at is null
),

products as (
    select
        product_id,
        {{ shop_day('deleted_at') }} as deleted_on
    from {{ ref('int_products__current') }}
),

dim_date as (
    select * from {{ ref('dim_date') }}
),

fact_orders as (
    select * from {{ ref('fact_orders') }}
    where status <> 'cancelled'
),

counts_in_order as (
    select
        product_id,
        date,
        recorded_at,
        quantity_on_hand,
        row_number() over (
            partition by product_id, date
            order by recorded_at desc
        ) as number_from_last
    from counts
),

last_counts as (
    select * from counts_in_order
    where number_from_last = 1
),

last_day as (
    select max(date) as date from counts
),

first_counts as (
    select
        product_id,
        min(date) as date
    from counts
    group by product_id
),

product_spans as (
    select
        first_counts.product_id,
        -- Four weeks of sales are known on the day of the first count.
        {{ add_days('first_counts.date', -27) }} as first_date,
        case
            when products.deleted_on < last_day.date then products.deleted_on
            else last_day.date
        end as last_date
    from first_counts
    inner join products
        on first_counts.product_id = products.product_id
    cross join last_day
),

product_days as (
    select
        product_spans.product_id,
        dim_date.date_id,
        dim_date.date
    from product_spans
    inner join dim_date
        on dim_date.date between product_spans.first_date and product_spans.last_date
),

sales as (
    select
        product_id,
        date_id,
        sum(quantity) as units_sold
    from fact_orders
    group by product_id, date_id
),

with_sales as (
    select
        product_days.product_id,
        product_days.date_id,
        product_days.date,
        last_counts.recorded_at,
        last_counts.quantity_on_hand,
        coalesce(sales.units_sold, 0) as units_sold
    from product_days
    left join last_counts
        on
            product_days.product_id = last_counts.product_id
            and product_days.date = last_counts.date
    left join sales
        on
            product_days.product_id = sales.product_id
            and product_days.date_id = sales.date_id
),

-- A day without a count has the number of the last day that had one; before the first it is 0.
numbered as (
    select
        product_id,
        date_id,
        recorded_at,
        quantity_on_hand,
        units_sold,
        sum(units_sold) over (
            partition by product_id
            order by date
            rows between 27 preceding and current row
        ) as units_sold_28_days,
        count(recorded_at) over (
            partition by product_id
            order by date
            rows between unbounded preceding and current row
        ) as count_number
    from with_sales
),

levels as (
    select
        product_id,
        date_id,
        max(quantity_on_hand) over (partition by product_id, count_number) as quantity_on_hand,
        max(recorded_at) over (partition by product_id, count_number) as counted_at,
        recorded_at is not null as is_counted,
        units_sold,
        units_sold_28_days
    from numbered
    where count_number > 0
),

fact_inventory_daily as (
    select
        product_id,
        date_id,
        quantity_on_hand,
        counted_at,
        is_counted,
        cast(units_sold as bigint) as units_sold,
        cast(units_sold_28_days as bigint) as units_sold_28_days,
        {{ ratio(
            '28 * cast(greatest(quantity_on_hand, 0) as bigint)',
            'cast(units_sold_28_days as bigint)'
        ) }} as days_of_stock,
        quantity_on_hand <= 0 as is_out_of_stock
    from levels
)

select * from fact_inventory_daily
