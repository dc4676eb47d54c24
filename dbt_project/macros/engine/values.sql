{#- Expressions that engines write differently. One dispatched macro each; models use nothing else of an engine's own. -#}

{% macro money_type() -%}
    {{ return('decimal(18, 4)') }}
{%- endmacro %}

{#- Money from any exact number. -#}
{% macro money(expression) -%}
    cast({{ expression }} as {{ money_type() }})
{%- endmacro %}

{#- Money from a number of whatever size; null when money cannot hold it. An absurd version may be corrected by a later one, so
    that no expression over the log of versions may throw. -#}
{% macro money_or_null(expression) -%}
    {{ adapter.dispatch('money_or_null')(expression) }}
{%- endmacro %}

{% macro duckdb__money_or_null(expression) -%}
    try_cast({{ expression }} as {{ money_type() }})
{%- endmacro %}

{#- What a function returns has no scale of its own. -#}
{% macro postgres__money_or_null(expression) -%}
    cast({{ staging_function('number_to_money') }}({{ expression }}) as {{ money_type() }})
{%- endmacro %}

{#- A whole number as received; null when it is anything else (1.5 is no whole number, 2.0 is) or does not fit the type. -#}
{% macro to_whole_number(column, type) -%}
    {{ adapter.dispatch('to_whole_number')(column, type) }}
{%- endmacro %}

{% macro duckdb__to_whole_number(column, type) -%}
    case
        when regexp_full_match({{ text_of(column) }}, '[+-]?[0-9]+([.]0*)?') then try_cast({{ text_of(column) }} as {{ type }})
    end
{%- endmacro %}

{% macro postgres__to_whole_number(column, type) -%}
    {{ staging_function('text_to_' ~ type) }}({{ text_of(column) }})
{%- endmacro %}

{% macro to_integer(column) -%}
    {{ to_whole_number(column, 'integer') }}
{%- endmacro %}

{#- Money, or null, as received. -#}
{% macro to_decimal(column) -%}
    {{ adapter.dispatch('to_decimal')(column) }}
{%- endmacro %}

{% macro duckdb__to_decimal(column) -%}
    try_cast({{ text_of(column) }} as {{ money_type() }})
{%- endmacro %}

{% macro postgres__to_decimal(column) -%}
    cast({{ staging_function('text_to_money') }}({{ text_of(column) }}) as {{ money_type() }})
{%- endmacro %}

{#- Money as received, 0 where there is nothing; null, which blocks publishing, where there is something that is no money. -#}
{% macro to_decimal_or_zero(column) -%}
    case when coalesce({{ text_of(column) }}, '') = '' then {{ money(0) }} else {{ to_decimal(column) }} end
{%- endmacro %}

{#- Quantity x unit price, of whole number and money; as a number of 38 digits, in which any product of both fits. -#}
{% macro quantity_times_price(quantity, unit_price) -%}
    cast({{ quantity }} as decimal(20, 0)) * {{ unit_price }}
{%- endmacro %}

{#- Whether text matches a regular expression; the pattern is anchored by its own ^ and $. -#}
{% macro matches(expression, pattern) -%}
    {{ adapter.dispatch('matches')(expression, pattern) }}
{%- endmacro %}

{% macro duckdb__matches(expression, pattern) -%}
    regexp_matches({{ expression }}, '{{ pattern }}')
{%- endmacro %}

{% macro postgres__matches(expression, pattern) -%}
    {{ expression }} ~ '{{ pattern }}'
{%- endmacro %}

{% macro digits_of(expression) -%}
    {{ adapter.dispatch('digits_of')(expression) }}
{%- endmacro %}

{% macro default__digits_of(expression) -%}
    regexp_replace({{ expression }}, '[^0-9]', '', 'g')
{%- endmacro %}

{#- Text without the spaces around it, those of any script (Unicode's category Zs); a tab or a line's end is none of them. -#}
{% macro trimmed(expression) -%}
    {{ adapter.dispatch('trimmed')(expression) }}
{%- endmacro %}

{% macro duckdb__trimmed(expression) -%}
    trim({{ expression }})
{%- endmacro %}

{% macro postgres__trimmed(expression) -%}
    btrim({{ expression }}, U&' \00a0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200a\202f\205f\3000')
{%- endmacro %}

{#- Text in small letters, of any script, letter by letter. -#}
{% macro lower_case(expression) -%}
    {{ adapter.dispatch('lower_case')(expression) }}
{%- endmacro %}

{% macro duckdb__lower_case(expression) -%}
    lower({{ expression }})
{%- endmacro %}

{#- PostgreSQL's own lower() knows the letters that the database's locale knows: of `C`, no more than a to z. -#}
{% macro postgres__lower_case(expression) -%}
    {{ staging_function('lower_case') }}({{ expression }})
{%- endmacro %}

{#- Text in capitals, of any script, letter by letter. -#}
{% macro upper_case(expression) -%}
    {{ adapter.dispatch('upper_case')(expression) }}
{%- endmacro %}

{% macro duckdb__upper_case(expression) -%}
    upper({{ expression }})
{%- endmacro %}

{% macro postgres__upper_case(expression) -%}
    {{ staging_function('upper_case') }}({{ expression }})
{%- endmacro %}

{#- Text for an order that decides which row counts: by its bytes, whatever the database's locale. For other types, the value itself. -#}
{% macro in_byte_order(expression, type=none) -%}
    {{ adapter.dispatch('in_byte_order')(expression, type or type_string()) }}
{%- endmacro %}

{% macro duckdb__in_byte_order(expression, type) -%}
    {{ expression }}
{%- endmacro %}

{% macro postgres__in_byte_order(expression, type) -%}
    {{ expression ~ (' collate "C"' if type == type_string() else '') }}
{%- endmacro %}

{% macro md5_of(expression) -%}
    {{ adapter.dispatch('md5_of')(expression) }}
{%- endmacro %}

{% macro default__md5_of(expression) -%}
    md5({{ expression }})
{%- endmacro %}

{#- One row per key of a relation: the columns of its row where `rank` is largest (null where no row has a rank), the smallest
    value of `first`, and how many rows there are, as `number`. -#}
{% macro rows_at_max(relation, key, columns, rank, first, number) -%}
    {{ adapter.dispatch('rows_at_max')(relation, key, columns, rank, first, number) }}
{%- endmacro %}

{#- One aggregate of all columns: an aggregate for each would keep the rank as often. -#}
{% macro duckdb__rows_at_max(relation, key, columns, rank, first, number) -%}
    select
        {{ key }},
        {%- for column in columns %}
        latest_row['{{ column }}'] as {{ column }},
        {%- endfor %}
        {{ first }},
        {{ number }}
    from (
        select
            {{ key }},
            arg_max_null(
                struct_pack(
                    {%- for column in columns %}
                    {{ column }} := {{ column }}{{ "," if not loop.last }}
                    {%- endfor %}
                ),
                {{ rank }}
            ) as latest_row,
            min({{ first }}) as {{ first }},
            count(*) as {{ number }}
        from {{ relation }}
        group by {{ key }}
    ) as latest_rows
{%- endmacro %}

{#- Rows have no maximum before PostgreSQL 18: the first row of each key, in the order of ranks, beside the key's aggregates. -#}
{% macro postgres__rows_at_max(relation, key, columns, rank, first, number) -%}
    select
        latest_rows.{{ key }},
        {%- for column in columns %}
        case when latest_rows.{{ rank }} is not null then latest_rows.{{ column }} end as {{ column }},
        {%- endfor %}
        counted.{{ first }},
        counted.{{ number }}
    from (
        select distinct on ({{ key }}) *
        from {{ relation }}
        order by {{ key }}, {{ in_byte_order(rank) }} desc nulls last
    ) as latest_rows
    inner join (
        select
            {{ key }},
            min({{ first }}) as {{ first }},
            count(*) as {{ number }}
        from {{ relation }}
        group by {{ key }}
    ) as counted
        on latest_rows.{{ key }} = counted.{{ key }}
{%- endmacro %}

{#- Whole part of a quotient of whole numbers that are not negative, exact up to 38 digits. -#}
{% macro whole_quotient(dividend, divisor) -%}
    {{ adapter.dispatch('whole_quotient')(dividend, divisor) }}
{%- endmacro %}

{% macro duckdb__whole_quotient(dividend, divisor) -%}
    ({{ dividend }}) // ({{ divisor }})
{%- endmacro %}

{#- Null where the divisor is 0, as DuckDB has it. -#}
{% macro postgres__whole_quotient(dividend, divisor) -%}
    div({{ dividend }}, nullif({{ divisor }}, 0))
{%- endmacro %}

{#- A share or ratio of two whole numbers that are not negative, with six places, rounded half up; null where the divisor is 0.
    Every quotient of the project goes through this macro or the next one: engines divide decimals differently. -#}
{% macro ratio(dividend, divisor) -%}
    cast(
        case
            when {{ divisor }} > 0
                then {{ whole_quotient(
                    '2000000 * cast(' ~ dividend ~ ' as ' ~ wide_integer_type() ~ ') + cast(' ~ divisor ~ ' as ' ~ wide_integer_type() ~ ')',
                    '2 * cast(' ~ divisor ~ ' as ' ~ wide_integer_type() ~ ')'
                ) }}
        end * cast(0.000001 as decimal(7, 6)) as {{ ratio_type() }}
    )
{%- endmacro %}

{% macro ratio_type() -%}
    {{ return('decimal(18, 6)') }}
{%- endmacro %}

{#- A window's value of a column of this type. -#}
{% macro with_scale(expression, type) -%}
    {{ adapter.dispatch('with_scale')(expression, type) }}
{%- endmacro %}

{% macro duckdb__with_scale(expression, type) -%}
    {{ expression }}
{%- endmacro %}

{#- There, a number loses its scale, and a model under contract would refuse it. -#}
{% macro postgres__with_scale(expression, type) -%}
    {{ 'cast(' ~ expression ~ ' as ' ~ type ~ ')' if '(' in type else expression }}
{%- endmacro %}

{#- A number of any kind beside ratios: the same type. -#}
{% macro as_value(expression) -%}
    cast({{ expression }} as {{ ratio_type() }})
{%- endmacro %}

{#- Money per piece: an amount that is not negative over a whole number, rounded half up to money's places; null where that is 0. -#}
{% macro average_money(amount, divisor) -%}
    {{ money(
        'case when ' ~ divisor ~ ' > 0 then ' ~ whole_quotient(
            'cast(20000 * cast(' ~ amount ~ ' as decimal(38, 4)) as ' ~ wide_integer_type() ~ ') + cast(' ~ divisor ~ ' as ' ~ wide_integer_type() ~ ')',
            '2 * cast(' ~ divisor ~ ' as ' ~ wide_integer_type() ~ ')'
        ) ~ ' end * cast(0.0001 as decimal(5, 4))'
    ) }}
{%- endmacro %}

{#- The whole-number type in which products of two amounts in minor units do not overflow. -#}
{% macro wide_integer_type() -%}
    {{ return(adapter.dispatch('wide_integer_type')()) }}
{%- endmacro %}

{% macro duckdb__wide_integer_type() -%}
    {{ return('hugeint') }}
{%- endmacro %}

{% macro postgres__wide_integer_type() -%}
    {{ return('numeric(39, 0)') }}
{%- endmacro %}

{#- The median of a whole-number column, rounded half up; null without rows. -#}
{% macro median_half_up(column) -%}
    {{ adapter.dispatch('median_half_up')(column) }}
{%- endmacro %}

{% macro duckdb__median_half_up(column) -%}
    cast(floor(median({{ column }}) + 0.5) as integer)
{%- endmacro %}

{% macro postgres__median_half_up(column) -%}
    cast(floor(percentile_cont(0.5) within group (order by {{ column }}) + 0.5) as integer)
{%- endmacro %}

{#- Text that sorts as the timestamp does; nulls first. -#}
{% macro sortable_text(timestamp) -%}
    coalesce(cast({{ timestamp }} as {{ type_string() }}), '')
{%- endmacro %}

{#- Text that sorts as the number, which must not be negative, does. -#}
{% macro sortable_number(number) -%}
    lpad(cast({{ number }} as {{ type_string() }}), 19, '0')
{%- endmacro %}
