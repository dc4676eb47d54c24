{{ config(unique_key='product_id') }}

{{ current_versions('products', presence='name') }}

select * from current_rows
