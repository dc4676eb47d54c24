-- Shares and averages are exact: a half is rounded up, nothing is divided by zero, and the largest
-- figures that a shop may reach fit. Otherwise two engines show two figures.

{%- set largest = '99999999999999.9999' -%}
{%- set ratios = [
    ['1', '3', '0.333333'],
    ['2', '3', '0.666667'],
    ['1', '2000000', '0.000001'],
    ['1', '2000001', '0'],
    ['3', '2000000', '0.000002'],
    ['0', '7', '0'],
    ['7', '7', '1'],
    ['7', '0', 'null'],
    ['null', '7', 'null'],
    ['999999999999', '1', '999999999999'],
    ['9223372036854775807', '9223372036854775807', '1'],
] %}
{%- set averages = [
    ['10', '3', '3.3333'],
    ['20', '3', '6.6667'],
    ['0.0001', '2', '0.0001'],
    ['0.0001', '3', '0'],
    ['0.0003', '2', '0.0002'],
    ['0', '5', '0'],
    ['5', '0', 'null'],
    [largest, '1', largest],
    [largest, '2', '50000000000000'],
] %}

with

quotients as (
    {% for dividend, divisor, expected in ratios %}
        select
            '{{ dividend }} / {{ divisor }}' as quotient,
            {{ ratio(dividend, divisor) }} as found,
            cast({{ expected }} as {{ ratio_type() }}) as expected
        union all
    {% endfor %}
    {% for amount, divisor, expected in averages %}
        select
            'average of {{ amount }} over {{ divisor }}' as quotient,
            {{ average_money(money(amount), divisor) }} as found,
            {{ money(expected) }} as expected
        {% if not loop.last %}
            union all
        {% endif %}
    {% endfor %}
)

select * from quotients
where found is distinct from expected
