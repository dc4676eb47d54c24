{#- None of the columns is ever null, and there is at least one row (minimum_rows: 0 for what may be empty); one scan for all columns.
    With meta.new_loads_only, a build looks at rows of loads that no build has tested; for staging alone, where a row depends on
    nothing but its own row of raw. -#}
{% test not_null_columns(model, columns, minimum_rows=1) %}

{%- set expectations = [] -%}
{%- for column in columns -%}
    {%- do expectations.append({'broken': column ~ ' is null', 'says': "'" ~ column ~ " is null'"}) -%}
{%- endfor -%}

{{ rows_breaking(model, expectations, minimum_rows, among=is_untested()) }}

{% endtest %}
