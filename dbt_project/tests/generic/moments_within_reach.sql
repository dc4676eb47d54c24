{#- No value of the columns, UTC timestamps, lies before `first_moment`, nor more than `future_days_max` days after the build began: marts
    with a row for each day would reach there, and their last day be that one. One scan for all columns. -#}
{% test moments_within_reach(model, columns) %}

{%- set expectations = [] -%}
{%- set latest = last_moment() -%}
{%- for column in columns -%}
    {%- do expectations.append({
        'broken': '(' ~ column ~ " < timestamp '" ~ var('first_moment') ~ "' or " ~ column ~ ' > ' ~ latest ~ ')',
        'says': "'" ~ column ~ " is ' || " ~ as_text(column) ~ " || ', before " ~ var('first_moment') ~ " or more than " ~ var('future_days_max') ~ " days from now'",
    }) -%}
{%- endfor -%}

{{ rows_breaking(model, expectations) }}

{% endtest %}
