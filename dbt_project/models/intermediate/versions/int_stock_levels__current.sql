{{ config(unique_key=['product_id', 'recorded_at']) }}

{{ current_versions('stock_levels', presence='quantity_on_hand') }}

select * from current_rows
