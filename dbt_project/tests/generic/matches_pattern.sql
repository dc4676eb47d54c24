{#- Every value of the column that is not null matches the regular expression. -#}
{% test matches_pattern(model, column, pattern) %}

select {{ column }}
from {{ model }}
where not {{ matches(column, pattern) }}

{% endtest %}
