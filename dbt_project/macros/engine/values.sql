{#- Expressions that engines write differently. One dispatched macro each; models use nothing else of an engine's own. -#}

{% macro money_type() -%}
    {{ return('decimal(18, 4)') }}
{%- endmacro %}

{#- Money from any exact number. -#}
{% macro money(expression) -%}
    cast({{ expression }} as {{ money_type() }})
{%- endmacro %}

{#- A number, or null, from text. -#}
{% macro to_integer(column) -%}
    {{ adapter.dispatch('to_integer')(column) }}
{%- endmacro %}

{% macro duckdb__to_integer(column) -%}
    try_cast(trim({{ column }}) as integer)
{%- endmacro %}

{% macro to_decimal(column) -%}
    {{ adapter.dispatch('to_decimal')(column) }}
{%- endmacro %}

{% macro duckdb__to_decimal(column) -%}
    try_cast(trim({{ column }}) as {{ money_type() }})
{%- endmacro %}

{#- Whether text matches a regular expression; the pattern is anchored by its own ^ and $. -#}
{% macro matches(expression, pattern) -%}
    {{ adapter.dispatch('matches')(expression, pattern) }}
{%- endmacro %}

{% macro duckdb__matches(expression, pattern) -%}
    regexp_matches({{ expression }}, '{{ pattern }}')
{%- endmacro %}

{% macro digits_of(expression) -%}
    {{ adapter.dispatch('digits_of')(expression) }}
{%- endmacro %}

{% macro duckdb__digits_of(expression) -%}
    regexp_replace({{ expression }}, '[^0-9]', '', 'g')
{%- endmacro %}

{% macro md5_of(expression) -%}
    {{ adapter.dispatch('md5_of')(expression) }}
{%- endmacro %}

{% macro duckdb__md5_of(expression) -%}
    md5({{ expression }})
{%- endmacro %}

{#- The value of `value` in the row where `rank` is largest. -#}
{% macro value_at_max(value, rank) -%}
    {{ adapter.dispatch('value_at_max')(value, rank) }}
{%- endmacro %}

{% macro duckdb__value_at_max(value, rank) -%}
    arg_max_null({{ value }}, {{ rank }})
{%- endmacro %}

{#- Whole part of a quotient of whole numbers that are not negative, exact up to 38 digits. -#}
{% macro whole_quotient(dividend, divisor) -%}
    {{ adapter.dispatch('whole_quotient')(dividend, divisor) }}
{%- endmacro %}

{% macro duckdb__whole_quotient(dividend, divisor) -%}
    ({{ dividend }}) // ({{ divisor }})
{%- endmacro %}

{#- The whole-number type in which products of two amounts in minor units do not overflow. -#}
{% macro wide_integer_type() -%}
    {{ return(adapter.dispatch('wide_integer_type')()) }}
{%- endmacro %}

{% macro duckdb__wide_integer_type() -%}
    {{ return('hugeint') }}
{%- endmacro %}

{#- The median of a whole-number column, rounded half up; null without rows. -#}
{% macro median_half_up(column) -%}
    {{ adapter.dispatch('median_half_up')(column) }}
{%- endmacro %}

{% macro duckdb__median_half_up(column) -%}
    cast(floor(median({{ column }}) + 0.5) as integer)
{%- endmacro %}

{#- Text that sorts as the timestamp does; nulls first. -#}
{% macro sortable_text(timestamp) -%}
    coalesce(cast({{ timestamp }} as {{ type_string() }}), '')
{%- endmacro %}

{#- Text that sorts as the number, which must not be negative, does. -#}
{% macro sortable_number(number) -%}
    lpad(cast({{ number }} as {{ type_string() }}), 19, '0')
{%- endmacro %}
