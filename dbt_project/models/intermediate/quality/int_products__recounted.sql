{{ config(unique_key='product_id') }}

{{ recounted('products') }}

select * from recounted_rows
