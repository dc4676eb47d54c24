{#- The current row of every key of an entity, found another way than current_versions finds it: one aggregation, without windows.
    So what tests compare the facts with is a second opinion and not a repetition. -#}

{#- CTEs, from `with` to `recounted_rows`: one row per key up to the load bound, with is_deleted, _first_load_id and _versions_received.
    On an incremental run, of the keys with news only, from all of their versions. Of a key of which nothing stands, only the key is known. -#}
{% macro recounted(entity, columns=[]) -%}
    {%- set key = entity_columns(entity)[0][0] -%}
    {%- set versions = staging(entity) -%}
    with

    {{ keys_with_news(versions, [key]) }}
    received as (
        select
            {{ key }},
            {%- for column in columns | reject('equalto', '_version_at') %}
            {{ column }},
            {%- endfor %}
            _version_at,
            _row_hash,
            _operation,
            _source_file,
            _occurrence,
            _sequence,
            _load_id
        from {{ versions }} as versions
        where
            {{ key }} is not null
            {{ has_news('versions', [key]) }}
    ),

    withdrawals as (
        select
            {{ key }},
            _source_file,
            _row_hash,
            _occurrence,
            max(_load_id) as _load_id
        from received
        where _operation = 'withdraw'
        group by {{ key }}, _source_file, _row_hash, _occurrence
    ),

    -- Texts that sort as the versions do; null for a withdrawal and for what it cancels.
    ranked as (
        select
            received.*,
            received._load_id as _first_load_id,
            case
                when withdrawals._load_id is null and received._row_hash is null
                    then 'database ' || {{ sortable_number('received._load_id') }} || ' ' || {{ sortable_number('coalesce(received._sequence, 0)') }}
                when withdrawals._load_id is null
                    then {{ sortable_text('received._version_at') }} || ' ' || received._row_hash || ' ' || {{ sortable_number('received._load_id') }}
            end as _rank
        from received
        left join withdrawals
            on
                received.{{ key }} = withdrawals.{{ key }}
                and received._source_file = withdrawals._source_file
                and received._row_hash = withdrawals._row_hash
                and received._occurrence = withdrawals._occurrence
                and received._load_id <= withdrawals._load_id
    ),

    latest as (
        {{ rows_at_max('ranked', key, columns + ['_operation'], '_rank', '_first_load_id', '_versions_received') }}
    ),

    recounted_rows as (
        select
            {{ key }},
            {%- for column in columns %}
            {{ column }},
            {%- endfor %}
            coalesce(_operation, 'withdraw') <> 'upsert' as is_deleted,
            _first_load_id,
            _versions_received
        from latest
    )
{%- endmacro %}

{#- The entities that have a recount, int_<entity>__recounted. -#}
{% macro recounted_entities() -%}
    {{ return(['adjustments', 'events', 'order_items', 'orders', 'products', 'refunds', 'shipping_lines', 'users']) }}
{%- endmacro %}
