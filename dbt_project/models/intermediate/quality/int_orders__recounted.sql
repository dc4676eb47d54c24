{{ config(unique_key='order_id') }}

{{ recounted(
    'orders', ['status', 'ordered_at', 'cancelled_at', 'shipping_cost', '_version_at']
) }}

select * from recounted_rows
