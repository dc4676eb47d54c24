with

source as (
    select * from {{ source('raw_shop', 'refunds') }}
    where _sdc_load_id <= {{ load_bound() }}
),

refunds as (
    select
        -- ids: a refund of this shop names its line, so product and user are those of the line
        -- and its order
        {{ text_of('refund_id') }} as refund_id,
        {{ to_id('order_line_id', 'order_line') }} as order_line_id,
        {{ to_id('order_id', 'order') }} as order_id,
        cast(null as {{ id_type('product') }}) as product_id,
        cast(null as {{ id_type('user') }}) as user_id,

        -- numbers: shipping is given back by cancellations alone
        {{ to_decimal('amount') }} as amount,
        {{ money('0') }} as shipping_amount,

        -- timestamps
        {{ to_utc_timestamp('refunded_at') }} as refunded_at,

        -- text
        nullif({{ trimmed('reason') }}, '') as reason,

        {{ technical_columns(
            to_utc_timestamp('updated_at'),
            to_utc_timestamp('deleted_at'),
            source_key='refund_id'
        ) }}
    from source
)

select * from refunds
