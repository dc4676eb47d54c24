"""What the generic tests say of what they find, what counts as an unusual day, and what raw is measured by."""

from __future__ import annotations

import math
from datetime import date, timedelta

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import order
from tests.integration.test_run_history import built, history, ops

__all__ = ["built", "history"]  # fixtures

BROKEN_MARTS = """
    create or replace table fact_orders as from fact_orders;  -- without its constraints
    update fact_orders set amount = -5, shipping_cost = 2000000 where order_line_id = 11;
    update fact_orders set amount = 1000001 where order_line_id = 21;
    update fact_orders set product_id = 77 where order_line_id = 31;
    update fact_orders set status = 'lost' where order_line_id = 32;
    update fact_orders set currency = null where order_id < 4;
    insert into fact_orders select * replace (7 as quantity) from fact_orders where order_line_id = 43;
    update dim_users set email = 'it''s wrong' where user_id = 2;
    update mart_data_quality set metric = 'mood' where metric = 'runs';
    delete from mart_data_quality where metric <> 'mood';
"""
FINDINGS = {
    "values_between_fact_orders_v1": [
        ("amount is -5.0000, not between 0 and 1000000; shipping_cost is 2000000.0000, not between 0 and 1000000", 2),
        ("amount is 1000001.0000, not between 0 and 1000000", 2),
    ],
    "references_hold_fact_orders_v1": [("product_id 77 is not in dim_products", 1)],
    "accepted_by_seed_fact_orders_v1": [("status is lost, not in the seed statuses", 1)],
    "null_share_at_most_fact_orders_v1": [("currency is null in 9 of 40 rows, more than a share of 0.05", 9)],
    "key_holds_fact_orders_v1": [("order_line_id 43 occurs 2 times", 2)],
    "moments_within_reach_fact_refunds": [
        ("refunded_at is 1994-12-31 23:59:59, before 1995-01-01 or more than 366", 1)
    ],
    "moments_within_reach_fact_adjustments": [("adjusted_at is 2", 1)],
    "matches_pattern_dim_users_v1_email": [("email is it's wrong, which does not match ^[a-z0-9._%+'-]+@", 1)],
    "values_in_mart_data_quality": [("metric is mood, none of rows_extracted, rows_loaded", 1)],
    "row_count_at_least_mart_data_quality": [("has 1 rows, fewer than 9", 1)],
    "not_null_columns_int_orders__current": [("status is null; shipping_cost is null", 1)],
    "key_holds_int_refunds__current": [("refund_id null is no key", 1)],
    "not_null_columns_int_products__current": [("has 0 rows, fewer than 1", 0)],
}


def test_every_finding_says_what_is_expected_of_which_column_and_how_many(built: DbtWarehouse) -> None:
    latest = ops(built, "select timezone('UTC', fixed_at) + interval 366 days from ops.load_bound")[0][0]
    with built.connect("marts.duckdb") as connection:
        connection.execute(BROKEN_MARTS)
        # The first and the last moment that are no mistake, and one beyond each.
        connection.execute(
            "update fact_refunds set refunded_at = case refund_line_id"
            " when 'refund-1' then timestamp '1994-12-31 23:59:59'"
            " when 'refund-2' then timestamp '1995-01-01' else ? end",
            [latest],
        )
        connection.execute("update fact_adjustments set adjusted_at = ?", [latest + timedelta(microseconds=1)])
    with built.connect() as connection:
        connection.execute(
            "update intermediate.int_orders__current set status = null, shipping_cost = null where order_id = 5;"
            "insert into intermediate.int_refunds__current (order_id) values (1);"
            "delete from intermediate.int_products__current"
        )
    assert not built.try_dbt("test", "--select", "test_type:generic").success
    rows = ops(
        built, "select test_name, failing_row ->> 'broken', (failing_row ->> 'rows_found')::int from ops.failing_rows"
    )
    for name, expected in FINDINGS.items():
        found = sorted((broken, count) for test, broken, count in rows if test.startswith(name))
        assert len(found) == len(expected), (name, found)
        for (broken, count), (text, wanted) in zip(found, sorted(expected), strict=True):
            assert broken.startswith(text), name
            assert count == wanted, name
    whole_row = ops(
        built,
        "select failing_row ->> 'order_line_id', failing_row ->> 'quantity' from ops.failing_rows "
        "where test_name like 'values_between_fact_orders_v1%' order by 1",
    )
    assert whole_row == [("11", "1"), ("21", "1")], "the row itself is kept"


def volumes(*, days: int = 100, level: int = 1000) -> dict[date, int]:
    """A shop's lines per day: busier at weekends, some noise, and the end of a season in the last two weeks."""
    first = date(2024, 3, 1)
    found = {}
    for number in range(days):
        day = first + timedelta(days=number)
        noise = 1 + 0.15 * math.sin(number * number)
        season = 1 - max(0, number - (days - 14)) / 30
        found[day] = round(level * (1.3 if day.isoweekday() > 5 else 1) * noise * season)
    return found


def judged(warehouse: DbtWarehouse, lines: dict[date, int]) -> list[str]:
    """What the test of volumes says of these days."""
    with warehouse.connect("marts.duckdb") as connection:
        connection.execute("create or replace table mart_daily_sales (date date, lines_count bigint)")
        connection.executemany("insert into mart_daily_sales values (?, ?)", list(lines.items()))
    with warehouse.connect() as connection:
        connection.execute("delete from ops.failing_rows")
    result = warehouse.dbt("test", "--select", "test_name:volume_like_its_weekdays")  # warns, never fails
    statuses = [str(each.status) for each in result.result.results if each.node.resource_type == "test"]
    rows = ops(warehouse, "select failing_row ->> 'broken' from ops.failing_rows order by failing_row ->> 'day'")
    assert statuses == ["warn" if rows else "pass"]
    return [row[0] for row in rows]


def test_a_day_that_is_halved_or_missing_is_unusual_and_everyday_life_is_not(built: DbtWarehouse) -> None:
    usual = volumes()
    last = max(usual)
    assert judged(built, usual) == []

    halved, missing, in_progress, too_old = (last - timedelta(days=days) for days in (2, 4, 0, 8))
    changed = {day: count for day, count in usual.items() if day != missing}
    changed |= {halved: usual[halved] // 2, in_progress: 3, too_old: 1}
    found = judged(built, changed)
    assert [text[:10] for text in found] == [str(missing), str(halved)]
    assert "has lines_count 0, less than 0.6 of" in found[0]

    few = {day: count // 12 for day, count in changed.items()}
    assert judged(built, few) == [], "of few lines, chance alone halves a day"
    assert judged(built, {day: count for day, count in changed.items() if day > last - timedelta(days=20)}) == []


def counted(warehouse: DbtWarehouse) -> list[tuple]:
    return ops(
        warehouse,
        "select load_id, stream, column_name, rows_counted, filled_rows from intermediate.int_raw_values__counted "
        "order by all",
    )


def test_values_of_raw_are_counted_load_by_load_whatever_columns_come(built: DbtWarehouse) -> None:
    before = counted(built)
    with built.connect() as connection:
        connection.execute('alter table raw_shop.orders add column "New ""Note" varchar')
        connection.execute("alter table raw_shop.orders add column weight double")
    late = built.reserve_loads(1)
    built.load(
        {
            "shop.orders": [
                order(1, "2024-05-01", currency="  "),
                order(2, "2024-05-01", currency=None),
                order(3, "2024-05-01"),
                order(4, "2024-05-01") | {"_operation": "delete"},
            ]
        }
    )
    load_id = built._last_load
    with built.connect() as connection:
        connection.execute(
            "update raw_shop.orders set \"New \"\"Note\" = 'x', weight = 2 where order_id = '1' and _sdc_load_id = ?",
            [load_id],
        )
    built.dbt("run", "--select", "int_raw_values__counted")
    assert counted(built)[: len(before)] == before
    of_load = {row[2]: row[3:] for row in counted(built) if row[0] == load_id}
    assert {name: of_load.get(name) for name in ("*", "order_id", "currency", 'New "Note', "weight", "deleted_at")} == {
        "*": (3, 3),
        "order_id": (3, 3),
        "currency": (3, 1),
        'New "Note': (3, 1),
        "weight": (3, 1),
        "deleted_at": None,
    }
    built.load({"shop.orders": [order(5, "2024-05-02")]}, first_load=late)
    built.dbt("run", "--select", "int_raw_values__counted")
    increments = counted(built)
    assert [row[3] for row in increments if row[0] == late and row[2] == "*"] == [1]
    built.dbt("run", "--select", "int_raw_values__counted", "--full-refresh")
    assert counted(built) == increments
