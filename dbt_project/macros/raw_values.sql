{#- How many values each data column of each raw table of this shop has, load by load: load_id, source_name, stream, column_name,
    rows_counted, filled_rows. -#}
{% macro counted_values() -%}
    {%- for source_node in raw_sources() %}
    {{ "union all " if not loop.first }}{{ values_of_table(source_node) }}
    {%- else %}
    select
        cast(null as bigint) as load_id,
        cast(null as {{ type_string() }}) as source_name,
        cast(null as {{ type_string() }}) as stream,
        cast(null as {{ type_string() }}) as column_name,
        cast(null as bigint) as rows_counted,
        cast(null as bigint) as filled_rows
    {%- endfor %}
{%- endmacro %}

{#- The same of one raw table. Counted are versions (no deletes, no withdrawals); a blank text is no value. The columns are those that
    the table has now. -#}
{% macro values_of_table(source_node) -%}
    {%- set relation = api.Relation.create(
        database=source_node.database, schema=source_node.schema, identifier=source_node.identifier
    ) -%}
    {%- set columns = [] -%}
    {%- for column in adapter.get_columns_in_relation(relation) if not column.name.startswith('_sdc_') -%}
        {%- do columns.append(column) -%}
    {%- endfor -%}
    select
        counted.load_id,
        '{{ source_node.source_name | replace("raw_", "", 1) }}' as source_name,
        '{{ source_node.identifier }}' as stream,
        names.column_name,
        counted.rows_counted,
        case names.column_number
            when 0 then counted.rows_counted
            {%- for column in columns %}
            when {{ loop.index }} then counted.filled_{{ loop.index }}
            {%- endfor %}
        end as filled_rows
    from (
        select
            _sdc_load_id as load_id,
            {%- for column in columns %}
            {%- set name = adapter.quote(column.name | replace('"', '""')) %}
            count({{ "nullif(" ~ trimmed(name) ~ ", '')" if column.is_string() else name }}) as filled_{{ loop.index }},
            {%- endfor %}
            count(*) as rows_counted
        from {{ relation }}
        where
            _sdc_operation = 'upsert'
            and _sdc_load_id <= {{ load_bound() }}
            and {{ is_news('_sdc_load_id') }}
        group by _sdc_load_id
    ) as counted
    cross join (
        select
            0 as column_number,
            '*' as column_name
        {%- for column in columns %}
        union all
        select {{ loop.index }}, {{ literal_or_null(column.name) }}
        {%- endfor %}
    ) as names
{%- endmacro %}
