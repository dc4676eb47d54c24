{#- The current state of every key of an entity, from all versions received up to the load bound: one row per key that was ever
    received; keys never vanish. Ends with deleted_at, _version_at, _first_load_id and _changed_load_id (the latest load that
    spoke of the key). On an incremental run only keys with news are recomputed, each from all of its versions.

    Rules (docs/contracts.md, "Raw tables"): a `withdraw` cancels its row of its file; of what stands, the latest by
    (_version_at, _row_hash, load) wins, and of a database's rows, which have no hash, the latest by (load, sequence), whatever
    they say of their time; a winning `delete`, or nothing standing, means deleted. Such a key shows its last
    known content; `presence` names a column that every real version has, so that a delete which brings the key alone does not
    wipe the rest. `more` are further columns, {name: SQL}; in the SQL, the window `of_key` is all rows of the key, and `_stands` is
    1 for those that stand. -#}
{% macro current_versions(entity, presence, more={}) -%}
    {%- set columns = entity_columns(entity) -%}
    {%- set keys = entity_keys(entity) -%}
    {%- set key = keys | join(', ') -%}
    {%- set versions = staging(entity) -%}
    {%- set order_of_versions -%}
        _database_load_id desc nulls last, _database_sequence desc nulls last,
        _version_at desc nulls last, _row_hash desc, _load_id desc, _sequence desc, _occurrence desc, _source_file desc
    {%- endset -%}
    with

    versions as (
        select *
        from {{ versions }} as received
        where
            received.{{ keys | join(' is not null and received.') }} is not null
            {%- if is_incremental() %}
            and (received.{{ keys | join(', received.') }}) in (
                select {{ 'news.' ~ keys | join(', news.') }}
                from {{ versions }} as news
                where news._load_id > {{ watermark() }}
            )
            {%- endif %}
    ),

    with_withdrawals as (
        select
            *,
            max(case when _operation = 'withdraw' then _load_id end) over (
                partition by {{ key }}, _source_file, _row_hash, _occurrence
            ) as _withdrawn_load_id
        from versions
    ),

    with_standing as (
        select
            *,
            case
                when _operation = 'withdraw' or _load_id <= _withdrawn_load_id then 0
                else 1
            end as _stands,
            case when _operation = 'upsert' or {{ presence }} is not null then 1 else 0 end as _has_content,
            case when _row_hash is null then _load_id end as _database_load_id,
            case when _row_hash is null then _sequence end as _database_sequence
        from with_withdrawals
    ),

    ranked as (
        select
            *,
            row_number() over (
                partition by {{ key }}
                order by _stands desc, _has_content desc, {{ order_of_versions }}
            ) as _rank,
            first_value(_operation) over fate as _last_operation,
            first_value(_deleted_at) over fate as _last_deleted_at,
            first_value(_stands) over fate as _is_standing,
            max(case when _operation = 'withdraw' then _deleted_at end) over of_key as _withdrawn_at,
            min(_load_id) over of_key as _first_load_id,
            {%- for name, expression in more.items() %}
            {{ expression }} as {{ name }},
            {%- endfor %}
            max(_load_id) over of_key as _changed_load_id
        from with_standing
        window
            fate as (partition by {{ key }} order by _stands desc, {{ order_of_versions }}),
            of_key as (partition by {{ key }})
    ),

    current_rows as (
        select
            {%- for column in columns %}
            {%- if column[0] == 'order_id' and not loop.first %}
            {{ known_order('order_id') }} as order_id,
            {%- else %}
            {{ column[0] }},
            {%- endif %}
            {%- endfor %}
            case
                when _is_standing = 0 then _withdrawn_at
                when _last_operation = 'delete' then coalesce(_last_deleted_at, _version_at)
            end as deleted_at,
            _version_at,
            {%- for name in more %}
            {{ name }},
            {%- endfor %}
            _first_load_id,
            _changed_load_id
        from ranked
        where _rank = 1
    )
{%- endmacro %}

{#- A row that names no order belongs to the unknown order, so that rows can be replaced order by order. -#}
{% macro known_order(column) -%}
    coalesce({{ column }}, {{ unknown_id('order') }})
{%- endmacro %}
