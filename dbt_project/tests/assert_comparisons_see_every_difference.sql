-- Two relations that are compared row by row differ where one lacks a key, and where a value is
-- another one or on one side null. Otherwise tests that compare in this way find nothing.

with

ours as (
    select
        1 as id,
        'same' as kind,
        'a' as label,
        2 as amount
    union all
    select
        2 as id,
        'both null' as kind,
        cast(null as {{ type_string() }}) as label,
        2 as amount
    union all
    select
        3 as id,
        'other' as kind,
        'a' as label,
        2 as amount
    union all
    select
        4 as id,
        'null here' as kind,
        cast(null as {{ type_string() }}) as label,
        2 as amount
    union all
    select
        5 as id,
        'null there' as kind,
        'a' as label,
        2 as amount
    union all
    -- All but the key null, as columns of the side that lacks it are.
    select
        6 as id,
        'here alone' as kind,
        cast(null as {{ type_string() }}) as label,
        cast(null as integer) as amount
),

theirs as (
    select
        1 as id,
        'a' as label,
        2 as amount
    union all
    select
        2 as id,
        cast(null as {{ type_string() }}) as label,
        2 as amount
    union all
    select
        3 as id,
        'a' as label,
        3 as amount
    union all
    select
        4 as id,
        'a' as label,
        2 as amount
    union all
    select
        5 as id,
        cast(null as {{ type_string() }}) as label,
        2 as amount
    union all
    select
        7 as id,
        cast(null as {{ type_string() }}) as label,
        cast(null as integer) as amount
),

found as (
    select coalesce(ours.kind, 'there alone') as kind
    from ours
    full outer join theirs
        on ours.id = theirs.id
    where {{ is_otherwise('ours', 'theirs', 'id', ['label', 'amount']) }}
),

expected as (
    {% for kind in ['other', 'null here', 'null there', 'here alone', 'there alone'] %}
        select '{{ kind }}' as kind
        {% if not loop.last %}
            union all
        {% endif %}
    {% endfor %}
)

select
    expected.kind as missed,
    found.kind as found_without_reason
from expected
full outer join found
    on expected.kind = found.kind
where expected.kind is null or found.kind is null
