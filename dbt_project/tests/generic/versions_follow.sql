{#- The versions of each key follow each other without gap or overlap: numbered from 1, the first valid since 1970, each valid until
    the next one, the last one current, and no version repeats what the one before said (`columns`). -#}
{% test versions_follow(model, key, columns) %}

with

keys_of_several as (
    select {{ key }}
    from {{ model }}
    group by {{ key }}
    having count(*) > 1
),

-- Most keys have one version, which has no neighbours: it is the first, and valid for ever.
versions as (
    select *
    from {{ model }}
    where
        {{ key }} in (select keys_of_several.{{ key }} from keys_of_several)
        or version_number <> 1
        or valid_from <> {{ beginning_of_time() }}
        or valid_to is not null
        or not is_current
),

neighbours as (
    select
        {{ key }},
        version_number,
        valid_from,
        valid_to,
        is_current,
        row_number() over of_key as place,
        lag(valid_to) over of_key as previous_valid_to,
        lead(valid_from) over of_key as next_valid_from,
        case
            when
                lag(version_number) over of_key is not null
                {%- for column in columns %}
                and lag({{ column }}) over of_key is not distinct from {{ column }}
                {%- endfor %}
                then true
            else false
        end as is_repeated
    from versions
    window of_key as (partition by {{ key }} order by valid_from, version_number)
)

select *
from neighbours
where
    version_number <> place
    or (place = 1 and valid_from <> {{ beginning_of_time() }})
    or (place > 1 and previous_valid_to is distinct from valid_from)
    or valid_to is distinct from next_valid_from
    or valid_to <= valid_from
    or is_current <> (next_valid_from is null)
    or is_repeated

{% endtest %}
