-- Name and price are those of the latest line that sold the product; failing that, of the latest
-- that took it back. Other lines only show that the code exists: they have no price, and their text
-- is a remark on the stock ("damaged").
-- One row per received version of a line with a product.
with

lines as (
    select * from {{ ref('base_online_retail__lines') }}
),

ranked as (
    select
        *,
        -- Versions of a lower rank are set back by a century each, so that none beats a sale.
        case
            when is_charge then invoiced_at
            when unit_price <> 0 then {{ dateadd('year', -100, 'invoiced_at') }}
            else {{ dateadd('year', -200, 'invoiced_at') }}
        end as ranked_at
    from lines
    where product_id is not null
),

products as (
    select
        -- ids
        product_id,

        -- text
        case when unit_price <> 0 then description end as name,
        'unknown' as category,

        -- numbers
        case when unit_price <> 0 then unit_price end as price,

        -- version
        {{ technical_columns('ranked_at', source_key='product_id') }}
    from ranked
)

select * from products
