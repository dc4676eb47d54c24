-- Shares and averages are exact: a half is rounded up, nothing is divided by zero, and the largest
-- figures that a shop may reach fit. Otherwise two engines show two figures.

with

ratios as (
    select
        {{ ratio('dividend', 'divisor') }} as found,
        expected
    from (
        select 1 as dividend, 3 as divisor, 0.333333 as expected
        union all
        select 2 as dividend, 3 as divisor, 0.666667 as expected
        -- 0.0000005 and just below
        union all
        select 1 as dividend, 2000000 as divisor, 0.000001 as expected
        union all
        select 1 as dividend, 2000001 as divisor, 0 as expected
        union all
        select 3 as dividend, 2000000 as divisor, 0.000002 as expected
        union all
        select 0 as dividend, 7 as divisor, 0 as expected
        union all
        select 7 as dividend, 7 as divisor, 1 as expected
        union all
        select 7 as dividend, 0 as divisor, null as expected
        union all
        select null as dividend, 7 as divisor, null as expected
        union all
        select 999999999999 as dividend, 1 as divisor, 999999999999 as expected
        union all
        select 9223372036854775807 as dividend, 9223372036854775807 as divisor, 1 as expected
    ) as quotients_of_numbers
),

averages as (
    select
        {{ average_money('amount', 'divisor') }} as found,
        expected
    from (
        select {{ money('10') }} as amount, 3 as divisor, 3.3333 as expected
        union all
        select {{ money('20') }} as amount, 3 as divisor, 6.6667 as expected
        -- 0.00005 and just below
        union all
        select {{ money('0.0001') }} as amount, 2 as divisor, 0.0001 as expected
        union all
        select {{ money('0.0001') }} as amount, 3 as divisor, 0 as expected
        union all
        select {{ money('0.0003') }} as amount, 2 as divisor, 0.0002 as expected
        union all
        select {{ money('0') }} as amount, 5 as divisor, 0 as expected
        union all
        select {{ money('5') }} as amount, 0 as divisor, null as expected
        union all
        select {{ money('99999999999999.9999') }} as amount, 1 as divisor, 99999999999999.9999 as expected
        union all
        select {{ money('99999999999999.9999') }} as amount, 2 as divisor, 50000000000000.0000 as expected
    ) as quotients_of_money
),

faults as (
    select
        found,
        expected
    from ratios
    where found is distinct from expected

    union all

    select
        found,
        expected
    from averages
    where found is distinct from expected
)

select * from faults
