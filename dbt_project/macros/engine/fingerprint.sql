{#- A whole number of 62 bits that stands for the values of columns, null among them: equal values of one type have the same one. Differences
    between two sets of rows, each multiplied with that of its key, sum to 0 where there are none, and else by chance alone (DECISIONS.md).
    For that it must follow no rule, as engines' hashes do: DuckDB's of 2n is often twice that of n, and that of 0 is 0, unless something
    else is hashed with it; of two columns it is a mixture of two hashes, which is hashed once more. PostgreSQL's of a row has no sign
    of decimals and 32 bits of a time, which that of text has. -#}
{% macro fingerprint(columns) -%}
    {{ adapter.dispatch('fingerprint')(columns) }}
{%- endmacro %}

{% macro duckdb__fingerprint(columns) -%}
    cast(hash(hash({{ columns | join(', ') }}, 1)) >> 2 as bigint)
{%- endmacro %}

{% macro postgres__fingerprint(columns) -%}
    (hashtextextended(cast(row({{ columns | join(', ') }}) as text), 0) >> 2)
{%- endmacro %}
