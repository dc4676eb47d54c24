-- The base has a row for every row of raw, and each of them is a sale, shipping, a refund or an
-- adjustment. Everything downstream, the reconciliation included, reads staging: what it dropped
-- would be missing everywhere alike.
{{ config(enabled=(shop() == 'online_retail')) }}

with

counts as (
    select
        (
            select count(*) from {{ source('raw_files', 'transactions') }}
            where _sdc_load_id <= {{ load_bound() }}
        ) as raw_rows,
        (select count(*) from {{ ref('base_online_retail__lines') }}) as base_rows,
        (select count(*) from {{ ref('stg_online_retail__order_items') }})
        + (select count(*) from {{ ref('stg_online_retail__shipping_lines') }})
        + (select count(*) from {{ ref('stg_online_retail__refunds') }})
        + (select count(*) from {{ ref('stg_online_retail__adjustments') }}) as entity_rows
)

select *
from counts
where
    raw_rows <> base_rows
    or raw_rows <> entity_rows
