{#- What the generic tests (tests/generic) have in common: every row they find says what it breaks, and how many rows do. -#}

{#- The rows of a model that break any of `expectations`, each {broken: SQL condition, says: SQL of a text}, in one scan: `broken` says
    which of them and with what value, `rows_found` how many rows break any; then the row itself. With `minimum_rows`, a model of fewer
    rows is one more finding, so that an emptied one does not pass. `among` is a condition of the rows to look at. -#}
{% macro rows_breaking(model, expectations, minimum_rows=0, among=none) -%}
    select
        substr(
            {%- for expectation in expectations %}
            {{ "|| " if not loop.first }}case when {{ expectation.broken }} then '; ' || {{ expectation.says }} else '' end
            {%- endfor %},
            3
        ) as broken,
        count(*) over () as rows_found,
        *
    from {{ model }}
    where
        {%- if among %}
        {{ among }}
        and (
            {%- for expectation in expectations %}
            {{ "or " if not loop.first }}{{ expectation.broken }}
            {%- endfor %}
        )
        {%- else %}
        {%- for expectation in expectations %}
        {{ "or " if not loop.first }}{{ expectation.broken }}
        {%- endfor %}
        {%- endif %}
    {%- if minimum_rows > 0 %}

    union all

    select
        'has ' || {{ as_text('counted.all_rows') }} || ' rows, fewer than {{ minimum_rows }}' as broken,
        counted.all_rows as rows_found,
        tested.*
    from (select count(*) as all_rows from {{ model }}) as counted
    left join (select * from {{ model }} where 1 = 0) as tested
        on 1 = 1
    where counted.all_rows < {{ minimum_rows }}
    {%- endif -%}
{%- endmacro %}

{#- A value as text for a message. -#}
{% macro as_text(expression) -%}
    coalesce(cast({{ expression }} as {{ type_string() }}), 'null')
{%- endmacro %}

{#- A text of the project as an SQL literal within a message. -#}
{% macro quoted(text) -%}
    {{ text | string | replace("'", "''") }}
{%- endmacro %}
