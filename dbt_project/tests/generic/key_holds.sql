{#- The columns are a key: never null, never twice; and the relation has at least minimum_rows rows, so that an emptied one fails. -#}
{% test key_holds(model, columns, minimum_rows=1) %}

{%- set key_as_text = [] -%}
{%- for column in columns -%}
    {%- do key_as_text.append("'" ~ column ~ " ' || " ~ as_text(column)) -%}
{%- endfor -%}

with

-- What is no fault is left out at once: to keep all keys for a second look would cost half as much again.
wrong_keys as (
    select
        {{ columns | join(', ') }},
        count(*) as rows_found
    from {{ model }}
    group by {{ columns | join(', ') }}
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
