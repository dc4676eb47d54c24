{#- What happens before and after each `dbt build` and `dbt run` (on-run-start, on-run-end). `dbt test` and `dbt source freshness` leave
    their results (macros/run_history.sql); other commands leave no trace. -#}

{% macro start_build() -%}
    {%- if execute and flags.WHICH in ['build', 'run', 'retry', 'test'] -%}
        {%- do check_raw() -%}
    {%- endif -%}
    {%- if execute and flags.WHICH in ['build', 'run', 'retry'] -%}
        {%- do create_ops_tables() -%}
        {%- do create_functions() -%}
        {%- do create_run_history() -%}
        {%- do mark_killed_builds() -%}
        {%- do run_query("delete from " ~ ops_database() ~ ".ops.load_bound") -%}
        {%- do run_query(
            "insert into " ~ ops_database() ~ ".ops.load_bound (load_id, fixed_at, loads) select max(load_id), now(), count(*) from "
            ~ source('ops', 'loads')
        ) -%}
        {%- do step_back_behind_late_loads() -%}
        {%- do drop_outdated_models() -%}
        {%- do record_start() -%}
    {%- endif -%}
{%- endmacro %}

{#- A load gets its id when it is written to the lake, and may commit long after: its run was stopped, and the next one sent it
    again. When its id is not above what a build has seen, the watermarks that this build or an earlier one wrote step back to the
    last build until then that saw all there is up to its bound; what is then recomputed once more comes out the same. -#}
{% macro step_back_behind_late_loads() -%}
    {%- for database in model_databases() -%}
        {%- do commit_now() -%}
        {%- set seen -%}
        (
            select coalesce(max(whole.load_bound), -1)
            from ({{ builds_without_late_loads() }}) as whole
            inner join {{ ops_database() }}.ops.builds as writers
                on whole.build_number <= writers.build_number
            where writers.invocation_id = watermarks.invocation_id
        )
        {%- endset -%}
        {%- do run_query(
            "update " ~ database ~ ".ops.watermarks as watermarks set load_id = " ~ seen ~ " where load_id > " ~ seen
        ) -%}
    {%- endfor -%}
    {%- do commit_now() -%}
{%- endmacro %}

{#- A query of the builds since which no load came that is not above their bound: of these the ledger has as many as when the build
    began. The ledger's numbers say so and not its times, because the machine's clock may have been set back. Not by source(): a
    test that asks would have two parents. -#}
{% macro builds_without_late_loads() %}
        select
            builds.invocation_id,
            builds.build_number,
            builds.is_complete,
            builds.load_bound
        from {{ ops_database() }}.ops.builds as builds
        inner join (
            select
                loads.load_id,
                count(*) over (order by loads.load_id) as loads
            from {{ ops_database() }}.ops.loads as loads
        ) as ledger
            on
                builds.load_bound = ledger.load_id
                and builds.loads = ledger.loads
{%- endmacro %}

{#- One clear line instead of a model's error when raw cannot be built from. -#}
{% macro check_raw() -%}
    {%- set how = "run `meltano run ingest` (or scripts/run) first." -%}
    {%- set ledger = load_relation(source('ops', 'loads')) -%}
    {%- set loads = 0 -%}
    {%- if ledger -%}
        {%- set loads = run_query("select count(*) from " ~ ledger).rows[0][0] -%}
    {%- endif -%}
    {%- if not loads -%}
        {%- do exceptions.raise_compiler_error("No data has been loaded yet: " ~ how) -%}
    {%- endif -%}

    {%- set held = run_query("select shop from " ~ source('ops', 'warehouse')).rows -%}
    {%- if held and held[0][0] != shop() -%}
        {%- do exceptions.raise_compiler_error(
            "This warehouse holds the shop " ~ held[0][0] ~ ", but WAREHOUSE_SHOP is " ~ shop()
            ~ ": set WAREHOUSE_SHOP=" ~ held[0][0] ~ ", or another WAREHOUSE_HOME."
        ) -%}
    {%- endif -%}

    {%- set missing = [] -%}
    {%- for node in raw_sources() -%}
        {%- if not adapter.get_relation(node.database, node.schema, node.identifier) -%}
            {%- do missing.append(node.source_name | replace('raw_', '', 1) ~ '-' ~ node.identifier) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if missing -%}
        {%- do exceptions.raise_compiler_error(
            "Nothing has been loaded from these streams of " ~ shop() ~ ": " ~ missing | join(", ") ~ "; " ~ how
        ) -%}
    {%- endif -%}
{%- endmacro %}

{#- The raw tables that this shop's staging reads, from the parsed project. -#}
{% macro raw_sources() -%}
    {%- set found = [] -%}
    {%- if execute -%}
        {%- for node in graph.sources.values() | sort(attribute='unique_id') if node.source_name.startswith('raw_') -%}
            {%- do found.append(node) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(found) }}
{%- endmacro %}

{% macro create_ops_tables() -%}
    {%- set ops = ops_database() ~ ".ops" -%}
    {%- do run_query("create table if not exists " ~ ops ~ ".load_bound (load_id bigint, fixed_at timestamptz, loads bigint)") -%}
    {%- do run_query("alter table " ~ ops ~ ".load_bound add column if not exists loads bigint") -%}
    {%- for database in model_databases() -%}
        {%- do commit_now() -%}
        {%- do create_schema_unless_there(database, 'ops') -%}
        {%- do run_query(
            "create table if not exists " ~ database ~ ".ops.watermarks "
            ~ "(model varchar, load_id bigint, logic_hash varchar, invocation_id varchar, "
            ~ "previous_load_id bigint, previous_invocation_id varchar)"
        ) -%}
        {%- for column in ['invocation_id varchar', 'previous_load_id bigint', 'previous_invocation_id varchar'] -%}
            {%- do run_query("alter table " ~ database ~ ".ops.watermarks add column if not exists " ~ column) -%}
        {%- endfor -%}
        {%- do note_models(database) -%}
    {%- endfor -%}
    {%- do commit_now() -%}
{%- endmacro %}

{#- The models of a database that this shop can have (`meta.entities`), and their columns that hold personal data: what publish
    takes, and hides. -#}
{% macro note_models(database) -%}
    {%- set models = [] -%}
    {%- set found = [] -%}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.database == database -%}
        {%- if not node.config.meta.get('entities', []) | reject('in', shop_setting('entities')) | list -%}
            {%- do models.append("('" ~ node.alias ~ "')") -%}
        {%- endif -%}
        {%- for column in node.columns.values() if column.meta.get('pii') -%}
            {%- do found.append("('" ~ node.alias ~ "', '" ~ column.name ~ "', '" ~ column.meta.pii ~ "')") -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- do write_anew(database ~ '.ops.models', ['model'], (models or ['(null)']) | sort) -%}
    {%- do write_anew(
        database ~ '.ops.personal_columns', ['model', 'column_name', 'kind'], (found or ['(null, null, null)']) | sort
    ) -%}
{%- endmacro %}

{% macro model_databases() -%}
    {%- set found = [] -%}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.database not in found -%}
        {%- do found.append(node.database) -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{#- A selected incremental model whose logic changed, or that was built from another raw, is dropped, so that dbt builds it in
    full. Another raw: the model is ahead of this one (raw was rebuilt), or this warehouse does not know the build that wrote it (an
    older warehouse.duckdb was restored beside newer marts). -#}
{% macro drop_outdated_models() -%}
    {%- for database in model_databases() -%}
        {%- set watermarks = {} -%}
        {%- set known -%}
            select
                model,
                logic_hash,
                load_id > {{ load_bound() }}
                or coalesce(invocation_id, '') not in (select invocation_id from {{ ops_database() }}.ops.builds) as is_of_another_raw
            from {{ database }}.ops.watermarks
        {%- endset -%}
        {%- for row in run_query(known).rows -%}
            {%- do watermarks.update({row[0]: (row[1], row[2])}) -%}
        {%- endfor -%}
        {%- for node in graph.nodes.values()
            if node.unique_id in selected_resources and node.config.materialized == 'incremental'
            and node.database == database -%}
            {%- set known = watermarks.get(node.alias, (none, false)) -%}
            {%- if known[1] or known[0] != logic_hash(node.unique_id) -%}
                {%- set relation = adapter.get_relation(node.database, node.schema, node.alias) -%}
                {%- if relation -%}
                    {%- if known[0] -%}
                        {%- do log(node.name ~ " is rebuilt in full: " ~ ("it was built from another raw" if known[1] else "its logic changed"), info=true) -%}
                    {%- endif -%}
                    {%- do commit_now() -%}
                    {%- do adapter.drop_relation(relation) -%}
                    {%- do commit_now() -%}
                {%- endif -%}
                {%- do run_query("delete from " ~ database ~ ".ops.watermarks where model = '" ~ node.alias ~ "'") -%}
                {%- do commit_now() -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endfor -%}
{%- endmacro %}

{#- Complete: `dbt build` of everything, with all rows and the project's own variables. Only such a build can be published. Unit tests look at
    no row of the shop's: dbt itself advises to leave them out where the data are real. -#}
{% macro is_complete_build() -%}
    {%- set filters = ['select', 'exclude', 'selector', 'resource_types', 'empty', 'sample', 'vars', 'models'] -%}
    {%- set used = [] -%}
    {%- for name in filters if invocation_args_dict.get(name) -%}
        {%- do used.append(name) -%}
    {%- endfor -%}
    {%- for resource_type in invocation_args_dict.get('exclude_resource_types') or [] if resource_type | string != 'unit_test' -%}
        {%- do used.append(resource_type) -%}
    {%- endfor -%}
    {{ return(flags.WHICH == 'build' and not used) }}
{%- endmacro %}

{% macro record_start() -%}
    {%- do run_query(
        "insert into " ~ ops_database() ~ ".ops.builds (invocation_id, build_number, command, is_complete, status, load_bound, loads, shop, started_at, run_id, inputs_hash) "
        ~ "select '" ~ invocation_id ~ "', (select coalesce(max(build_number), 0) + 1 from " ~ ops_database() ~ ".ops.builds), '"
        ~ flags.WHICH ~ "', " ~ is_complete_build() ~ ", 'running', load_id, loads, '"
        ~ shop() ~ "', now(), " ~ literal_or_null(run_id() or none) ~ ", "
        ~ literal_or_null(env_var('WAREHOUSE_INPUTS_HASH', '') or none) ~ " from " ~ ops_database() ~ ".ops.load_bound"
    ) -%}
{%- endmacro %}

{% macro finish_build(results) -%}
    {%- if execute and flags.WHICH in ['build', 'run', 'retry'] -%}
        {%- set counts = {'models': 0, 'tests': 0, 'failures': 0} -%}
        {%- for result in results -%}
            {%- set status = result.status | string -%}
            {%- if status in ['error', 'fail', 'skipped', 'runtime error', 'partial success'] -%}
                {%- do counts.update({'failures': counts.failures + 1}) -%}
            {%- elif result.node.resource_type in ['test', 'unit_test'] and status == 'pass' -%}
                {%- do counts.update({'tests': counts.tests + 1}) -%}
            {%- elif result.node.resource_type == 'model' -%}
                {%- do counts.update({'models': counts.models + 1}) -%}
            {%- endif -%}
        {%- endfor -%}
        update {{ ops_database() }}.ops.builds
        set
            status = '{{ "failed" if counts.failures or not results else "passed" }}',
            finished_at = now(),
            models_built = {{ counts.models }},
            tests_passed = {{ counts.tests }},
            failures = {{ counts.failures }}
        where invocation_id = '{{ invocation_id }}';
    {%- endif -%}
    {%- if keeps_history() -%}
        {%- if flags.WHICH in ['test', 'freshness'] -%}
            {%- do create_run_history() -%}
        {%- endif -%}
        {#- What follows commits by itself, unless looking for ops opened a transaction. #}
        {%- do commit_now() -%}
        {{ history_of(results) }}
    {%- endif -%}
{%- endmacro %}
