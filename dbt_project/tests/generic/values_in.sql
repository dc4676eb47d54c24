{#- Every value of each column that is not null is one of a set: {column: [value, ...]}. One scan for all columns. -#}
{% test values_in(model, values) %}

{%- set expectations = [] -%}
{%- for column, allowed in values.items() -%}
    {%- set literals = [] -%}
    {%- for value in allowed -%}
        {%- do literals.append("'" ~ quoted(value) ~ "'" if value is string else value) -%}
    {%- endfor -%}
    {%- do expectations.append({
        'broken': column ~ ' not in (' ~ literals | join(', ') ~ ')',
        'says': "'" ~ column ~ " is ' || " ~ as_text(column) ~ " || ', none of " ~ quoted(allowed | join(', ')) ~ "'",
    }) -%}
{%- endfor -%}

{{ rows_breaking(model, expectations) }}

{% endtest %}
