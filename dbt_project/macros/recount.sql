{#- The current row of every key, found another way than current_versions finds it (one aggregation, no windows, no increments), so
    that the reconciliation is a second opinion and not a repetition. One row per key, with is_deleted, and version_at. -#}
{% macro recounted(entity, columns) -%}
    {%- set key = entity_columns(entity)[0][0] -%}
    {%- set rank -%}
        case
            when withdrawals._load_id is null and received._row_hash is null
                then 'database ' || {{ sortable_number('received._load_id') }} || ' ' || {{ sortable_number('coalesce(received._sequence, 0)') }}
            when withdrawals._load_id is null
                then {{ sortable_text('received._version_at') }} || ' ' || received._row_hash || ' ' || {{ sortable_number('received._load_id') }}
        end
    {%- endset -%}
    (
        select
            received.{{ key }},
            {%- for column in columns %}
            {{ value_at_max('received.' ~ column, rank) }} as {{ column }},
            {%- endfor %}
            {{ value_at_max('received._version_at', rank) }} as version_at,
            coalesce({{ value_at_max('received._operation', rank) }}, 'withdraw') <> 'upsert' as is_deleted
        from {{ staging(entity) }} as received
        left join (
            select
                removed.{{ key }},
                removed._source_file,
                removed._row_hash,
                removed._occurrence,
                max(removed._load_id) as _load_id
            from {{ staging(entity) }} as removed
            where removed._operation = 'withdraw'
            group by removed.{{ key }}, removed._source_file, removed._row_hash, removed._occurrence
        ) as withdrawals
            on
                received.{{ key }} = withdrawals.{{ key }}
                and received._source_file = withdrawals._source_file
                and received._row_hash = withdrawals._row_hash
                and received._occurrence = withdrawals._occurrence
                and received._load_id <= withdrawals._load_id
        group by received.{{ key }}
    )
{%- endmacro %}
