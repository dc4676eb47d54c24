{#- Every value of each column is within its bounds, both included: {column: [lower, upper]}. One scan for all columns. -#}
{% test values_between(model, bounds) %}

{%- set expectations = [] -%}
{%- for column, range in bounds.items() -%}
    {%- do expectations.append({
        'broken': '(' ~ column ~ ' < ' ~ range[0] ~ ' or ' ~ column ~ ' > ' ~ range[1] ~ ')',
        'says': "'" ~ column ~ " is ' || " ~ as_text(column) ~ " || ', not between " ~ quoted(range[0]) ~ " and " ~ quoted(range[1]) ~ "'",
    }) -%}
{%- endfor -%}

{{ rows_breaking(model, expectations) }}

{% endtest %}
