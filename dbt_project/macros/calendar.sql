{#- Weeks and months of the shop's days; standard SQL over the macros of engine/times.sql. -#}

{#- The Monday of a date's ISO week. -#}
{% macro first_of_week(day) -%}
    {{ add_days(day, '1 - ' ~ day_of_week(day)) }}
{%- endmacro %}

{#- The first day of a date's month. -#}
{% macro first_of_month(day) -%}
    make_date(cast(extract(year from {{ day }}) as integer), cast(extract(month from {{ day }}) as integer), 1)
{%- endmacro %}

{#- The last day of a date's month. -#}
{% macro last_of_month(day) -%}
    {{ add_days(dateadd('month', 1, first_of_month(day)), -1) }}
{%- endmacro %}

{#- A date, but the first one where it lies before that, and the last one where it lies after that. -#}
{% macro day_within(day, first_day, last_day) -%}
    case
        when {{ day }} < {{ first_day }} then {{ first_day }}
        when {{ day }} > {{ last_day }} then {{ last_day }}
        else {{ day }}
    end
{%- endmacro %}

{#- Months since the year 0, so that their difference is a number of months. -#}
{% macro month_number(day) -%}
    cast(extract(year from {{ day }}) * 12 + extract(month from {{ day }}) as integer)
{%- endmacro %}

{#- Days from one date to a later one. -#}
{% macro days_between(first_day, last_day) -%}
    cast({{ datediff(first_day, last_day, 'day') }} as integer)
{%- endmacro %}

{#- A query of the whole numbers, as `number`, from 0 to as many nines as `digits` says. -#}
{% macro whole_numbers(digits) -%}
    select
        {%- for place in range(digits) %}
        {{ '+ ' if place }}{{ 10 ** place }} * place_{{ place }}.digit
        {%- endfor %} as number
    from
        {%- for place in range(digits) %}
        {{ 'cross join ' if place }}(
            {%- for digit in range(10) %}
            select {{ digit }} as digit
            {%- if not loop.last %}
            union all
            {%- endif %}
            {%- endfor %}
        ) as place_{{ place }}
        {%- endfor %}
{%- endmacro %}
