-- Staging has a row for every row of raw, table by table. Everything downstream, the reconciliation
-- included, reads staging: what it dropped would be missing everywhere alike.
{{ config(enabled=(shop() == 'demo_shop')) }}

{%- set staged = {
    'users': source('raw_crm', 'users'),
    'products': source('raw_catalog', 'products'),
    'orders': source('raw_shop', 'orders'),
    'order_items': source('raw_shop', 'order_items'),
    'refunds': source('raw_shop', 'refunds'),
    'events': source('raw_web', 'events'),
    'stock_levels': source('raw_stock', 'stock_levels'),
} %}

with

counts as (
    {%- for entity, raw in staged.items() %}
    select
        '{{ entity }}' as entity,
        (select count(*) from {{ raw }} where _sdc_load_id <= {{ load_bound() }}) as raw_rows,
        (select count(*) from {{ ref('stg_demo_shop__' ~ entity) }}) as staged_rows
    {%- if not loop.last %}

    union all
    {% endif %}
    {%- endfor %}
)

select *
from counts
where raw_rows <> staged_rows
