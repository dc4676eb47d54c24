{#- The columns are a key: never null, never twice; and the relation has at least minimum_rows rows, so that an emptied one fails.
    With meta.new_loads_only, a build looks at the keys of rows that were added since the test passed: any other key is there once,
    as it was. For incremental models alone. -#}
{% test key_holds(model, columns, minimum_rows=1) %}

{%- set key_as_text = [] -%}
{%- for column in columns -%}
    {%- do key_as_text.append("'" ~ column ~ " ' || " ~ as_text(column)) -%}
{%- endfor -%}

{%- set key = columns | join(', ') -%}
{%- set added = is_added() -%}

with

{% if added -%}
added_keys as (
    select {{ key }}
    from {{ model }}
    where {{ added }}
),

keys as (
    select {{ key }}
    from {{ model }}
    where ({{ key }}) in (select {{ key }} from added_keys)

    union all

    -- What is null is in no list.
    select {{ key }}
    from added_keys
    where {{ columns | join(' is null or ') }} is null
),

{% endif -%}
-- What is no fault is left out at once: to keep all keys for a second look would cost half as much again.
wrong_keys as (
    select
        {{ key }},
        count(*) as rows_found
    from {{ 'keys' if added else model }}
    group by {{ key }}
    having
        count(*) > 1
        {%- for column in columns %}
        or {{ column }} is null
        {%- endfor %}
),

counted as (
    select count(*) as all_rows from {{ model }}
),

faults as (
    select
        {{ key_as_text | join(" || ', ' || ") }}
        || case when rows_found > 1 then ' occurs ' || {{ as_text('rows_found') }} || ' times' else ' is no key' end as broken,
        rows_found
    from wrong_keys

    union all

    select
        'has ' || {{ as_text('all_rows') }} || ' rows, fewer than {{ minimum_rows }}' as broken,
        all_rows as rows_found
    from counted
    where all_rows < {{ minimum_rows }}
)

select * from faults

{% endtest %}
