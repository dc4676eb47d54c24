{#- None of the columns is ever null, and there is at least one row (minimum_rows: 0 for what may be empty); one scan for all columns. -#}
{% test not_null_columns(model, columns, minimum_rows=1) %}

{%- set expectations = [] -%}
{%- for column in columns -%}
    {%- do expectations.append({'broken': column ~ ' is null', 'says': "'" ~ column ~ " is null'"}) -%}
{%- endfor -%}

{{ rows_breaking(model, expectations, minimum_rows) }}

{% endtest %}
