-- What a load extracted was loaded, quarantined or dropped as known. Otherwise records vanished
-- between the tap and raw. A warehouse without any load has nothing to account for, and fails
-- too.

with

loads as (
    select * from {{ source('ops', 'loads') }}
),

faults as (
    select load_id
    from loads
    where
        rows_extracted is null
        or rows_extracted <> rows_loaded + rows_quarantined + rows_dropped

    union all

    select max(load_id) as load_id
    from loads
    having count(*) = 0
)

select * from faults
