{{ config(unique_key='product_id') }}

{{ version_history('products', presence='name', defaults={'category': "'unknown'"}) }}

select * from history_rows
