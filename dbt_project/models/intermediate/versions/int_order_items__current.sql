{{ config(unique_key='order_line_id') }}

{{ current_versions('order_items', presence='created_at') }}

select * from current_rows
