{{ config(unique_key='adjustment_id') }}

{{ current_versions('adjustments', presence='adjusted_at') }}

select * from current_rows
