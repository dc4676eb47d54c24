{#- The last days of a model of days have the volume that their weekday leads to expect: not less than var('volume_share_min') of the
    median of the same weekday in the var('volume_weeks') weeks before. Where the week before the day was below its own medians too
    (the season ended), as much less is expected. A day that is missing has volume 0. The model's last day is not over when it is
    extracted, and not judged; nor are days on which the shop is closed, and days too small to tell chance from a fault. -#}
{% test volume_like_its_weekdays(model, column, date_column='date') %}

{%- set closed_days = shop_setting('closed_days') -%}

with

volumes as (
    select
        {{ date_column }} as day,
        {{ column }} as volume
    from {{ model }}
    where {{ column }} > 0
),

span as (
    select
        min(day) as first_day,
        max(day) as last_day
    from volumes
),

days as (
    select
        dates.date as day,
        coalesce(volumes.volume, 0) as volume
    from {{ ref('dim_date') }} as dates
    cross join span
    left join volumes
        on dates.date = volumes.day
    where
        dates.date >= span.first_day
        and dates.date < span.last_day
        and dates.date >= {{ add_days('span.last_day', '-7 * (' ~ var('volume_weeks') ~ ' + 2) - ' ~ var('volume_days')) }}
        and dates.day_of_week in ({{ shop_setting('open_weekdays') | join(', ') }})
        {%- if closed_days %}
        and cast(dates.date as {{ type_string() }}) not in ('{{ closed_days | join("', '") }}')
        {%- endif %}
),

medians as (
    select
        days.day,
        days.volume,
        {{ median_half_up('past.volume') }} as median_volume
    from days
    inner join days as past
        on
            past.day < days.day
            and past.day >= {{ add_days('days.day', '-7 * ' ~ var('volume_weeks')) }}
            and {{ day_of_week('past.day') }} = {{ day_of_week('days.day') }}
    group by days.day, days.volume
    -- Fewer weeks are no history to compare with.
    having count(*) >= 3
),

levels as (
    select
        medians.day,
        medians.volume,
        medians.median_volume,
        {{ median_half_up('cast(10000 * before.volume as double precision) / before.median_volume') }} as level_before
    from medians
    left join medians as before
        on
            before.day < medians.day
            and before.day >= {{ add_days('medians.day', '-7') }}
            and before.median_volume > 0
    group by medians.day, medians.volume, medians.median_volume
),

judged as (
    select
        levels.day,
        levels.volume,
        levels.median_volume,
        cast(levels.median_volume * least(10000, coalesce(levels.level_before, 10000)) as double precision) / 10000 as expected
    from levels
    cross join span
    where
        levels.day >= {{ add_days('span.last_day', '-1 * ' ~ var('volume_days')) }}
        and levels.median_volume >= {{ var('volume_median_min') }}
)

select
    cast(day as {{ type_string() }}) || ' has {{ column }} ' || {{ as_text('volume') }} || ', less than {{ var("volume_share_min") }} of '
    || {{ as_text('cast(expected as integer)') }} || ', as the same weekday of {{ var("volume_weeks") }} weeks lets expect' as broken,
    volume as rows_found,
    day,
    volume,
    expected
from judged
where volume < expected * {{ var('volume_share_min') }}

{% endtest %}
