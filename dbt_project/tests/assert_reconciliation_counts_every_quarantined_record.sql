-- Quarantined records are counted beside the money, each once. Otherwise the reconciliation
-- says that all is well while records wait to be repaired.

with

counted as (
    select sum(quarantined_rows) as quarantined_rows
    from {{ ref('mart_money_reconciliation') }}
),

waiting as (
    select count(*) as quarantined_rows
    from {{ source('ops', 'quarantine') }}
    where replayed_load_id is null
)

select
    counted.quarantined_rows as counted_rows,
    waiting.quarantined_rows as waiting_rows
from counted
cross join waiting
where coalesce(counted.quarantined_rows, 0) <> waiting.quarantined_rows
