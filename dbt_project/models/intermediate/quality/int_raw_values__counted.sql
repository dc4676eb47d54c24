{#- The tables and their columns are those of the parsed project and of the catalog, so that a new stream or column is counted without
    a change here. A column that has no value in a load has no row: whether raw had the column by then makes no difference, and an
    increment equals a full build. -#}
{{ config(unique_key='load_id') }}

with

counted as (
    {%- for source_node in raw_sources() %}
    {{ "union all " if not loop.first }}{{ counted_values(source_node) }}
    {%- else %}
    select
        cast(null as bigint) as load_id,
        cast(null as {{ type_string() }}) as source_name,
        cast(null as {{ type_string() }}) as stream,
        cast(null as {{ type_string() }}) as column_name,
        cast(null as bigint) as rows_counted,
        cast(null as bigint) as filled_rows
    {%- endfor %}
),

filled as (
    select
        load_id,
        source_name,
        stream,
        column_name,
        cast(rows_counted as bigint) as rows_counted,
        cast(filled_rows as bigint) as filled_rows
    from counted
    where filled_rows > 0
)

select * from filled
