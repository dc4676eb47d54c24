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
),

findings as (
    select
        'has ' || {{ as_text('all_rows') }} || ' rows, fewer than {{ minimum_rows }}' as broken,
        all_rows as rows_found,
        all_rows
    from shares
    where all_rows < {{ minimum_rows }}
    {%- for column in columns %}

    union all

    select
        '{{ column }} is null in ' || {{ as_text(column ~ '_nulls') }} || ' of ' || {{ as_text('all_rows') }}
        || ' rows, more than a share of {{ var('null_share_max') }}' as broken,
        {{ column }}_nulls as rows_found,
        all_rows
    from shares
    where {{ column }}_nulls > all_rows * {{ var('null_share_max') }}
    {%- endfor %}
)

select * from findings

{% endtest %}
