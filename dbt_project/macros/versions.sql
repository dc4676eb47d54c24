{#- Which version of a key counts, and from when to when: one order of versions for the current rows and for the histories.

    Rules (docs/contracts.md, "Raw tables"): a `withdraw` cancels its row of its file; what stands is ordered by
    (_version_at, _row_hash, load), and a database's rows, which have no hash, come after it by (load, sequence), whatever they
    say of their time; a `delete` that comes last, or nothing standing, means deleted. Such a key shows its last known content;
    `presence` names a column that every real version has, so that a delete which brings the key alone does not wipe the rest. -#}

{#- CTEs, from `with` to `ranked`: all versions of an entity received up to the load bound, with what their key says of them. On an
    incremental run of the keys with news only, but all of their versions.

    _stands: 0 for a withdrawal and for what it cancels. _recency: 1 for the latest standing version of the key, then older ones,
    then what does not stand. _rank: the same, but versions with content before those without, in each group. _gone_at: when a
    delete happened. Of the key: _is_standing (0 when nothing stands), _withdrawn_at, _last_gone_at (null unless it is deleted),
    _first_load_id and _changed_load_id. `more` are further columns, {name: SQL}; in the SQL, the window `of_key` is all rows of the
    key, and `_stands` is 1 for those that stand. -#}
{% macro ranked_versions(entity, presence, more={}) -%}
    {%- set keys = entity_keys(entity) -%}
    {%- set key = keys | join(', ') -%}
    {%- set versions = staging(entity) -%}
    {%- set order_of_versions -%}
        _database_load_id desc nulls last, _database_sequence desc nulls last,
        _version_at desc nulls last, {{ in_byte_order('_row_hash') }} desc nulls last,
        _load_id desc,
        _sequence desc nulls last,
        _occurrence desc nulls last, {{ in_byte_order('_source_file') }} desc nulls last
    {%- endset -%}
    with

    {{ keys_with_news(versions, keys) }}
    versions as (
        select *
        from {{ versions }} as received
        where
            received.{{ keys | join(' is not null and received.') }} is not null
            {{ has_news('received', keys) }}
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
            case when _load_id <= _withdrawn_load_id then 0 else 1 end as _stands,
            case when _operation = 'upsert' or {{ presence }} is not null then 1 else 0 end as _has_content,
            case when _operation = 'delete' then coalesce(_deleted_at, _version_at) end as _gone_at,
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
            row_number() over fate as _recency,
            first_value(_gone_at) over fate as _last_gone_at,
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
    )
{%- endmacro %}

{#- The current state of every key of an entity: CTEs, from `with` to `current_rows`, one row per key that was ever received; keys
    never vanish. Ends with deleted_at, _version_at, _first_load_id and _changed_load_id (the latest load that spoke of the key).
    `more` as in ranked_versions. -#}
{% macro current_versions(entity, presence, more={}) -%}
    {{ ranked_versions(entity, presence, more) }},

    current_rows as (
        select
            {%- for column in entity_columns(entity) %}
            {%- if column[0] == 'order_id' and not loop.first %}
            {{ known_order('order_id') }} as order_id,
            {%- else %}
            {{ column[0] }},
            {%- endif %}
            {%- endfor %}
            case when _is_standing = 0 then _withdrawn_at else _last_gone_at end as deleted_at,
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

{#- The history of every key of an entity: CTEs, from `with` to `history_rows`, one row per key and version that differs from the
    one before. The rules are in docs/contracts.md, "History". `defaults` says what stands in for a missing value: {column: SQL}.

    A version's content is its own, or, of a delete that brings the key alone, that of the last version before it that has any. -#}
{% macro version_history(entity, presence, defaults={}) -%}
    {%- set types = dict(entity_columns(entity)) -%}
    {%- set columns = types | list -%}
    {%- set keys = entity_keys(entity) -%}
    {%- set key = keys | join(', ') -%}
    {%- set contents = columns | reject('in', keys) | list -%}
    {{ ranked_versions(entity, presence) }},

    -- What stands; of a key of which nothing stands, what was known of it last.
    counted as (
        select
            *,
            case when _is_standing = 0 then _withdrawn_at else _gone_at end as deleted_at,
            -- The source's time may step back, a history's does not.
            greatest({{ beginning_of_time() }}, max(_version_at) over from_the_first) as _since,
            coalesce(
                min(case when _has_content = 1 then _recency end) over from_the_first, _recency
            ) as _content_recency
        from ranked
        where
            _stands = 1
            or _rank = 1
        window from_the_first as (partition by {{ key }} order by _recency desc)
    ),

    with_content as (
        select
            {{ key }},
            {%- for column in contents %}
            {%- set known = with_scale('first_value(' ~ column ~ ') over of_content', types[column]) %}
            {{ 'coalesce(' ~ known ~ ', ' ~ defaults[column] ~ ')' if column in defaults else known }} as {{ column }},
            {%- endfor %}
            deleted_at,
            lead(_since) over (partition by {{ key }} order by _recency desc) as _next_since,
            _since,
            _version_at,
            _recency,
            _first_load_id,
            _changed_load_id
        from counted
        window of_content as (partition by {{ key }}, _content_recency order by _recency desc)
    ),

    -- Of versions of one moment the last counts: the others were never valid.
    compared as (
        select
            *,
            -- The first version has none before it, whose key would be null.
            case
                when
                    {%- for column in columns + ['deleted_at'] %}
                    {{ 'and ' if not loop.first }}{{ is_same(column, 'lag(' ~ column ~ ') over of_key') }}
                    {%- endfor %}
                    then 1
                else 0
            end as _is_repeated
        from with_content
        where
            _next_since > _since
            or _next_since is null
        window of_key as (partition by {{ key }} order by _recency desc)
    ),

    numbered as (
        select
            *,
            row_number() over of_key as version_number,
            lead(_since) over of_key as valid_to
        from compared
        where _is_repeated = 0
        window of_key as (partition by {{ key }} order by _recency desc)
    ),

    history_rows as (
        select
            {%- for column in columns %}
            {{ column }},
            {%- endfor %}
            deleted_at,
            cast(version_number as integer) as version_number,
            case when version_number = 1 then {{ beginning_of_time() }} else _since end as valid_from,
            valid_to,
            valid_to is null as is_current,
            _version_at,
            _first_load_id,
            _changed_load_id
        from numbered
    )
{%- endmacro %}

{#- Two values are equal, or both null. (`is not distinct from`, which sqlfluff's DuckDB does not read.) -#}
{% macro is_same(one, other) -%}
    ({{ one }} = {{ other }} or ({{ one }} is null and {{ other }} is null))
{%- endmacro %}

{#- A condition, over the full outer join of two relations by `key`: the row is on one side alone, or the two differ in one of `columns`. -#}
{% macro is_otherwise(one, other, key, columns) -%}
    (
        {{ one }}.{{ key }} is null
        or {{ other }}.{{ key }} is null
        {%- for column in columns %}
        or not coalesce({{ is_same(one ~ '.' ~ column, other ~ '.' ~ column) }}, false)
        {%- endfor %}
    )
{%- endmacro %}

{#- Since when the first version of a key is valid. -#}
{% macro beginning_of_time() -%}
    cast('1970-01-01 00:00:00' as timestamp)
{%- endmacro %}

{#- The condition of a join with a history: its version that is valid at a moment. Of every key and moment since 1970 there is one. -#}
{% macro is_valid_at(history, moment) -%}
    {{ moment }} >= {{ history }}.valid_from
    and ({{ moment }} < {{ history }}.valid_to or {{ history }}.valid_to is null)
{%- endmacro %}

{#- A row that names no order belongs to the unknown order, so that rows can be replaced order by order. -#}
{% macro known_order(column) -%}
    coalesce({{ column }}, {{ unknown_id('order') }})
{%- endmacro %}
