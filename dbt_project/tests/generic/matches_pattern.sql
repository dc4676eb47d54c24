{#- Every value of the column that is not null matches the regular expression; with `patterns`, {column: pattern}, of several columns in
    one scan. -#}
{% test matches_pattern(model, column=none, pattern=none, patterns={}) %}

{%- set expectations = [] -%}
{%- for name, expected in (patterns or {column: pattern}).items() -%}
    {%- do expectations.append({
        'broken': 'not ' ~ matches(name, expected),
        'says': "'" ~ name ~ " is ' || " ~ as_text(name) ~ " || ', which does not match " ~ expected ~ "'",
    }) -%}
{%- endfor -%}

{{ rows_breaking(model, expectations) }}

{% endtest %}
