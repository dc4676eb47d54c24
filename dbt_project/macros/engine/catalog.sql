{#- Rows as a whole, and moments of the machine's clock. -#}

{#- A row of the relation of this name as one line of JSON, its columns in their order. -#}
{% macro row_as_json(relation) -%}
    {{ adapter.dispatch('row_as_json')(relation) }}
{%- endmacro %}

{% macro duckdb__row_as_json(relation) -%}
    cast(to_json({{ relation }}) as varchar)
{%- endmacro %}

{#- The moment so many days ago. -#}
{% macro days_before_now(days) -%}
    {{ adapter.dispatch('days_before_now')(days) }}
{%- endmacro %}

{% macro duckdb__days_before_now(days) -%}
    now() - to_days({{ days }})
{%- endmacro %}
