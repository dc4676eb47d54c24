{{ config(unique_key='refund_id') }}

{{ recounted(
    'refunds', ['order_line_id', 'order_id', 'amount', 'shipping_amount', 'refunded_at']
) }}

select * from recounted_rows
