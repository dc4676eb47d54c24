{#- Every value of each column is in the column of the same name of the model it refers to: {column: model}. -#}
{% test references_hold(model, references) %}

with

{%- for column, target in references.items() %}

{{ column }}_targets as (
    select {{ column }} from {{ ref(target) }}
),
{%- endfor %}

orphans as (
    {%- for column, target in references.items() %}
    select
        '{{ column }} ' || {{ as_text('facts.' ~ column) }} || ' is not in {{ target }}' as broken,
        count(*) as rows_found
    from {{ model }} as facts
    left join {{ column }}_targets
        on facts.{{ column }} = {{ column }}_targets.{{ column }}
    where {{ column }}_targets.{{ column }} is null
    group by facts.{{ column }}
    {%- if not loop.last %}

    union all
    {% endif %}
    {%- endfor %}
)

select * from orphans

{% endtest %}
