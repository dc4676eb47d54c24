-- Raw's net value of every day, counted by its own route, is what the marts say of that day:
-- sales + shipping - refunds + adjustments. Otherwise money was lost, doubled or moved to
-- another day on its way.

select *
from {{ ref('mart_money_reconciliation') }}
where
    difference <> 0
    or date is null
