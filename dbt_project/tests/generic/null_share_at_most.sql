{#- No column of the model is null in more than var('null_share_max') of its rows, except_columns aside; one scan for all of the
    columns that the model's yml lists. -#}
{% test null_share_at_most(model, except_columns=[], minimum_rows=1) %}

{%- set columns = [] -%}
{%- if execute -%}
    {%- set tested = graph.nodes.values() | selectattr('resource_type', 'equalto', 'model')
        | selectattr('relation_name', 'equalto', model | string) | first -%}
    {%- for column in tested.columns if column not in except_columns -%}
        {%- do columns.append(column) -%}
    {%- endfor -%}
{%- endif -%}

with

shares as (
    select
        {%- for column in columns %}
        count(*) - count({{ column }}) as {{ column }}_nulls,
        {%- endfor %}
        count(*) as all_rows
    from {{ model }}
)

select *
from shares
where
    all_rows < {{ minimum_rows }}
    {%- for column in columns %}
    or {{ column }}_nulls > all_rows * {{ var('null_share_max') }}
    {%- endfor %}

{% endtest %}
