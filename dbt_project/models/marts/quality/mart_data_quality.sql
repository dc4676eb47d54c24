{#- Recomputed in full: it stands on the ledgers and on counts per load, a few thousand rows a year,
    whatever the shop sells. The build that makes it is not over yet: what its own tests find is in
    the next one. -#}
with

loads as (
    select * from {{ source('ops', 'loads') }}
),

syncs as (
    select * from {{ source('ops', 'syncs') }}
),

test_results as (
    select * from {{ source('ops', 'test_results') }}
),

runs as (
    select * from {{ source('ops', 'runs') }}
),

raw_values as (
    select * from {{ ref('int_raw_values__counted') }}
),

load_bound as (
    select
        load_id,
        {{ naive_utc('fixed_at') }} as measured_at
    from {{ source('ops', 'load_bound') }}
),

-- Up to the day of this build, and from 9,999 days before it: 27 years. A trace of a machine whose
-- clock was wrong counts on the nearest of these days, so it pushes none out and is not lost.
span as (
    select
        load_id,
        measured_at,
        {{ add_days(shop_day('measured_at'), -9999) }} as earliest_date,
        {{ shop_day('measured_at') }} as last_date
    from load_bound
),

loads_by_load as (
    select
        loads.load_id,
        loads.source || '-' || loads.stream as subject,
        {{ day_within(
            shop_day(naive_utc('loads.extracted_at')), 'span.earliest_date', 'span.last_date'
        ) }} as date,
        loads.rows_extracted,
        loads.rows_loaded,
        loads.rows_quarantined,
        loads.rows_dropped
    from loads
    inner join span
        on loads.load_id <= span.load_id
),

-- One that finished after this build began says nothing of how fresh the stream was then.
good_syncs as (
    select
        syncs.source || '-' || syncs.stream as subject,
        {{ naive_utc('syncs.finished_at') }} as finished_at,
        {{ day_within(
            shop_day(naive_utc('syncs.finished_at')), 'span.earliest_date', 'span.last_date'
        ) }} as date
    from syncs
    cross join span
    where syncs.status = 'ok'
),

dated_tests as (
    select
        {{ day_within(
            shop_day(naive_utc('test_results.executed_at')), 'span.earliest_date', 'span.last_date'
        ) }} as date,
        test_results.test_name,
        test_results.model,
        test_results.status
    from test_results
    cross join span
    where test_results.kind in ('data', 'unit')
),

tests_by_day as (
    select
        date,
        test_name,
        model,
        max(case when status in ('fail', 'error') then 1 else 0 end) as is_failed,
        max(case when status = 'warn' then 1 else 0 end) as is_warned
    from dated_tests
    group by date, test_name, model
),

dated_runs as (
    select
        {{ day_within(
            shop_day(naive_utc('runs.started_at')), 'span.earliest_date', 'span.last_date'
        ) }} as date,
        runs.status
    from runs
    cross join span
),

failed_runs_by_day as (
    select
        date,
        count(*) as runs_count,
        sum(case when status = 'failed' then 1 else 0 end) as failed_runs
    from dated_runs
    group by date
),

-- Every day from the first trace to the day of this build.
traces as (
    select date from loads_by_load
    union all
    select date from good_syncs
    union all
    select date from tests_by_day
    union all
    select date from failed_runs_by_day
    union all
    select last_date as date
    from span
),

first_trace as (
    select min(date) as date
    from traces
),

-- 0 to 9,999
numbers as (
    {{ whole_numbers(4) }}
),

candidate_days as (
    select
        {{ add_days('span.last_date', '-numbers.number') }} as date,
        span.measured_at
    from numbers
    cross join span
),

-- A day ends with its last moment, the day of this build with the build.
days as (
    select
        candidate_days.date,
        least(
            {{ start_of_shop_day(add_days('candidate_days.date', 1)) }}, candidate_days.measured_at
        ) as ends_at
    from candidate_days
    inner join first_trace
        on candidate_days.date >= first_trace.date
),

subjects as (
    select
        subject,
        min(date) as first_date
    from (
        select
            subject,
            date
        from loads_by_load
        union all
        select
            subject,
            date
        from good_syncs
    ) as mentions
    group by subject
),

stream_days as (
    select
        days.date,
        days.ends_at,
        subjects.subject
    from days
    inner join subjects
        on days.date >= subjects.first_date
),

volumes as (
    select
        stream_days.date,
        stream_days.subject,
        coalesce(sum(loads_by_load.rows_extracted), 0) as rows_extracted,
        coalesce(sum(loads_by_load.rows_loaded), 0) as rows_loaded,
        coalesce(sum(loads_by_load.rows_quarantined), 0) as quarantined_rows,
        coalesce(sum(loads_by_load.rows_dropped), 0) as duplicates_dropped
    from stream_days
    left join loads_by_load
        on
            stream_days.date = loads_by_load.date
            and stream_days.subject = loads_by_load.subject
    group by stream_days.date, stream_days.subject
),

last_syncs as (
    select
        stream_days.date,
        stream_days.subject,
        stream_days.ends_at,
        max(good_syncs.finished_at) as last_sync_at
    from stream_days
    inner join good_syncs
        on
            stream_days.subject = good_syncs.subject
            and stream_days.ends_at >= good_syncs.finished_at
    group by stream_days.date, stream_days.subject, stream_days.ends_at
),

values_by_day as (
    select
        loads_by_load.date,
        loads_by_load.subject,
        raw_values.column_name,
        sum(raw_values.filled_rows) as filled_rows
    from raw_values
    inner join loads_by_load
        on raw_values.load_id = loads_by_load.load_id
    group by loads_by_load.date, loads_by_load.subject, raw_values.column_name
),

-- A column counts from the day on which it first had a value.
columns_of_streams as (
    select
        subject,
        column_name,
        min(date) as first_date
    from values_by_day
    where column_name <> '*'
    group by subject, column_name
),

null_counts as (
    select
        of_stream.date,
        of_stream.subject,
        columns_of_streams.column_name,
        of_stream.filled_rows as rows_counted,
        of_stream.filled_rows - coalesce(of_column.filled_rows, 0) as null_rows
    from values_by_day as of_stream
    inner join columns_of_streams
        on
            of_stream.subject = columns_of_streams.subject
            and of_stream.date >= columns_of_streams.first_date
    left join values_by_day as of_column
        on
            of_stream.date = of_column.date
            and of_stream.subject = of_column.subject
            and columns_of_streams.column_name = of_column.column_name
    where of_stream.column_name = '*'
),

null_shares as (
    select
        date,
        subject,
        column_name,
        rows_counted,
        {{ ratio('null_rows', 'rows_counted') }} as null_share
    from null_counts
),

-- What the column's past load days lead to expect: their highest share, and a margin. Where that is
-- everything, or the day brought too few rows to judge, there is no threshold.
null_thresholds as (
    select
        *,
        max(null_share) over (
            partition by subject, column_name
            order by date
            rows between {{ var('null_share_days') }} preceding and 1 preceding
        ) + {{ var('null_share_rise_max') }} as threshold
    from null_shares
),

model_tests as (
    select
        date,
        model as subject,
        sum(is_failed) as failed_tests,
        sum(is_warned) as warned_tests
    from tests_by_day
    where
        model is not null
        and model not like '%,%'
    group by date, model
),

warehouse_tests as (
    select
        days.date,
        coalesce(sum(tests_by_day.is_failed), 0) as failed_tests,
        coalesce(sum(tests_by_day.is_warned), 0) as warned_tests
    from days
    left join tests_by_day
        on days.date = tests_by_day.date
    group by days.date
),

warehouse_runs as (
    select
        days.date,
        coalesce(failed_runs_by_day.runs_count, 0) as runs_count,
        coalesce(failed_runs_by_day.failed_runs, 0) as failed_runs
    from days
    left join failed_runs_by_day
        on days.date = failed_runs_by_day.date
),

volume_metrics as (
    {% for metric in ['rows_extracted', 'rows_loaded', 'quarantined_rows', 'duplicates_dropped'] -%}
        select
            date,
            subject,
            '{{ metric }}' as metric,
            {{ metric }} as value
        from volumes
        {% if not loop.last -%}
            union all
        {% endif -%}
    {%- endfor %}
),

test_metrics as (
    {% for metric in ['failed_tests', 'warned_tests'] -%}
        select
            date,
            'model' as subject_type,
            subject,
            '{{ metric }}' as metric,
            {{ metric }} as value,
            {{ var(metric ~ '_max') }} as threshold
        from model_tests
        union all
        select
            date,
            'warehouse' as subject_type,
            'warehouse' as subject,
            '{{ metric }}' as metric,
            {{ metric }} as value,
            {{ var(metric ~ '_max') }} as threshold
        from warehouse_tests
        {% if not loop.last -%}
            union all
        {% endif -%}
    {%- endfor %}
),

metrics as (
    select
        date,
        'stream' as subject_type,
        subject,
        '*' as column_name,
        metric,
        {{ as_value('value') }} as value,
        {{ as_value('null') }} as threshold
    from volume_metrics

    union all

    select
        date,
        'stream' as subject_type,
        subject,
        '*' as column_name,
        'quarantined_share' as metric,
        {{ ratio('quarantined_rows', 'rows_extracted') }} as value,
        case
            when quarantined_rows > {{ var('quarantined_rows_min') }}
                then {{ as_value(var('quarantined_share_max')) }}
        end as threshold
    from volumes
    where rows_extracted > 0

    union all

    select
        date,
        'stream' as subject_type,
        subject,
        '*' as column_name,
        'hours_since_sync' as metric,
        {{ ratio(datediff('last_sync_at', 'ends_at', 'second'), '3600') }} as value,
        {{ as_value(var('freshness_error_hours')) }} as threshold
    from last_syncs

    union all

    select
        date,
        'stream' as subject_type,
        subject,
        column_name,
        'null_share' as metric,
        null_share as value,
        case
            when rows_counted >= {{ var('null_share_rows_min') }} and threshold < 1
                then {{ as_value('threshold') }}
        end as threshold
    from null_thresholds

    union all

    select
        date,
        subject_type,
        subject,
        '*' as column_name,
        metric,
        {{ as_value('value') }} as value,
        {{ as_value('threshold') }} as threshold
    from test_metrics

    union all

    select
        date,
        'warehouse' as subject_type,
        'warehouse' as subject,
        '*' as column_name,
        'runs' as metric,
        {{ as_value('runs_count') }} as value,
        {{ as_value('null') }} as threshold
    from warehouse_runs

    union all

    select
        date,
        'warehouse' as subject_type,
        'warehouse' as subject,
        '*' as column_name,
        'failed_runs' as metric,
        {{ as_value('failed_runs') }} as value,
        {{ as_value(var('failed_runs_max')) }} as threshold
    from warehouse_runs
),

mart_data_quality as (
    select
        date,
        {{ day_number('date') }} as date_id,
        subject_type,
        subject,
        column_name,
        metric,
        value,
        threshold,
        coalesce(value > threshold, false) as is_breached
    from metrics
)

select * from mart_data_quality
