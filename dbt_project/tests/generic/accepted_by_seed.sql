{#- Every value of the column is one of the seed's (or of `also`). -#}
{% test accepted_by_seed(model, column, seed, seed_column, also=[]) %}

{%- set broken -%}
    ({{ column }} not in (select {{ seed_column }} from {{ ref(seed) }} where {{ seed_column }} is not null)
    {%- for value in also %} and {{ column }} <> '{{ value }}'{% endfor %})
{%- endset -%}

{{ rows_breaking(model, [{
    'broken': broken,
    'says': "'" ~ column ~ " is ' || " ~ as_text(column) ~ " || ', not in the seed " ~ seed ~ "'",
}]) }}

{% endtest %}
