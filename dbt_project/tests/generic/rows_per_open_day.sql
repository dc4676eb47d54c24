{#- From the first to the last day of the model, each day on which the shop is open has its minimum of rows. -#}
{% test rows_per_open_day(model) %}

{%- set closed_days = shop_setting('closed_days') -%}

with

days as (
    select
        date_id,
        date,
        day_of_week
    from {{ ref('dim_date') }}
),

rows_by_day as (
    select
        date_id,
        count(*) as rows_of_day
    from {{ model }}
    group by date_id
),

span as (
    select
        min(date_id) as first_date_id,
        max(date_id) as last_date_id
    from rows_by_day
),

open_days as (
    select
        days.date_id,
        coalesce(rows_by_day.rows_of_day, 0) as rows_of_day
    from days
    cross join span
    left join rows_by_day
        on days.date_id = rows_by_day.date_id
    where
        days.date_id between span.first_date_id and span.last_date_id
        and days.day_of_week in ({{ shop_setting('open_weekdays') | join(', ') }})
        {%- if closed_days %}
        and cast(days.date as {{ type_string() }}) not in ('{{ closed_days | join("', '") }}')
        {%- endif %}
)

select
    'day ' || {{ as_text('date_id') }} || ' has ' || {{ as_text('rows_of_day') }} || ' rows, fewer than {{ var("rows_per_open_day_min") }}'
        as broken,
    rows_of_day as rows_found
from open_days
where rows_of_day < {{ var('rows_per_open_day_min') }}

{% endtest %}
