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

-- noqa: disable=LT02
with

{%- for entity, raw in staged.items() %}

{{ entity }}_raw as (
    select count(*) as raw_rows from {{ raw }}
    where _sdc_load_id <= {{ load_bound() }}
),

{{ entity }}_staged as (
    select count(*) as staged_rows from {{ ref('stg_demo_shop__' ~ entity) }}
),
{%- endfor %}

counts as (
    {%- for entity in staged %}
    select
        '{{ entity }}' as entity,
        {{ entity }}_raw.raw_rows,
        {{ entity }}_staged.staged_rows
    from {{ entity }}_raw
    cross join {{ entity }}_staged
    {%- if not loop.last %}

    union all
    {% endif %}
    {%- endfor %}
)

select *
from counts
where raw_rows <> staged_rows
