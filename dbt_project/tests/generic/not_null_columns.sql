{#- None of the columns is ever null, and there is at least one row (minimum_rows: 0 for what may be empty); one scan for all columns. -#}
{% test not_null_columns(model, columns, minimum_rows=1) %}

with

counts as (
    select
        {%- for column in columns %}
        count(*) - count({{ column }}) as {{ column }}_nulls,
        {%- endfor %}
        count(*) as all_rows
    from {{ model }}
)

select *
from counts
where
    all_rows < {{ minimum_rows }}
    {%- for column in columns %}
    or {{ column }}_nulls > 0
    {%- endfor %}

{% endtest %}
