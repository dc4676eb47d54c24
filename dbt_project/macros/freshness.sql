{#- When a stream was last extracted successfully, for `dbt source freshness`. -#}
{% macro last_extraction(source_name, stream) -%}
    select max(finished_at) from {{ ops_database() }}.ops.syncs where source = '{{ source_name }}' and stream = '{{ stream }}' and status = 'ok'
{%- endmacro %}
