{{ config(unique_key='refund_id') }}

{{ current_versions('refunds', presence='refunded_at') }}

select * from current_rows
