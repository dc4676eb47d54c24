{#- What tests have in common. Every row that a generic one (tests/generic) finds says what it breaks, and how many rows do. -#}

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

{#- An aggregate condition over the rows of both sides of a comparison: of some `key` (column names), one of `missing` (SQL of whole numbers,
    below 0 for what the other side has) does not sum to 0. Of all keys together, each weighed with a number of its own, so that
    millions of keys need neither group nor join; which ones differ is to be asked only when this is true (DECISIONS.md). -#}
{% macro is_unbalanced(missing, key) -%}
    (
        {%- for number in missing %}
        {{ "or " if not loop.first }}coalesce(sum(cast({{ number }} as {{ wide_integer_type() }}) * {{ fingerprint(key) }}), 0) <> 0
        {%- endfor %}
    )
{%- endmacro %}

{#- A value as text for a message. -#}
{% macro as_text(expression) -%}
    coalesce(cast({{ expression }} as {{ type_string() }}), 'null')
{%- endmacro %}

{#- A text of the project as an SQL literal within a message. -#}
{% macro quoted(text) -%}
    {{ text | string | replace("'", "''") }}
{%- endmacro %}
