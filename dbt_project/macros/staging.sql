{#- What every staging view needs. -#}

{#- A column of raw as trimmed text: files give text, databases their own types. -#}
{% macro text_of(column) -%}
    {{ trimmed('cast(' ~ column ~ ' as ' ~ type_string() ~ ')') }}
{%- endmacro %}

{#- An id as received, of the shop's own type; null when it is none. -#}
{% macro to_id(column, entity) -%}
    {%- if shop_setting(entity ~ '_id_type') == 'text' -%}
        nullif({{ text_of(column) }}, '')
    {%- else -%}
        {{ to_whole_number(column, id_type(entity)) }}
    {%- endif -%}
{%- endmacro %}

{#- The columns with which a staging view ends. `version_at` is the SQL of the source's own order, a UTC timestamp; where the
    source's own time is missing or unreadable, the time of extraction stands in, so that one such row does not block for ever.
    A delete counts from when it happened, where that is later than the row's own time: otherwise an older version that
    arrives late would resurrect the row.
    `soft_deleted_at` is the SQL, a UTC timestamp, of a column that the source sets instead of deleting a row. tap-files knows it
    from the list of streams and has made a delete of such a row; a database's row is an upsert, and becomes a delete here. -#}
{% macro technical_columns(version_at, soft_deleted_at=none, source_key=none) -%}
    {%- set deleted_at = naive_utc('_sdc_deleted_at') -%}
    {%- set operation = '_sdc_operation' -%}
    {%- if not source_key -%}
        {%- do exceptions.raise_compiler_error(
            "technical_columns(...) in " ~ model.name ~ " needs source_key='<the key\'s column of raw>' (docs/adopting.md)."
        ) -%}
    {%- endif -%}
    {%- if soft_deleted_at -%}
        {%- set deleted_at = 'coalesce(' ~ deleted_at ~ ', ' ~ soft_deleted_at ~ ')' -%}
        {%- set operation -%}
            case
                when _sdc_operation = 'upsert' and {{ soft_deleted_at }} is not null then 'delete'
                else _sdc_operation
            end
        {%- endset -%}
    {%- endif -%}
    coalesce(
        case
            when {{ operation }} = 'delete'
                then greatest({{ version_at }}, {{ deleted_at }})
            else {{ version_at }}
        end,
        {{ naive_utc('_sdc_extracted_at') }}
    ) as _version_at,
    _sdc_row_hash as _row_hash,
    {{ operation }} as _operation,
    {{ deleted_at }} as _deleted_at,
    _sdc_source_file as _source_file,
    _sdc_occurrence as _occurrence,
    _sdc_sequence as _sequence,
    _sdc_load_id as _load_id,
    {{ source_key }} as _source_key
{%- endmacro %}

{#- Lower-cased and trimmed; an invalid or missing address becomes the placeholder. -#}
{% macro clean_email(column) -%}
    case when {{ is_valid_email(column) }} then {{ lower_case(trimmed(column)) }} else 'unknown@example.com' end
{%- endmacro %}

{#- Never null: a missing address is not valid. -#}
{% macro is_valid_email(column) -%}
    coalesce({{ matches(lower_case(trimmed(column)), var('email_pattern')) }}, false)
{%- endmacro %}

{#- Digits only; null when none is left. -#}
{% macro clean_phone(column) -%}
    nullif({{ digits_of(column) }}, '')
{%- endmacro %}

{#- A whole number from 1 to 100; null when missing or anything else. -#}
{% macro clean_age(column) -%}
    case
        when
            {{ matches(trimmed(column), '^[1-9][0-9]{0,2}([.]0+)?$') }}
            and {{ to_decimal(column) }} between {{ var('age_min') }} and {{ var('age_max') }}
            then cast({{ to_decimal(column) }} as integer)
    end
{%- endmacro %}
