{#- Every value of each column is within its bounds, both included: {column: [lower, upper]}. One scan for all columns. -#}
{% test values_between(model, bounds) %}

select
    {{ bounds.keys() | join(',\n    ') }}
from {{ model }}
where
    {%- for column, range in bounds.items() %}
    {{ "or " if not loop.first }}{{ column }} < {{ range[0] }}
    or {{ column }} > {{ range[1] }}
    {%- endfor %}

{% endtest %}
