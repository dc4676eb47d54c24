{{ config(unique_key='shipping_line_id') }}

{{ current_versions('shipping_lines', presence='amount') }}

select * from current_rows
