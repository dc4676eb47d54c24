{#- Schemas are named as configured, without the target's prefix: a warehouse is one folder, so nothing can collide. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name | trim if custom_schema_name else target.schema }}
{%- endmacro %}
