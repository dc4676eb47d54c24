{{ config(unique_key='event_id') }}

{{ recounted('events', ['event_type', 'product_id', 'occurred_at']) }}

select * from recounted_rows
