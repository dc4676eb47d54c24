{#- Times. Every timestamp in the warehouse is UTC without a zone; a day is a day of the shop's time zone. -#}

{#- UTC from a `timestamp with time zone`. -#}
{% macro naive_utc(expression) -%}
    {{ adapter.dispatch('naive_utc')(expression) }}
{%- endmacro %}

{% macro default__naive_utc(expression) -%}
    timezone('UTC', {{ expression }})
{%- endmacro %}

{#- UTC from text in any format of docs/contracts.md, "Staging interface", or from a timestamp; null when it is none of them.
    Without an offset, the value is in the shop's source_time_zone. -#}
{% macro to_utc_timestamp(column) -%}
    {{ adapter.dispatch('to_utc_timestamp')(column) }}
{%- endmacro %}

{% macro duckdb__to_utc_timestamp(column) -%}
    {%- set text = text_of(column) -%}
    {%- set zone = shop_setting('source_time_zone') -%}
    {%- set local_time -%}
        case
            when {{ text }} similar to '\d{4}-\d{2}-\d{2}([ T].*)?' then try_cast({{ text }} as timestamp)
            else try_strptime(
                {{ text }},
                [
                    '%d/%m/%Y %H:%M:%S', '%d/%m/%Y %H:%M', '%Y/%m/%d %H:%M:%S', '%Y/%m/%d %H:%M',
                    '%b %d, %Y %H:%M:%S', '%b %d, %Y %H:%M'
                ]
            )
        end
    {%- endset -%}
    case
        when {{ text }} similar to '\d{10}' then epoch_ms(cast({{ text }} as bigint) * 1000)
        when {{ text }} similar to '\d{13}' then epoch_ms(cast({{ text }} as bigint))
        {#- DuckDB writes a timestamptz with an offset of two digits. #}
        when {{ text }} similar to '\d{4}-\d{2}-\d{2}[ T].*(Z|[+-]\d{2}(:\d{2})?)'
            then timezone('UTC', try_cast({{ text }} as timestamptz))
        {%- if zone == 'UTC' %}
        else {{ local_time }}
        {%- else %}
        else timezone('UTC', timezone('{{ zone }}', {{ local_time }}))
        {%- endif %}
    end
{%- endmacro %}

{% macro postgres__to_utc_timestamp(column) -%}
    {{ staging_function('text_to_utc') }}({{ text_of(column) }}, '{{ shop_setting("source_time_zone") }}')
{%- endmacro %}

{#- The day in the shop's time zone of a UTC timestamp. -#}
{% macro shop_day(expression) -%}
    {{ adapter.dispatch('shop_day')(expression) }}
{%- endmacro %}

{% macro default__shop_day(expression) -%}
    cast(timezone('{{ shop_setting("time_zone") }}', timezone('UTC', {{ expression }})) as date)
{%- endmacro %}

{#- The UTC timestamp at which a day of the shop's time zone begins. -#}
{% macro start_of_shop_day(day) -%}
    {{ adapter.dispatch('start_of_shop_day')(day) }}
{%- endmacro %}

{% macro default__start_of_shop_day(day) -%}
    timezone('UTC', timezone('{{ shop_setting("time_zone") }}', cast({{ day }} as timestamp)))
{%- endmacro %}

{#- yyyymmdd as a whole number, from a date. -#}
{% macro day_number(day) -%}
    cast(
        extract(year from {{ day }}) * 10000 + extract(month from {{ day }}) * 100 + extract(day from {{ day }}) as integer
    )
{%- endmacro %}

{#- yyyymmdd of the shop's day of a UTC timestamp. -#}
{% macro date_id(expression) -%}
    {{ day_number(shop_day(expression)) }}
{%- endmacro %}

{#- Day of the week of a date, 1 = Monday to 7 = Sunday. -#}
{% macro day_of_week(day) -%}
    {{ adapter.dispatch('day_of_week')(day) }}
{%- endmacro %}

{% macro duckdb__day_of_week(day) -%}
    cast(isodow({{ day }}) as integer)
{%- endmacro %}

{% macro postgres__day_of_week(day) -%}
    cast(extract(isodow from {{ day }}) as integer)
{%- endmacro %}

{#- A date moved by a whole number of days. -#}
{% macro add_days(day, days) -%}
    cast({{ dateadd('day', days, day) }} as date)
{%- endmacro %}

{#- How often a number of minutes have passed from 1970 to a UTC timestamp: a small number, for where millions are compared. -#}
{% macro spans_since_1970(timestamp, minutes) -%}
    {{ adapter.dispatch('spans_since_1970')(timestamp, minutes) }}
{%- endmacro %}

{#- Whole numbers only, which round toward zero: before 1970 not as PostgreSQL's, but `moments_within_reach` blocks those. -#}
{% macro duckdb__spans_since_1970(timestamp, minutes) -%}
    cast(epoch_us({{ timestamp }}) // {{ minutes * 60000000 }} as integer)
{%- endmacro %}

{% macro postgres__spans_since_1970(timestamp, minutes) -%}
    cast(floor(extract(epoch from {{ timestamp }}) / {{ minutes * 60 }}) as integer)
{%- endmacro %}

{#- The start of the five minutes, counted from the full hour, in which a timestamp lies. -#}
{% macro click_window(timestamp) -%}
    {{ adapter.dispatch('click_window')(timestamp) }}
{%- endmacro %}

{% macro duckdb__click_window(timestamp) -%}
    time_bucket(interval '5 minutes', {{ timestamp }})
{%- endmacro %}

{% macro postgres__click_window(timestamp) -%}
    date_bin(interval '5 minutes', {{ timestamp }}, {{ beginning_of_time() }})
{%- endmacro %}

{#- The frame, over an order by a timestamp, of the rows within the hour that ends with the row, those at its moment included;
    what is exactly an hour older is not. Timestamps have microseconds. -#}
{% macro frame_of_an_hour() -%}
    range between interval '3599.999999 seconds' preceding and current row
{%- endmacro %}
