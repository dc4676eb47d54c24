{#- The columns are a key: never null, never twice; and the relation has at least minimum_rows rows, so that an emptied one fails. -#}
{% test key_holds(model, columns, minimum_rows=1) %}

{%- set key_as_text = [] -%}
{%- for column in columns -%}
    {%- do key_as_text.append("'" ~ column ~ " ' || " ~ as_text(column)) -%}
{%- endfor -%}

with

keys as (
    select
        {{ columns | join(', ') }},
        count(*) as rows_found
    from {{ model }}
    group by {{ columns | join(', ') }}
),

faults as (
    select
        {{ key_as_text | join(" || ', ' || ") }}
        || case when rows_found > 1 then ' occurs ' || {{ as_text('rows_found') }} || ' times' else ' is no key' end as broken,
        rows_found
    from keys
    where
        rows_found > 1
        {%- for column in columns %}
        or {{ column }} is null
        {%- endfor %}

    union all

    select
        'has ' || {{ as_text('count(*)') }} || ' rows, fewer than {{ minimum_rows }}' as broken,
        count(*) as rows_found
    from keys
    having count(*) < {{ minimum_rows }}
)

select * from faults

{% endtest %}
