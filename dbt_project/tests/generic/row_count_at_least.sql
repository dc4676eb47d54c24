{#- The model has at least so many rows. -#}
{% test row_count_at_least(model, minimum_rows) %}

select
    'has ' || {{ as_text('all_rows') }} || ' rows, fewer than {{ minimum_rows }}' as broken,
    all_rows as rows_found
from (select count(*) as all_rows from {{ model }}) as counted
where all_rows < {{ minimum_rows }}

{% endtest %}
