-- All money of a warehouse is in the shop's currency. Otherwise the sums of all marts add euros
-- to pounds.

with

currencies as (
    select currency from {{ ref('fact_orders') }}
    union
    select currency from {{ ref('fact_refunds') }}
    union
    select currency from {{ ref('fact_adjustments') }}
)

select *
from currencies
where currency <> '{{ shop_setting("currency") }}'
