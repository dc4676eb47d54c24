-- The lines of all files, parsed, each with its one role. One row per received version of a line.
with

transactions as (
    select * from {{ source('raw_files', 'transactions') }}
    where _sdc_load_id <= {{ load_bound() }}
),

codes as (
    select * from {{ ref('non_product_codes') }}
),

parsed as (
    select
        -- ids
        {{ md5_of(
            "_sdc_source_file || '|' || _sdc_row_hash || '|' || cast(_sdc_occurrence as "
            ~ type_string() ~ ")"
        ) }} as line_id,
        {{ upper_case(trimmed(adapter.quote('InvoiceNo'))) }} as invoice_number,
        {{ upper_case(trimmed(adapter.quote('StockCode'))) }} as stock_code,
        nullif({{ trimmed(adapter.quote('CustomerID')) }}, '') as customer_number,

        -- text
        nullif({{ trimmed(adapter.quote('Description')) }}, '') as description,
        nullif({{ trimmed(adapter.quote('Country')) }}, '') as country,

        -- numbers
        {{ to_integer(adapter.quote('Quantity')) }} as quantity,
        {{ to_decimal(adapter.quote('UnitPrice')) }} as unit_price,

        -- timestamps
        {{ to_utc_timestamp(adapter.quote('InvoiceDate')) }} as invoiced_at,

        -- version
        _sdc_row_hash,
        _sdc_operation,
        _sdc_deleted_at,
        _sdc_extracted_at,
        _sdc_source_file,
        _sdc_occurrence,
        _sdc_sequence,
        _sdc_load_id
    from transactions
),

coded as (
    select
        parsed.*,
        codes.kind as code_kind,
        -- Customer numbers were floats once: 17850.0 is 17850.
        case
            when parsed.customer_number like '%.0'
                then left(parsed.customer_number, length(parsed.customer_number) - 2)
            else parsed.customer_number
        end as customer_id,
        case when codes.code is null then parsed.stock_code end as product_id,
        {{ money_or_null(quantity_times_price('parsed.quantity', 'parsed.unit_price')) }} as amount,
        coalesce(codes.kind = 'shipping', false) as is_shipping,
        parsed.invoice_number like 'C%' as is_cancellation,
        left(parsed.invoice_number, 1) not in ('A', 'C')
        and parsed.quantity > 0
        and parsed.unit_price > 0 as is_charge
    from parsed
    left join codes on parsed.stock_code = codes.code
),

classified as (
    select
        *,
        -- The first rule that holds decides; the last keeps what nobody foresaw in the books.
        case
            when code_kind is not null and not is_shipping then code_kind
            when invoice_number like 'A%' then 'bad_debt'
            when unit_price = 0 and quantity < 0 then 'stock_correction'
            when unit_price = 0 then 'zero_price'
            when is_charge and is_shipping then 'shipping'
            when is_charge then 'sale'
            when is_cancellation and amount < 0 then 'refund'
            else 'correction'
        end as line_role
    from coded
)

select * from classified
