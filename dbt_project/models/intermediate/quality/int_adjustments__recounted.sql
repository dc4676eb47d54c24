{{ config(unique_key='adjustment_id') }}

{{ recounted('adjustments', ['amount', 'adjusted_at']) }}

select * from recounted_rows
