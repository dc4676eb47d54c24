-- Raw has exactly the rows that the ledger says were loaded, load by load. Otherwise raw was
-- changed by hand, or a load was committed in part.

with

loads as (
    select
        load_id,
        rows_loaded
    from {{ source('ops', 'loads') }}
    where load_id <= {{ load_bound() }}
),

raw_rows as (
    {%- for node in raw_sources() %}
    select
        _sdc_load_id as load_id,
        count(*) as raw_rows
    from {{ node.relation_name }}
    where _sdc_load_id <= {{ load_bound() }}
    group by _sdc_load_id
    {% if not loop.last -%}
    union all
    {%- endif -%}
    {% else %}
    select
        cast(null as bigint) as load_id,
        0 as raw_rows
    {%- endfor %}
)

select
    loads.load_id,
    loads.rows_loaded,
    raw_rows.raw_rows
from loads
full outer join raw_rows
    on loads.load_id = raw_rows.load_id
where
    coalesce(loads.rows_loaded, 0) <> coalesce(raw_rows.raw_rows, 0)
    or (loads.load_id is null and raw_rows.raw_rows > 0)
