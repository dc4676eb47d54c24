-- Quarantine has exactly the records that the ledger says were quarantined, load by load; a
-- replayed one stays, marked. Otherwise a record of the source is neither in raw nor in
-- quarantine.

with

loads as (
    select
        load_id,
        rows_quarantined
    from {{ source('ops', 'loads') }}
    where load_id <= {{ load_bound() }}
),

quarantined_records as (
    select
        load_id,
        count(*) as records
    from {{ source('ops', 'quarantine') }}
    where load_id <= {{ load_bound() }}
    group by load_id
)

select
    loads.load_id,
    loads.rows_quarantined,
    quarantined_records.records
from loads
full outer join quarantined_records
    on loads.load_id = quarantined_records.load_id
where coalesce(loads.rows_quarantined, 0) <> coalesce(quarantined_records.records, 0)
