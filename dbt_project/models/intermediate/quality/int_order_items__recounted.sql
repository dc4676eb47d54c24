{{ config(unique_key='order_line_id') }}

{{ recounted('order_items', ['order_id', 'amount', 'created_at', '_version_at']) }}

select * from recounted_rows
