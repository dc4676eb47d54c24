{{ config(unique_key='shipping_line_id') }}

{{ recounted('shipping_lines', ['order_id', 'amount']) }}

select * from recounted_rows
