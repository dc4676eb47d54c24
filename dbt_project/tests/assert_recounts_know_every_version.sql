-- Every row that staging has of a key is counted in the key's recount, and no other: up to the load
-- that the recount is built with, by the numbers alone. The recounts grow as the marts do, so what
-- both had missed would be found nowhere else. Rows without _source_key, which increments cannot
-- find, are asked apart: to look for the keys of all would be to clean them all.

-- noqa: disable=LT02
with

{%- for entity in recounted_entities() %}
{%- set recount = ref('int_' ~ entity ~ '__recounted') %}

{{ entity }}_staged as (
    select count(*) as staged_rows from {{ staging(entity) }} as staged
    where
        staged._source_key is not null
        and staged._load_id <= {{ watermark(recount) }}

    union all

    select count(*) as staged_rows from {{ staging(entity) }} as staged
    where
        staged._source_key is null
        and staged.{{ entity_columns(entity)[0][0] }} is not null
        and staged._load_id <= {{ watermark(recount) }}
),

{{ entity }}_recounted as (
    select coalesce(sum(_versions_received), 0) as recounted_rows from {{ recount }}
),
{%- endfor %}

counts as (
    {%- for entity in recounted_entities() %}
    select
        '{{ entity }}' as entity,
        (select sum(staged_rows) from {{ entity }}_staged) as staged_rows,
        (select recounted_rows from {{ entity }}_recounted) as recounted_rows
    {%- if not loop.last %}

    union all
    {% endif %}
    {%- endfor %}
)

select *
from counts
where staged_rows <> recounted_rows
