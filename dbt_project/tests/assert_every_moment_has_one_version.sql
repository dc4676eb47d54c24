-- Of a history, each moment since 1970 meets one version, also the moment at which one ends and the
-- next begins. Otherwise a report by category of then counts a sale twice, or not at all.

with

history as (
    select
        1 as version_number,
        {{ beginning_of_time() }} as valid_from,
        cast('2026-07-01 12:00:00' as timestamp) as valid_to
    union all
    select
        2 as version_number,
        cast('2026-07-01 12:00:00' as timestamp) as valid_from,
        cast('2026-07-02 00:00:00' as timestamp) as valid_to
    union all
    select
        3 as version_number,
        cast('2026-07-02 00:00:00' as timestamp) as valid_from,
        cast(null as timestamp) as valid_to
),

moments as (
    select
        {{ beginning_of_time() }} as moment,
        1 as expected
    union all
    select
        cast('2026-07-01 11:59:59' as timestamp) as moment,
        1 as expected
    union all
    select
        cast('2026-07-01 12:00:00' as timestamp) as moment,
        2 as expected
    union all
    select
        cast('2026-07-02 00:00:00' as timestamp) as moment,
        3 as expected
    union all
    select
        cast('2090-01-01 00:00:00' as timestamp) as moment,
        3 as expected
),

met as (
    select
        moments.moment,
        moments.expected,
        count(history.version_number) as versions,
        min(history.version_number) as found
    from moments
    left join history
        on {{ is_valid_at('history', 'moments.moment') }}
    group by
        moments.moment,
        moments.expected
)

select * from met
where versions <> 1 or found <> expected
