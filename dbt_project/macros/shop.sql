{#- What kind of shop this warehouse holds. The settings are vars.shops.<shop> in dbt_project.yml. -#}

{% macro shop() -%}
    {{ return(env_var('WAREHOUSE_SHOP', '') or 'demo_shop') }}
{%- endmacro %}

{% macro shop_setting(name) -%}
    {%- set shops = var('shops') -%}
    {%- if shop() not in shops -%}
        {%- do exceptions.raise_compiler_error(
            "WAREHOUSE_SHOP=" ~ shop() ~ " is not among vars.shops of dbt_project.yml: " ~ shops.keys() | join(", ")
        ) -%}
    {%- endif -%}
    {{ return(shops[shop()][name]) }}
{%- endmacro %}

{#- The SQL type of an id: entity is user, product, order or order_line. -#}
{% macro id_type(entity) -%}
    {%- set declared = shop_setting(entity ~ '_id_type') -%}
    {{ return(type_string() if declared == 'text' else declared) }}
{%- endmacro %}

{#- The id of the member that stands for users and products that a fact names but raw lacks. -#}
{% macro unknown_id(entity) -%}
    {{ return("'unknown'" if shop_setting(entity ~ '_id_type') == 'text' else '-1') }}
{%- endmacro %}

{% macro has_entity(entity) -%}
    {{ return(entity in shop_setting('entities')) }}
{%- endmacro %}

{#- The staging view of an entity; for an entity that the shop does not have, an empty relation of the same columns.
    Always give it an alias: `from {{ staging('users') }} as users`. -#}
{% macro staging(entity) -%}
    {%- if has_entity(entity) -%}
        {{ upstream('stg_' ~ shop() ~ '__' ~ entity) }}
    {%- else -%}
        (
            select
            {%- for column in entity_columns(entity) + technical_column_types() %}
                cast(null as {{ column[1] }}) as {{ column[0] }}{{ "," if not loop.last }}
            {%- endfor %}
            where false
        )
    {%- endif -%}
{%- endmacro %}

{#- Columns of the staging interface (docs/contracts.md) as [name, type]; the first are the entity's key (entity_keys). -#}
{% macro entity_columns(entity) -%}
    {%- set text = type_string() -%}
    {%- set money = money_type() -%}
    {%- set columns = {
        'users': [
            ['user_id', id_type('user')], ['name', text], ['email', text], ['is_email_valid', 'boolean'], ['phone', text],
            ['age', 'integer'], ['country', text], ['registered_at', 'timestamp'],
        ],
        'products': [
            ['product_id', id_type('product')], ['name', text], ['category', text], ['price', money],
        ],
        'orders': [
            ['order_id', id_type('order')], ['user_id', id_type('user')], ['status', text], ['ordered_at', 'timestamp'],
            ['cancelled_at', 'timestamp'], ['shipping_cost', money], ['currency', text],
        ],
        'order_items': [
            ['order_line_id', id_type('order_line')], ['order_id', id_type('order')], ['product_id', id_type('product')],
            ['quantity', 'integer'], ['unit_price', money], ['discount', money], ['amount', money],
            ['created_at', 'timestamp'],
        ],
        'shipping_lines': [
            ['shipping_line_id', text], ['order_id', id_type('order')], ['amount', money],
        ],
        'refunds': [
            ['refund_id', text], ['order_line_id', id_type('order_line')], ['order_id', id_type('order')],
            ['product_id', id_type('product')], ['user_id', id_type('user')], ['amount', money],
            ['shipping_amount', money], ['refunded_at', 'timestamp'], ['reason', text],
        ],
        'adjustments': [
            ['adjustment_id', text], ['order_id', id_type('order')], ['product_id', id_type('product')],
            ['user_id', id_type('user')], ['kind', text], ['amount', money], ['adjusted_at', 'timestamp'],
        ],
        'events': [
            ['event_id', text], ['user_id', id_type('user')], ['product_id', id_type('product')], ['event_type', text],
            ['occurred_at', 'timestamp'],
        ],
        'stock_levels': [
            ['product_id', id_type('product')], ['recorded_at', 'timestamp'], ['quantity_on_hand', 'integer'],
        ],
    } -%}
    {{ return(columns[entity]) }}
{%- endmacro %}

{#- The names of an entity's key columns. -#}
{% macro entity_keys(entity) -%}
    {%- set count = {'stock_levels': 2}.get(entity, 1) -%}
    {{ return(entity_columns(entity)[:count] | map('first') | list) }}
{%- endmacro %}

{#- The columns with which every staging view ends, as [name, type]. -#}
{% macro technical_column_types() -%}
    {{ return([
        ['_version_at', 'timestamp'], ['_row_hash', type_string()], ['_operation', type_string()],
        ['_deleted_at', 'timestamp'], ['_source_file', type_string()], ['_occurrence', 'bigint'],
        ['_sequence', 'bigint'], ['_load_id', 'bigint'], ['_source_key', type_string()],
    ]) }}
{%- endmacro %}
