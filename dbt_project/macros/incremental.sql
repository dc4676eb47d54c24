{#- Incremental by load id. Every build reads raw up to one bound (ops.load_bound). Each incremental model has a watermark, in the
    database of the model and written in the model's transaction: all loads up to it are in the model. -#}

{% macro ops_database() -%}
    {{ return(target.database) }}
{%- endmacro %}

{#- The load id up to which this build reads raw. -#}
{% macro load_bound() -%}
    (select load_bound.load_id from {{ ops_database() }}.ops.load_bound as load_bound)
{%- endmacro %}

{#- The last moment that is no mistake: `future_days_max` days after this build fixed its load bound. -#}
{% macro last_moment() -%}
    (
        select {{ dateadd('day', var('future_days_max'), naive_utc('load_bound.fixed_at')) }}
        from {{ ops_database() }}.ops.load_bound as load_bound
    )
{%- endmacro %}

{#- The load id up to which a model, or else this one, is built. A subquery, so that compiled code does not change from run to run. -#}
{% macro watermark(relation=none) -%}
    {%- set relation = relation or this -%}
    (
        select coalesce(max(watermarks.load_id), -1)
        from {{ relation.database }}.ops.watermarks as watermarks
        where watermarks.model = '{{ relation.identifier }}'
    )
{%- endmacro %}

{#- A condition: the load id in `column` is beyond what this model is built with (on a full build: true). -#}
{% macro is_news(column) -%}
    {%- if is_incremental() -%}
        {{ column }} > {{ watermark() }}
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{#- CTEs, on an incremental run, for has_news: the keys of a staging view of which something came since this model was built; the first
    load that may have a version of them; and how raw writes them. The last are made first: a database that knows how few they are
    takes them as a filter of what it reads, and cleans a third of the rows before it joins them. -#}
{% macro keys_with_news(versions, keys) -%}
    {%- if is_incremental() -%}
    news as (
        select distinct {{ 'received.' ~ keys | join(', received.') }}
        from {{ versions }} as received
        where received._load_id > {{ watermark() }}
    ),

    first_load as (
        select least(min(known._first_load_id), {{ watermark() }} + 1) as load_id
        from {{ this }} as known
        where (known.{{ keys | join(', known.') }}) in (select {{ 'news.' ~ keys | join(', news.') }} from news)
    ),

    source_keys as materialized (
        select distinct received._source_key
        from {{ versions }} as received
        where
            (received.{{ keys | join(', received.') }}) in (select {{ 'news.' ~ keys | join(', news.') }} from news)
            and received._load_id >= (select first_load.load_id from first_load)
    ),
    {% endif -%}
{%- endmacro %}

{#- A further condition, on an incremental run, of the rows `received` of a staging view: their key is one of keys_with_news. The load and
    the key as raw has it say nothing more; but by them the database skips other rows before it cleans them. -#}
{% macro has_news(received, keys) -%}
    {%- if is_incremental() -%}
            and ({{ received }}.{{ keys | join(', ' ~ received ~ '.') }}) in (select {{ 'news.' ~ keys | join(', news.') }} from news)
            and {{ received }}._load_id >= (select first_load.load_id from first_load)
            and {{ received }}._source_key in (select source_keys._source_key from source_keys)
    {%- endif -%}
{%- endmacro %}

{#- A condition: `column` names an order that changed since this model was built (on a full build: true).
    Call it in a model, so that dbt sees the reference. -#}
{% macro is_touched(column) -%}
    {%- set touched = touched_orders(watermark()) -%}
    {{ column ~ ' in (' ~ touched ~ ')' if is_incremental() else 'true' }}
{%- endmacro %}

{#- A query of the orders that changed after a load. -#}
{% macro touched_orders(since) %}
            select touched_orders.order_id
            from {{ upstream('int_orders__touched') }} as touched_orders
            where touched_orders._changed_load_id > {{ since }}
{% endmacro %}

{#- A condition: anything may have changed since this model was built in this window of a product's clicks (on a full build: true). -#}
{% macro is_touched_window(product_id, window_start) -%}
    {%- set touched = touched_windows_of_members(watermark()) -%}
    {{ '(' ~ product_id ~ ', ' ~ window_start ~ ') in (' ~ touched ~ ')' if is_incremental() else 'true' }}
{%- endmacro %}

{#- A query of the touched windows since a load, each also as the unknown product's. -#}
{% macro touched_windows_of_members(since) %}
            select
                case when members.is_unknown = 1 then {{ unknown_id('product') }} else touched.product_id end as product_id,
                touched.window_start
            from ({{ touched_windows(since) }}) as touched
            cross join (select 0 as is_unknown union all select 1 as is_unknown) as members
{% endmacro %}

{#- A condition that every click of a touched window fulfils, and most others do not; unlike the windows themselves it is one of a
    column that the database has stored, so that it need not look at those (on a full build: true). -#}
{% macro is_since_touched_windows(occurred_at) -%}
    {%- if is_incremental() -%}
        {{ occurred_at }} >= (select min(touched.window_start) from ({{ touched_windows(watermark()) }}) as touched)
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{#- A query of the touched windows since a load: those of every version of an event that changed, so the old one too, and those of a product's
    events when the product itself arrives; each time the unknown product's window is meant too, in which the event may have
    counted until then. -#}
{% macro touched_windows(since) -%}
    {%- set events = upstream('int_events__current') -%}
    {%- set products = upstream('int_products__current') -%}
    {%- set versions = staging('events') %}
        select
            received.product_id,
            {{ click_window('received.occurred_at') }} as window_start
        from {{ versions }} as received
        where
            received.event_id in (
                select changed.event_id
                from {{ events }} as changed
                where changed._changed_load_id > {{ since }}
            )
            -- Earlier loads of raw need not be read, and without changes none.
            and received._load_id >= (
                select coalesce(min(changed._first_load_id), {{ load_bound() }} + 1)
                from {{ events }} as changed
                where changed._changed_load_id > {{ since }}
            )

        union all

        select
            waiting.product_id,
            {{ click_window('waiting.occurred_at') }} as window_start
        from {{ events }} as waiting
        where waiting.product_id in (
            select arrived.product_id
            from {{ products }} as arrived
            where arrived._first_load_id > {{ since }}
        )
{%- endmacro %}

{#- The age that this model's users have who said none (on a full build: none have one). A macro, because a unit test can say what it
    is, but not what a model holds that was never built. -#}
{% macro age_imputed_until_now() -%}
    {%- if is_incremental() -%}
        (select max(known.age) from {{ this }} as known where known.is_age_imputed)
    {%- else -%}
        null
    {%- endif -%}
{%- endmacro %}

{#- Pre-hook of models with the strategy `append`: what such a model holds of touched orders (of touched windows, where its
    `meta.touched` says so) goes, and the model appends what survives, in one transaction. -#}
{% macro remove_touched() -%}
    {%- if execute and config.get('incremental_strategy') == 'append' and is_incremental() -%}
        {%- if config.get('meta', {}).get('touched') == 'windows' -%}
            delete from {{ this }} where {{ is_touched_window('product_id', 'window_start') }}
        {%- else -%}
            delete from {{ this }} where {{ is_touched('order_id') }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#- Post-hook of incremental models, in the model's transaction. A model is never ahead of the models it reads, so that a build
    of a selection leaves nothing behind for good. After --empty or --sample the model counts as never built.

    The hash is recorded only where it is true of the model's content: it held before, or this invocation built everything that
    the model is made of (views and seeds too, which `dbt run` leaves out), from ancestors of which the same is true. Otherwise
    it stays null, and the next build makes the model anew.

    An increment also says to what it was added: the watermark until then, and the build that had written it (is_added). -#}
{% macro advance_watermark() -%}
    {%- if execute and config.get('materialized') == 'incremental' -%}
        {%- set watermarks = this.database ~ '.ops.watermarks' -%}
        {%- if not flags.EMPTY and not flags.SAMPLE %}
        {%- set ancestors = [] -%}
        {%- do collect_nodes(model.unique_id, ancestors) -%}
        {%- set hash = logic_hash(model.unique_id) %}
        insert into {{ watermarks }} (model, load_id, logic_hash, invocation_id, previous_load_id, previous_invocation_id)
        select
            '{{ this.identifier }}' as model,
            min(bounds.load_id) as load_id,
            case
                when
                    min(bounds.is_current) = 1
                    {%- if ancestors | reject('in', selected_resources) | list %}
                    and exists (
                        select 1
                        from {{ watermarks }} as known
                        where
                            known.model = '{{ this.identifier }}'
                            and known.logic_hash = '{{ hash }}'
                    )
                    {%- endif %}
                    then '{{ hash }}'
            end as logic_hash,
            '{{ invocation_id }}' as invocation_id,
            {{ previous_watermark('load_id') }} as previous_load_id,
            {{ previous_watermark('invocation_id') }} as previous_invocation_id
        from (
            select
                {{ load_bound() }} as load_id,
                1 as is_current
            {%- for upstream in incremental_parents(model.unique_id) %}
            union all
            select
                coalesce(max(watermarks.load_id), -1) as load_id,
                coalesce(max(case when watermarks.logic_hash = '{{ logic_hash(upstream.unique_id) }}' then 1 end), 0) as is_current
            from {{ upstream.database }}.ops.watermarks as watermarks
            where watermarks.model = '{{ upstream.alias }}'
            {%- endfor %}
        ) as bounds;
        {%- endif %}
        delete from {{ watermarks }}
        where
            model = '{{ this.identifier }}'
            {%- if not flags.EMPTY and not flags.SAMPLE %}
            and invocation_id is distinct from '{{ invocation_id }}'
            {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#- What this model's watermark said until now, where the model was added to; null where it was made anew. -#}
{% macro previous_watermark(column) -%}
    {%- if is_incremental() -%}
        (select max(known.{{ column }}) from {{ this.database }}.ops.watermarks as known where known.model = '{{ this.identifier }}')
    {%- else -%}
        null
    {%- endif -%}
{%- endmacro %}

{#- Whether this generic test may leave out what it found good in an earlier build: `meta.new_loads_only`, in builds without
    --full-refresh (`dbt test` looks at everything), and where it blocks, because what only warns must be said again. -#}
{% macro looks_at_news_alone() -%}
    {%- set config = model.config -%}
    {#- A `where` chooses among rows; which of them an earlier one left out is not known. #}
    {%- set blocks = config.severity | lower == 'error' and config.error_if == '!= 0' and not config.limit and not config.where -%}
    {{ return(config.meta.get('new_loads_only') and blocks and not flags.FULL_REFRESH and flags.WHICH == 'build') }}
{%- endmacro %}

{#- A condition of the rows of an incremental model that were added since this generic test passed; none where it has to look at
    all rows: the model was made anew, or the build to whose rows the last one added is none in which the test passed with the same
    logic. Rows are added as their model adds them (remove_touched): those of touched orders or windows, else those that changed.

    The load is asked for beforehand: to look among all rows for those that were added since ever costs more than to look at all. -#}
{% macro is_added() -%}
    {%- if not execute or not looks_at_news_alone() -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set node = graph.nodes[model.attached_node] -%}
    {%- set tested -%}
        select max(watermarks.previous_load_id)
        from {{ node.database }}.ops.watermarks as watermarks
        inner join {{ ops_database() }}.ops.test_results as test_results
            on watermarks.previous_invocation_id = test_results.invocation_id
        where
            watermarks.model = '{{ node.alias }}'
            and test_results.test_name = '{{ model.name }}'
            and test_results.status = 'pass'
            and test_results.logic_hash = '{{ test_hash(model.unique_id) }}'
    {%- endset -%}
    {%- set since = run_query(tested).rows[0][0] -%}
    {%- if since is none -%}
        {{ return(none) }}
    {%- elif node.config.incremental_strategy != 'append' -%}
        {{ return('_changed_load_id > ' ~ since) }}
    {%- elif node.config.meta.get('touched') == 'windows' -%}
        {{ return('(product_id, window_start) in (' ~ touched_windows_of_members(since) ~ ')') }}
    {%- endif -%}
    {{ return('order_id in (' ~ touched_orders(since) ~ ')') }}
{%- endmacro %}

{#- A condition of the rows that this generic test has to look at: those beyond the load bound of the complete builds in which it
    passed with the same logic, as far as no load came later that is not beyond it. A subquery, so that compiled code does not change from
    run to run. None, which is every row, unless it looks_at_news_alone. -#}
{% macro is_untested() -%}
    {%- if not looks_at_news_alone() -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set tested -%}
    _load_id > (
        select coalesce(max(whole.load_bound), -1)
        from ({{ builds_without_late_loads() }}) as whole
        inner join {{ ops_database() }}.ops.test_results as test_results
            on whole.invocation_id = test_results.invocation_id
        where
            whole.is_complete
            and test_results.test_name = '{{ model.name }}'
            and test_results.status = 'pass'
            and test_results.logic_hash = '{{ test_hash(model.unique_id) if execute }}'
    )
    {%- endset -%}
    {{ return(tested) }}
{%- endmacro %}

{#- A model that a macro reads. A generic test reads it without saying so: a test of two models runs when either of them is built. -#}
{% macro upstream(name) -%}
    {%- if model.resource_type != 'test' or not model.attached_node -%}
        {{ return(ref(name)) }}
    {%- endif -%}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.name == name -%}
        {{ return(node.relation_name) }}
    {%- endfor -%}
{%- endmacro %}

{#- A hash of all that decides what a generic test says of a row, and whether it passes; null of a test that looks at all rows each
    time. How many rows it lets pass is not to be told from its result, which then has none. -#}
{% macro test_hash(unique_id) -%}
    {%- set node = graph.nodes.get(unique_id) -%}
    {%- if not node or not node.config.meta.get('new_loads_only') -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set asked = tojson(
        [
            node.test_metadata.kwargs, node.config.where | default(none), node.config.fail_calc,
            node.config.warn_if, node.config.error_if,
        ],
        sort_keys=true
    ) -%}
    {{ return(local_md5(asked ~ logic_hash(unique_id))) }}
{%- endmacro %}

{#- The incremental models that a model reads, directly or through models that are not incremental. -#}
{% macro incremental_parents(unique_id) -%}
    {%- set found = [] -%}
    {%- for parent_id in graph.nodes[unique_id].depends_on.nodes if parent_id in graph.nodes -%}
        {%- set parent = graph.nodes[parent_id] -%}
        {%- if parent.config.materialized == 'incremental' -%}
            {%- do found.append(parent) -%}
        {%- elif parent.resource_type == 'model' -%}
            {%- do found.extend(incremental_parents(parent_id)) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{#- A hash of all that decides what a model holds: its code and contract, the models and seeds it reads, the types of the columns of
    raw that these read, the project's macros that they use, the variables that these read, and the shop's settings. -#}
{% macro logic_hash(unique_id) -%}
    {%- set known = memory() -%}
    {%- if unique_id not in known -%}
        {%- do known.update({unique_id: hash_of_logic(unique_id)}) -%}
    {%- endif -%}
    {{ return(known[unique_id]) }}
{%- endmacro %}

{% macro hash_of_logic(unique_id) -%}
    {%- set node_ids = [] -%}
    {%- do collect_nodes(unique_id, node_ids) -%}
    {%- set parts = [tojson(var('shops')[shop()], sort_keys=true)] -%}
    {%- set macro_ids = [] -%}
    {%- for node_id in node_ids | sort -%}
        {%- set node = graph.nodes[node_id] -%}
        {%- do parts.append(node_id ~ node.checksum.checksum ~ (node.contract.checksum if node.contract else '')) -%}
        {%- do parts.append(values_of_variables(node.raw_code)) -%}
        {%- for macro_id in node.depends_on.macros -%}
            {%- do collect_macros(macro_id, macro_ids) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- for macro_id in macro_ids | sort -%}
        {%- set macro_sql = context[macro_id.split('.')[-1]].macro.macro_sql -%}
        {%- do parts.append(macro_id ~ macro_sql ~ values_of_variables(macro_sql)) -%}
    {%- endfor -%}
    {%- do parts.append(types_of_raw(node_ids)) -%}
    {%- do parts.append(hash_of_functions()) -%}
    {{ return(local_md5(parts | join('\n'))) }}
{%- endmacro %}

{#- The types of the columns of raw that the code of any of these nodes names. target-warehouse widens a column in place where its
    source needs it: 5 then reads as 5.00, and a date as a moment in UTC, in rows of old loads too. A new column says nothing of them. -#}
{% macro types_of_raw(node_ids) -%}
    {%- set codes = [] -%}
    {%- set source_ids = [] -%}
    {%- for node_id in node_ids -%}
        {%- do codes.append(graph.nodes[node_id].raw_code | lower) -%}
        {%- do source_ids.extend(graph.nodes[node_id].depends_on.nodes | default([]) | select('in', graph.sources)) -%}
    {%- endfor -%}
    {%- set code = codes | join('\n') -%}
    {%- set named = [] -%}
    {%- for source_id in source_ids | unique | sort -%}
        {%- set table = graph.sources[source_id] -%}
        {%- for column, type in columns_of_raw().get(table.schema ~ '.' ~ table.identifier, []) -%}
            {%- if modules.re.search('\\b' ~ modules.re.escape(column | lower) ~ '\\b', code) -%}
                {%- do named.append([source_id, column, type]) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(tojson(named)) }}
{%- endmacro %}

{#- Name and type of each data column of each raw table, by `<schema>.<table>`. -#}
{% macro columns_of_raw() -%}
    {%- set known = memory() -%}
    {%- if 'columns_of_raw' not in known -%}
        {%- set tables = {} -%}
        {%- set columns -%}
            select
                table_schema,
                table_name,
                column_name,
                {{ type_of_column() }} as data_type
            from information_schema.columns
            where
                table_catalog = '{{ ops_database() }}'
                and table_schema like 'raw_%'
                and column_name not like '_sdc_%'
            order by
                table_schema,
                table_name,
                column_name
        {%- endset -%}
        {%- for row in run_query(columns).rows -%}
            {%- do tables.setdefault(row[0] ~ '.' ~ row[1], []).append([row[2], row[3]]) -%}
        {%- endfor -%}
        {%- do known.update({'columns_of_raw': tables}) -%}
    {%- endif -%}
    {{ return(known.columns_of_raw) }}
{%- endmacro %}

{#- What is found out once in an invocation and asked for by every model. Macros have no memory of their own, but all see one `graph`. -#}
{% macro memory() -%}
    {%- if graph.get('memory', {}).get('invocation_id') != invocation_id -%}
        {%- do graph.update({'memory': {'invocation_id': invocation_id}}) -%}
    {%- endif -%}
    {{ return(graph.memory) }}
{%- endmacro %}

{#- The values of the project's variables that a piece of code reads by name; the settings of other shops do not count. -#}
{% macro values_of_variables(code) -%}
    {%- set values = {} -%}
    {%- for name in modules.re.findall("\\bvar\\(\\s*['\"](\\w+)['\"]", code) if name != 'shops' -%}
        {%- do values.update({name: var(name)}) -%}
    {%- endfor -%}
    {{ return(tojson(values, sort_keys=true)) }}
{%- endmacro %}

{% macro collect_nodes(unique_id, found) -%}
    {%- if unique_id in graph.nodes and unique_id not in found -%}
        {%- do found.append(unique_id) -%}
        {%- for parent_id in graph.nodes[unique_id].depends_on.nodes | default([]) -%}
            {%- do collect_nodes(parent_id, found) -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}

{% macro collect_macros(macro_id, found) -%}
    {%- if macro_id.startswith('macro.' ~ project_name ~ '.') and macro_id not in found -%}
        {%- do found.append(macro_id) -%}
        {%- for used_id in context[macro_id.split('.')[-1]].macro.depends_on.macros -%}
            {%- do collect_macros(used_id, found) -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}
