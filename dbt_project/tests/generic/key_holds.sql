{#- The columns are a key: never null, never twice; and the relation has at least minimum_rows rows, so that an emptied one fails. -#}
{% test key_holds(model, columns, minimum_rows=1) %}

with

keys as (
    select
        {{ columns | join(', ') }},
        count(*) as rows_of_key
    from {{ model }}
    group by {{ columns | join(', ') }}
),

faults as (
    select 'null or repeated key' as fault
    from keys
    where
        rows_of_key > 1
        {%- for column in columns %}
        or {{ column }} is null
        {%- endfor %}

    union all

    select 'fewer than {{ minimum_rows }} rows' as fault
    from keys
    having count(*) < {{ minimum_rows }}
)

select * from faults

{% endtest %}
