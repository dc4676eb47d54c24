{#- Rows as a whole, moments of the machine's clock, tables of ops, transactions. -#}

{#- A row of the relation of this name as one line of JSON, its columns in their order. -#}
{% macro row_as_json(relation) -%}
    {{ adapter.dispatch('row_as_json')(relation) }}
{%- endmacro %}

{% macro duckdb__row_as_json(relation) -%}
    cast(to_json({{ relation }}) as varchar)
{%- endmacro %}

{% macro postgres__row_as_json(relation) -%}
    cast(row_to_json({{ relation }}) as varchar)
{%- endmacro %}

{#- The moment so many days ago. -#}
{% macro days_before_now(days) -%}
    {{ adapter.dispatch('days_before_now')(days) }}
{%- endmacro %}

{% macro duckdb__days_before_now(days) -%}
    now() - to_days({{ days }})
{%- endmacro %}

{% macro postgres__days_before_now(days) -%}
    now() - make_interval(days => {{ days }})
{%- endmacro %}

{#- A moment with its zone as text, in UTC. -#}
{% macro moment_as_text(moment) -%}
    {{ adapter.dispatch('moment_as_text')(moment) }}
{%- endmacro %}

{% macro duckdb__moment_as_text(moment) -%}
    cast({{ moment }} as {{ type_string() }})
{%- endmacro %}

{% macro postgres__moment_as_text(moment) -%}
    cast({{ naive_utc(moment) }} as {{ type_string() }}) || '+00'
{%- endmacro %}

{#- The SQL type of a row of information_schema.columns, with what it says of size. -#}
{% macro type_of_column() -%}
    {{ adapter.dispatch('type_of_column')() }}
{%- endmacro %}

{% macro duckdb__type_of_column() -%}
    data_type
{%- endmacro %}

{% macro postgres__type_of_column() -%}
    concat(data_type, ' ', numeric_precision, ' ', numeric_scale)
{%- endmacro %}

{#- A schema, made where it is missing. -#}
{% macro create_schema_unless_there(database, schema) -%}
    {%- do adapter.dispatch('create_schema_unless_there')(database, schema) -%}
{%- endmacro %}

{% macro duckdb__create_schema_unless_there(database, schema) -%}
    {%- do run_query("create schema if not exists " ~ database ~ "." ~ schema) -%}
{%- endmacro %}

{#- Looked for first: `if not exists` asks for the right to create schemas also where there is nothing to create. -#}
{% macro postgres__create_schema_unless_there(database, schema) -%}
    {%- if not adapter.check_schema_exists(database, schema) -%}
        {%- do run_query("create schema " ~ schema) -%}
    {%- endif -%}
{%- endmacro %}

{#- A table of texts of ops, with these rows and no other: lists of SQL's own rows. -#}
{% macro write_anew(table, columns, rows) -%}
    {%- do adapter.dispatch('write_anew')(table, columns, rows) -%}
{%- endmacro %}

{% macro duckdb__write_anew(table, columns, rows) -%}
    {%- do run_query(
        'create or replace table ' ~ table ~ ' as select * from (values ' ~ (rows | join(', ')) ~ ') as noted ('
        ~ (columns | join(', ')) ~ ')'
    ) -%}
{%- endmacro %}

{#- The table stays, with what was granted on it; one statement, so that nobody sees it empty. -#}
{% macro postgres__write_anew(table, columns, rows) -%}
    {%- do run_query('create table if not exists ' ~ table ~ ' (' ~ (columns | join(' varchar, ')) ~ ' varchar)') -%}
    {%- do run_query(
        'with removed as (delete from ' ~ table ~ ') insert into ' ~ table ~ ' values ' ~ (rows | join(', '))
    ) -%}
{%- endmacro %}

{#- A view of ops, in place of the one of before. -#}
{% macro write_view_anew(view, query) -%}
    {%- do adapter.dispatch('write_view_anew')(view, query) -%}
{%- endmacro %}

{% macro duckdb__write_view_anew(view, query) -%}
    {%- do run_query("create or replace view " ~ view ~ " as " ~ query) -%}
{%- endmacro %}

{#- `create or replace` would keep the columns of before, and refuse others. -#}
{% macro postgres__write_view_anew(view, query) -%}
    {%- do run_query("drop view if exists " ~ view ~ "; create view " ~ view ~ " as " ~ query) -%}
{%- endmacro %}

{#- Whatever transaction dbt has open ends here. -#}
{% macro commit_now() -%}
    {%- do adapter.dispatch('commit_now')() -%}
{%- endmacro %}

{#- DuckDB writes one database per transaction. -#}
{% macro duckdb__commit_now() -%}
    {%- do adapter.ensure_transaction() -%}
    {%- do adapter.commit() -%}
{%- endmacro %}

{#- Statements commit by themselves (profiles.yml), but in a transaction that dbt began. -#}
{% macro postgres__commit_now() -%}
    {%- call statement('open_transaction', auto_begin=true) -%} select 1 {%- endcall -%}
    {%- do adapter.commit() -%}
{%- endmacro %}

{#- Post-hook: what the planner knows of a table that was made anew; of others PostgreSQL finds out by itself. -#}
{% macro gather_statistics() -%}
    {{ adapter.dispatch('gather_statistics')() }}
{%- endmacro %}

{% macro duckdb__gather_statistics() -%}
{%- endmacro %}

{% macro postgres__gather_statistics() -%}
    {%- if execute and config.get('materialized') in ['table', 'incremental'] -%}
        {%- if run_query("select 1 from pg_class where oid = to_regclass('" ~ this ~ "') and reltuples < 0").rows -%}
            analyze {{ this }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#- dbt's comparison of a unit test's rows, where 1 is 1.0000: numbers that went through a window or a function have no scale of
    their own on PostgreSQL, and what a test expects is written with as many places as it needs. -#}
{% macro postgres__get_unit_test_sql(main_sql, expected_fixture_sql, expected_column_names) -%}
    {%- set numbers = [] -%}
    {%- for column in adapter.get_column_schema_from_query(get_empty_subquery_sql(main_sql)) if column.dtype == 'DECIMAL' -%}
        {%- do numbers.append(column.quoted) -%}
    {%- endfor -%}
    {%- set compared = [] -%}
    {%- for name in expected_column_names -%}
        {%- do compared.append(('trim_scale(' ~ name ~ ') as ' ~ name) if name in numbers else name) -%}
    {%- endfor -%}
    {%- set compared = 'select ' ~ compared | join(', ') -%}
    {{ dbt.default__get_unit_test_sql(
        compared ~ ' from (' ~ main_sql ~ ') as actual_rows',
        compared ~ ' from (' ~ expected_fixture_sql ~ ') as expected_rows',
        expected_column_names
    ) }}
{%- endmacro %}
