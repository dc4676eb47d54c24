{#- Every value of the column is one of the seed's (or of `also`). -#}
{% test accepted_by_seed(model, column, seed, seed_column, also=[]) %}

select {{ column }}
from {{ model }}
where
    {{ column }} not in (
        select {{ seed_column }} from {{ ref(seed) }} where {{ seed_column }} is not null
    )
    {%- for value in also %}
    and {{ column }} <> '{{ value }}'
    {%- endfor %}

{% endtest %}
