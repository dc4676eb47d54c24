{#- The history of runs (docs/contracts.md, "Run history"): what dbt's own end (finish_build) writes into ops, in one insert per table,
    also when the command fails. `dbt build`, `run`, `retry`, `test` and `source freshness` write it. -#}

{#- Whether this command leaves a history, and the warehouse is one that target-warehouse made. -#}
{% macro keeps_history() -%}
    {%- if not execute or flags.WHICH not in ['build', 'run', 'retry', 'test', 'freshness'] -%}
        {{ return(false) }}
    {%- endif -%}
    {{ return(load_relation(source('ops', 'warehouse')) is not none) }}
{%- endmacro %}

{#- The run of the job that this command belongs to: Meltano's (orchestration/meltano_restart.py); '' for a command typed by hand. -#}
{% macro run_id() -%}
    {{ return(env_var('MELTANO_RUN_ID', '')) }}
{%- endmacro %}

{#- Tables and columns that older warehouses lack are added. -#}
{% macro create_run_history() -%}
    {%- set ops = ops_database() ~ ".ops" -%}
    {%- set statements = [
        "create table if not exists " ~ ops ~ ".builds (invocation_id varchar, command varchar, is_complete boolean, "
        ~ "status varchar, load_bound bigint, shop varchar, started_at timestamptz, finished_at timestamptz, "
        ~ "models_built bigint, tests_passed bigint, failures bigint, run_id varchar, inputs_hash varchar, loads bigint, build_number bigint)",
        "alter table " ~ ops ~ ".builds add column if not exists run_id varchar",
        "alter table " ~ ops ~ ".builds add column if not exists inputs_hash varchar",
        "alter table " ~ ops ~ ".builds add column if not exists loads bigint",
        "alter table " ~ ops ~ ".builds add column if not exists build_number bigint",
        "create table if not exists " ~ ops ~ ".model_runs (invocation_id varchar, unique_id varchar, name varchar, "
        ~ "materialized varchar, status varchar, seconds decimal(18, 3), rows_held bigint, message varchar, "
        ~ "started_at timestamptz, finished_at timestamptz)",
        "create table if not exists " ~ ops ~ ".test_results (invocation_id varchar, kind varchar, test_name varchar, "
        ~ "model varchar, column_name varchar, severity varchar, status varchar, failures bigint, message varchar, "
        ~ "seconds decimal(18, 3), executed_at timestamptz, run_id varchar, logic_hash varchar)",
        "alter table " ~ ops ~ ".test_results add column if not exists logic_hash varchar",
        "create table if not exists " ~ ops ~ ".failing_rows (invocation_id varchar, test_name varchar, model varchar, "
        ~ "severity varchar, failing_row varchar, found_at timestamptz)",
        "create table if not exists " ~ ops ~ ".publishes (version bigint, invocation_id varchar, action varchar, "
        ~ "noted_at timestamptz, load_bound bigint, reason varchar, run_id varchar)",
    ] -%}
    {%- for statement in statements -%}
        {%- do run_query(statement) -%}
    {%- endfor -%}
    {%- do write_view_anew(ops ~ ".runs", runs_of_the_job()) -%}
    {#- Looking at columns opened a transaction, which nobody else would end. #}
    {%- do commit_now() -%}
{%- endmacro %}

{#- One row per run of the job: what shares Meltano's run id; a command typed by hand is a run of its own. -#}
{% macro runs_of_the_job() -%}
    {%- set ops = ops_database() ~ ".ops" -%}
    {#- The column is the target's, and comes with its next run. #}
    {%- set columns_of_syncs = adapter.get_columns_in_relation(source('ops', 'syncs')) | map(attribute='name') | list -%}
    with

    steps as (
        select
            {{ 'coalesce(syncs.run_id, syncs.sync_id)' if 'run_id' in columns_of_syncs else 'syncs.sync_id' }} as run_id,
            1 as step_number,
            syncs.started_at,
            syncs.finished_at,
            case when syncs.status = 'failed' then 1 else 0 end as is_failed,
            0 as is_running,
            syncs.source || '-' || syncs.stream as stream,
            syncs.rows_extracted,
            syncs.rows_loaded,
            syncs.rows_quarantined,
            cast(null as bigint) as version
        from {{ ops }}.syncs as syncs

        union all

        select
            coalesce(test_results.run_id, test_results.invocation_id) as run_id,
            case when test_results.kind = 'freshness' then 2 else 4 end as step_number,
            test_results.executed_at as started_at,
            test_results.executed_at as finished_at,
            case when test_results.status in ('fail', 'error', 'runtime error') then 1 else 0 end as is_failed,
            0 as is_running,
            null as stream,
            null as rows_extracted,
            null as rows_loaded,
            null as rows_quarantined,
            null as version
        from {{ ops }}.test_results as test_results
        where test_results.invocation_id not in (select builds.invocation_id from {{ ops }}.builds as builds)

        union all

        select
            coalesce(builds.run_id, builds.invocation_id) as run_id,
            3 as step_number,
            builds.started_at,
            builds.finished_at,
            case when builds.status in ('failed', 'killed') then 1 else 0 end as is_failed,
            case when builds.status = 'running' then 1 else 0 end as is_running,
            null as stream,
            null as rows_extracted,
            null as rows_loaded,
            null as rows_quarantined,
            null as version
        from {{ ops }}.builds as builds

        union all

        select
            coalesce(publishes.run_id, 'publish ' || {{ moment_as_text('publishes.noted_at') }}) as run_id,
            5 as step_number,
            publishes.noted_at as started_at,
            publishes.noted_at as finished_at,
            case when publishes.action = 'refused' then 1 else 0 end as is_failed,
            0 as is_running,
            null as stream,
            null as rows_extracted,
            null as rows_loaded,
            null as rows_quarantined,
            publishes.version
        from {{ ops }}.publishes as publishes
    ),

    runs as (
        select
            run_id,
            min(started_at) as started_at,
            max(finished_at) as finished_at,
            max(is_failed) as is_failed,
            max(is_running) as is_running,
            max(step_number) as last_step_number,
            min(case when is_failed = 1 then step_number end) as failed_step_number,
            count(distinct stream) as streams_synced,
            count(distinct case when is_failed = 1 then stream end) as streams_failed,
            cast(coalesce(sum(rows_extracted), 0) as bigint) as rows_extracted,
            cast(coalesce(sum(rows_loaded), 0) as bigint) as rows_loaded,
            cast(coalesce(sum(rows_quarantined), 0) as bigint) as rows_quarantined,
            max(version) as version
        from steps
        group by run_id
    )

    select
        run_id,
        started_at,
        finished_at,
        case when is_failed = 1 then 'failed' when is_running = 1 then 'running' else 'ok' end as status,
        {{ name_of_step('last_step_number') }} as last_step,
        {{ name_of_step('failed_step_number') }} as failed_step,
        streams_synced,
        streams_failed,
        rows_extracted,
        rows_loaded,
        rows_quarantined,
        version
    from runs
{%- endmacro %}

{% macro name_of_step(number) -%}
    case {{ number }} when 1 then 'ingest' when 2 then 'freshness' when 3 then 'build' when 4 then 'test' when 5 then 'publish' end
{%- endmacro %}

{#- A build that says it is running while this one starts was killed: one process writes the warehouse at a time. -#}
{% macro mark_killed_builds() -%}
    {%- do run_query("update " ~ ops_database() ~ ".ops.builds set status = 'killed' where status = 'running'") -%}
{%- endmacro %}

{#- The statements that write what became of each node. -#}
{% macro history_of(results) -%}
    {%- set ops = ops_database() ~ ".ops" -%}
    {%- set model_runs = [] -%}
    {%- set held = [] -%}
    {%- set test_results = [] -%}
    {%- set found = [] -%}
    {%- for result in results -%}
        {%- set node = result.node -%}
        {%- set status = result.status | string -%}
        {%- set message = literal_or_null(one_line(result.message)) -%}
        {%- set timing = (result.timing | selectattr('name', 'equalto', 'execute') | list + result.timing | list) | first -%}
        {%- set started_at = moment_or_null(timing.started_at if timing else none) -%}
        {%- set finished_at = moment_or_null(timing.completed_at if timing else none) -%}
        {%- set seconds = '%.3f' | format(result.execution_time or 0) -%}
        {%- if node.resource_type in ['model', 'seed', 'snapshot'] -%}
            {%- do model_runs.append([
                literal_or_null(node.unique_id), literal_or_null(node.name), literal_or_null(node.config.materialized),
                literal_or_null(status), seconds, message, started_at, finished_at,
            ]) -%}
            {%- if status == 'success' and node.config.materialized in ['table', 'incremental', 'seed', 'snapshot'] and not flags.EMPTY -%}
                {%- do held.append((node.unique_id, node.relation_name)) -%}
            {%- endif -%}
        {%- elif node.resource_type in ['test', 'unit_test', 'source'] -%}
            {%- set kind = {'test': 'data', 'unit_test': 'unit', 'source': 'freshness'}[node.resource_type | string] -%}
            {%- set severity = (node.config.severity or 'error') | lower -%}
            {%- do test_results.append([
                literal_or_null(kind), literal_or_null('freshness of ' ~ node.source_name ~ '.' ~ node.name if kind == 'freshness' else node.name),
                literal_or_null(tested_by(node)), literal_or_null(columns_tested_by(node)), literal_or_null(severity),
                literal_or_null(status), (result.failures | int) if result.failures is not none else 'null', message, seconds,
                'coalesce(' ~ finished_at ~ ', now())', literal_or_null(run_id() or none), literal_or_null(test_hash(node.unique_id)),
            ]) -%}
            {%- if kind == 'data' and status in ['fail', 'warn'] and node.compiled_code -%}
                {%- do found.append((node, severity)) -%}
            {%- endif -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if model_runs %}
    insert into {{ ops }}.model_runs
    select
        '{{ invocation_id }}', ran.unique_id, ran.name, ran.materialized, ran.status, ran.seconds, held.rows_held, ran.message,
        ran.started_at, ran.finished_at
    from (
        values
        {%- for row in model_runs %}
        ({{ row | join(', ') }}){{ "," if not loop.last }}
        {%- endfor %}
    ) as ran (unique_id, name, materialized, status, seconds, message, started_at, finished_at)
    left join (
        select cast(null as {{ type_string() }}) as unique_id, cast(null as bigint) as rows_held
        {%- for unique_id, relation in held %}
        union all
        select '{{ unique_id }}', count(*) from {{ relation }}
        {%- endfor %}
    ) as held
        on ran.unique_id = held.unique_id;
    {%- endif -%}
    {%- if test_results %}
    insert into {{ ops }}.test_results
    values
    {%- for row in test_results %}
    ('{{ invocation_id }}', {{ row | join(', ') }}){{ "," if not loop.last }}
    {%- endfor %};
    {%- endif -%}
    {%- for node, severity in found %}
    insert into {{ ops }}.failing_rows
    select
        '{{ invocation_id }}', {{ literal_or_null(node.name) }}, {{ literal_or_null(tested_by(node)) }}, '{{ severity }}',
        {{ row_as_json('failing') }}, now()
    from (
        {{ node.compiled_code }}
    ) as failing
    limit {{ var('failing_rows_kept') }};
    {%- endfor %}
    {#- Nothing is older than what the history keeps, but the rows of a build long ago. What was skipped has no time of its own, but
        that of its build. -#}
    {%- set skipped_at -%}
        (select max(builds.started_at) from {{ ops }}.builds as builds where builds.invocation_id = model_runs.invocation_id)
    {%- endset -%}
    {%- for table, moment, days in [
        ('model_runs', 'coalesce(finished_at, ' ~ skipped_at ~ ')', var('run_history_days')),
        ('test_results', 'executed_at', var('run_history_days')),
        ('failing_rows', 'found_at', var('failing_rows_days')),
    ] %}
    delete from {{ ops }}.{{ table }} where {{ moment }} < {{ days_before_now(days) }};
    {%- endfor -%}
    {%- if found -%}
        {%- do log(
            found | length ~ " tests found rows. They are in ops.failing_rows; see them: dbt run-operation show_failures", info=true
        ) -%}
    {%- endif -%}
{%- endmacro %}

{#- The model or source that a test is of; of a singular test, all that it reads. -#}
{% macro tested_by(node) -%}
    {%- if node.resource_type == 'source' -%}
        {{ return(node.source_name ~ '.' ~ node.name) }}
    {%- elif node.resource_type == 'unit_test' -%}
        {{ return(node.model) }}
    {%- endif -%}
    {%- set parents = [node.attached_node] if node.attached_node else node.depends_on.nodes -%}
    {%- set names = [] -%}
    {%- for unique_id in parents -%}
        {%- set parent = graph.nodes.get(unique_id) -%}
        {%- set of_source = graph.sources.get(unique_id) -%}
        {%- do names.append(parent.name if parent else of_source.source_name ~ '.' ~ of_source.name) if parent or of_source -%}
    {%- endfor -%}
    {{ return(names | unique | sort | join(', ') or none) }}
{%- endmacro %}

{#- The columns that a generic test's arguments name; null for a test of rows. -#}
{% macro columns_tested_by(node) -%}
    {%- set arguments = node.test_metadata.kwargs if node.test_metadata else {} -%}
    {%- set columns = [] -%}
    {%- for name in ['column_name', 'column', 'columns', 'bounds', 'values', 'patterns', 'references'] if arguments.get(name) -%}
        {%- set value = arguments[name] -%}
        {%- do columns.extend([value] if value is string else value | list) -%}
    {%- endfor -%}
    {{ return(columns | join(', ') or none) }}
{%- endmacro %}

{#- A message as one line of at most 500 characters, without what looks like a secret, and without the row that PostgreSQL shows of a
    broken constraint: it may be a person's. -#}
{% macro one_line(message) -%}
    {%- set text = (message or '') | string -%}
    {%- set text = modules.re.sub('\\n\\s*DETAIL:.*', '', text) -%}
    {%- set text = modules.re.sub('://[^/@[:space:]]*:[^/@]*@'.replace('[:space:]', '\\s'), '://***@', text) -%}
    {%- set text = modules.re.sub('(?i)\\b([\\w-]*(?:password|passwd|pwd|secret|token|api_?key)[\\w-]*)(["\']?\\s*[=:]\\s*)(\'[^\']*\'|"[^"]*"|\\S+)', '\\1\\2***', text) -%}
    {{ return(' '.join(text.split())[:500] or none) }}
{%- endmacro %}

{% macro literal_or_null(text) -%}
    {{ return("null" if text is none else "'" ~ (text | string | replace("'", "''")) ~ "'") }}
{%- endmacro %}

{#- A moment of dbt's own, which is UTC. -#}
{% macro moment_or_null(moment) -%}
    {%- set text = moment.isoformat() if moment else none -%}
    {%- if text and '+' not in text and not text.endswith('Z') -%}
        {%- set text = text ~ '+00:00' -%}
    {%- endif -%}
    {{ return("cast(" ~ literal_or_null(text) ~ " as timestamptz)") }}
{%- endmacro %}

{#- `dbt run-operation show_failures`: the rows that the tests of the last command found; --args '{test: NAME}' for one test, also of
    an earlier command. -#}
{% macro show_failures(test=none) -%}
    {%- set rows_query -%}
        select
            failing_rows.test_name,
            failing_rows.severity,
            max(test_results.failures) as failures,
            failing_rows.failing_row
        from {{ ops_database() }}.ops.failing_rows as failing_rows
        inner join {{ ops_database() }}.ops.test_results as test_results
            on
                failing_rows.invocation_id = test_results.invocation_id
                and failing_rows.test_name = test_results.test_name
        where failing_rows.invocation_id = (
            select max_by.invocation_id
            from {{ ops_database() }}.ops.test_results as max_by
            where
                max_by.kind <> 'freshness'
                {%- if test %}
                and max_by.test_name = {{ literal_or_null(test) }}
                and max_by.status in ('fail', 'warn')
                {%- endif %}
            order by max_by.executed_at desc
            limit 1
        )
        {%- if test %}
        and failing_rows.test_name = {{ literal_or_null(test) }}
        {%- endif %}
        group by failing_rows.test_name, failing_rows.severity, failing_rows.failing_row
        order by failing_rows.severity, failing_rows.test_name, failing_rows.failing_row
    {%- endset -%}
    {%- if not load_relation(source('ops', 'failing_rows')) -%}
        {%- do print("No test has been run yet.") -%}
    {%- else -%}
        {%- set shown = {'test': none} -%}
        {%- for row in run_query(rows_query).rows -%}
            {%- if row[0] != shown.test -%}
                {%- do print(row[1] ~ " " ~ row[0] ~ ": " ~ row[2] ~ " rows") -%}
                {%- do shown.update({'test': row[0]}) -%}
            {%- endif -%}
            {%- do print("    " ~ row[3]) -%}
        {%- endfor -%}
        {%- if not shown.test -%}
            {%- do print("No failing rows.") -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
