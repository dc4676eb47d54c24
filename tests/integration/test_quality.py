"""What the generic tests say of what they find, what counts as an unusual day, and what raw is measured by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, timedelta

import duckdb
import pytest

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import HISTORY, order
from tests.integration.test_run_history import built, history, ops

__all__ = ["built", "history"]  # fixtures

Audits = tuple[duckdb.DuckDBPyConnection, dict[str, str]]

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


def test_a_clock_that_was_wrong_pushes_no_day_out_and_loses_nothing(built: DbtWarehouse) -> None:
    """Days count back from the build's; what lies before the first or after the last of them counts there."""
    for moment in ("1970-01-01 00:00:00+00", "2099-01-01 00:00:00+00"):
        built.load({"shop.orders": [order(1, "2024-05-01")]})
        with built.connect() as connection:
            connection.execute("update ops.loads set extracted_at = ? where load_id = ?", [moment, built._last_load])
    built.dbt("run", "--select", "mart_data_quality")
    today = ops(built, "select timezone('Europe/Berlin', fixed_at)::date from ops.load_bound")[0][0]
    days = built.query("select min(date), max(date), count(distinct date) from mart_data_quality")
    assert days == [(today - timedelta(days=9999), today, 10000)]
    extracted = built.query(
        "select date, value::int from mart_data_quality "
        "where subject = 'shop-orders' and metric = 'rows_extracted' and value > 0 order by date"
    )
    assert extracted == [(today - timedelta(days=9999), 1), (today, len(HISTORY["shop.orders"]) + 1)]


#: By audit: what is done to the marts (or to what the audit compares them with), and how a finding of it begins.
BREAKAGES = {
    "assert_every_raw_line_is_in_one_fact": [
        ("delete from marts.fact_orders where order_line_id = 131", "131"),
        ("update marts.fact_orders set amount = amount + 1 where order_line_id = 131", "131"),
        ("update intermediate.int_order_items__recounted set amount = null where order_line_id = 131", "131"),
        ("delete from intermediate.int_order_items__recounted where order_line_id = 131", "131"),
        ("update intermediate.int_orders__recounted set is_deleted = true where order_id = 13", "131"),
        ("insert into marts.fact_orders from marts.fact_orders where order_line_id = 131", "131"),
        ("update marts.fact_orders set amount = -amount where order_line_id = 131", "131"),
        # As many lines, and as much money.
        ("update marts.fact_orders set order_line_id = 999 where order_line_id = 131", "131"),
        (
            "update marts.fact_orders set amount = amount + case order_line_id when 131 then 1 else -1 end"
            " where order_line_id in (131, 121)",
            "131",
        ),
    ],
    "assert_shipping_sums_to_the_order": [
        ("update marts.fact_orders set shipping_cost = shipping_cost + 0.0001 where order_line_id = 131", "13"),
        ("delete from marts.fact_orders where order_id = 13", "13"),
        ("delete from marts.fact_adjustments where kind = 'shipping_without_lines'", "14"),
        ("update intermediate.int_orders__recounted set shipping_cost = 7 where order_id = 13", "13"),
        ("delete from intermediate.int_orders__recounted where order_id = 13", "13"),
        ("update intermediate.int_orders__recounted set is_deleted = true where order_id = 14", "14"),
        (
            "update marts.fact_orders set shipping_cost = shipping_cost"
            " + case order_line_id when 131 then 1 else -1 end where order_line_id in (131, 121)",
            "13",
        ),
    ],
    "assert_orders_total_their_lines": [
        *[
            (f"update {{totals}} set {column} = {value} where order_id = 13", "of order 13 ")
            for column, value in (
                ("user_id", "user_id + 1"),
                ("is_purchase", "not is_purchase"),
                ("ordered_at", "ordered_at + interval 1 second"),
                ("day", "day + 1"),
                ("lines_count", "lines_count + 1"),
                ("units", "units + 1"),
                ("amount", "amount + 0.0001"),
                ("shipping_cost", "shipping_cost + 0.0001"),
            )
        ],
        *[
            (
                f"update {{totals}} set {column} = {column} + case order_id when 13 then 1 else -1 end"
                " where order_id in (12, 13)",
                "of order 13 ",
            )
            for column in ("lines_count", "units", "amount", "shipping_cost")
        ],
        ("delete from {totals} where order_id = 13", "of order 13 "),
        ("insert into {totals} from {totals} where order_id = 13", "of order 13 "),
        ("delete from marts.fact_orders where order_line_id = 131", "of order 13 "),
        (
            "insert into {totals} select * replace (999 as order_id, 0 as lines_count, 0 as units, 0 as amount,"
            " 0 as shipping_cost) from {totals} where order_id = 13",
            "of 14 orders, 14 are different and 13 have lines",
        ),
        # One row of two lines, and one of the third.
        (
            "insert into {totals} select * replace (1 as lines_count, 0 as units, 0 as amount, 0 as shipping_cost)"
            " from {totals} where order_id = 13;"
            " update {totals} set lines_count = 2 where order_id = 13 and units > 0",
            "of 14 orders, 13 are different and 14 have lines",
        ),
    ],
    "assert_baskets_pair_all_their_products": [
        ("delete from {pairs} where order_id = 13 and product_id = other_product_id", "pairs are missing"),
        ("delete from {pairs} where order_id = 13 and product_id <> other_product_id", "pairs are missing"),
        ("delete from {pairs} where order_id = 13", "pairs are missing"),
        ("insert into {pairs} from {pairs} where order_id = 13", "pairs are missing"),
        # As many pairs in all, and of products with themselves.
        ("update {pairs} set order_id = 12 where order_id = 13", "pairs are missing"),
        (
            "update {pairs} set order_id = 12 where order_id = 13 and product_id <> other_product_id",
            "pairs are missing",
        ),
        ("update {pairs} set other_product_id = product_id where order_id = 13", "pairs are missing"),
        ("update {totals} set is_basket = false where order_id = 13", "pairs are missing"),
        ("update {totals} set products_count = products_count + 1 where order_id = 13", "pairs are missing"),
        ("update {totals} set products_count = 101 where order_id = 13", "too few or too many products"),
        # A basket without products lacks no pair.
        (
            "delete from {pairs} where order_id = 13; update {totals} set products_count = 0 where order_id = 13",
            "too few or too many products",
        ),
    ],
    "assert_daily_sales_sum_to_the_facts": [
        *[
            (f"update {{daily}} set {column} = {column} + 1 where date = (select min(date) from {{daily}})", "")
            for column in ("orders_count", "lines_count", "units_sold", "sales", "shipping", "refunds", "adjustments")
        ],
        ("update {daily} set net_sales = net_sales + 1 where date = (select min(date) from {daily})", ""),
        ("update {daily} set customers_count = orders_count + 1 where date = (select min(date) from {daily})", ""),
    ],
    "assert_kpis_sum_to_the_facts": [
        ("update {kpis} set orders_count = orders_count + 1 where {day_is} '2024-01-01'", "day"),
        ("update {kpis} set sales = sales + 1 where grain = 'week'", "week"),
        ("update {kpis} set revenue = revenue + 1 where grain = 'month'", "month"),
        ("delete from {kpis} where grain = 'month'", "month"),
    ],
    "assert_clicks_sum_to_the_events": [
        ("update {windows} set clicks = clicks + 1 where product_id = 2", "clicks of product 2"),
        ("delete from {windows} where product_id = 2", "clicks of product 2"),
        ("update {windows} set product_id = 2 where product_id = -1", "clicks of product -1"),
        (
            "update {windows} set window_start = window_start + interval 1 hour where product_id = 2",
            "clicks of product 2",
        ),
        # Equal and opposite faults within an hour, which leave the sum of times, or that of their squares, as it was.
        *[
            (
                "update {windows} set clicks = clicks + case extract(minute from window_start) "
                f"{' '.join(f'when {5 * place} then {more}' for place, more in enumerate(faults))} else 0 end"
                " where product_id = 1 and extract(hour from window_start) = 10",
                "clicks of product 1",
            )
            for faults in ((1, -1), (1, -2, 1), (1, -3, 3, -1))
        ],
        ("update {windows} set date_id = 20240103 where date_id = 20240104", "day of the windows"),
        (
            "update {windows} set date_id = 20240104"
            " where window_start = (select max(window_start) from {windows} where date_id = 20240103)",
            "day of the windows",
        ),
        ("update intermediate.int_events__recounted set is_deleted = true", "clicks of product 1"),
    ],
    "assert_trending_products_have_their_clicks": [
        ("update {trending} set clicks = clicks + 1", "the clicks are others"),
        ("update {trending} set peak_clicks = peak_clicks + 1", "the clicks are others"),
        ("update {trending} set peak_at = peak_at - interval 1 minute", "the clicks are others"),
        # It has its clicks, but began before there were as many as it takes.
        (
            "update {trending} set started_at = '2024-01-03 10:40', clicks = 30",
            "the clicks are others",
        ),
        (
            "insert into {trending} select * replace (2 as product_id) from {trending}",
            "the clicks are others",
        ),
        ("update {trending} set ended_at = started_at", "the clicks are others"),
        ("delete from {trending}", "there is no episode"),
        (
            "update {trending} set started_at = started_at - interval 1 day, ended_at = ended_at - interval 1 day",
            "there is no episode",
        ),
    ],
    "assert_kpis_count_people_once": [
        ("update {kpis} set active_users = 2 where {day_is} '2024-01-03'", "people of a period"),
        ("update {kpis} set active_users = 2 where {day_is} '2024-01-01'", "people of a period"),
        ("update {kpis} set active_users = 4 where {day_is} '2024-01-01'", "people of a period"),
        ("update {kpis} set orders_count = 2 where {day_is} '2024-01-01'", "people of a period"),
        ("update {kpis} set active_users = 9 where grain = 'week'", "people of days"),
        ("update {kpis} set active_users = 2 where grain = 'month'", "people of days"),
        ("update {kpis} set visitors = 2 where grain = 'month'", "people of days"),
        ("update {kpis} set visitors = 6 where grain = 'month'", "people of days"),
        ("update {kpis} set buyers = 2 where grain = 'week'", "people of days"),
        ("update {kpis} set buyers = 4 where grain = 'week'", "people of days"),
        ("delete from {kpis} where {day_is} '2024-01-02'", "days are missing"),
        ("delete from {kpis} where grain = 'day' and period_start <= '2024-01-03'", "days are missing"),
        ("delete from {kpis} where grain = 'day' and period_start >= '2024-01-04'", "days are missing"),
        ("delete from {kpis} where grain = 'day'", "days are missing"),
    ],
    "assert_recommendations_agree_both_ways": [
        *[
            (f"update {{recommended}} set {column} = {column} + 1 where product_id = 2", "sides")
            for column in ("orders_together", "product_orders", "support", "lift")
        ],
        ("update {recommended} set confidence = 0", "measures"),
        ("update {recommended} set product_orders = orders_together - 1", "measures"),
        ("update {recommended} set recommended_orders = orders_together - 1", "measures"),
        ("update {recommended} set total_orders = product_orders - 1", "measures"),
        ("update {recommended} set recommended_product_id = product_id", "measures"),
        ("insert into {recommended} select * replace (2 as rank) from {recommended}", "rank"),
        (
            "insert into {recommended}"
            " select * replace (2 as rank, 3 as recommended_product_id, lift + 1 as lift) from {recommended}",
            "rank",
        ),
    ],
    "assert_recommendations_are_what_is_bought_together": [
        ("delete from {recommended} where product_id = 2", "number of recommendations"),
        ("update {recommended} set orders_together = orders_together + 1", "orders together"),
        ("update {recommended} set recommended_product_id = 9", "orders together"),
        ("update {recommended} set product_orders = product_orders + 1", "orders of the product"),
    ],
    "assert_customers_are_those_who_buy": [
        *[
            (f"update {{customers}} set {column} = {column} + {more} where user_id = 1", "customer")
            for column, more in (
                ("units_bought", "1"),
                ("sales", "1"),
                ("first_order_at", "interval 1 second"),
                ("last_order_at", "interval 1 second"),
                ("lifetime_value", "1"),
                ("orders_count", "100"),
            )
        ],
        ("delete from {customers} where user_id = 1", "customer"),
        (
            "insert into {customers} select * replace (2 as user_id) from {customers} where user_id = 1",
            "customer",
        ),
        ("update {customers} set orders_count = orders_count + 1 where user_id = 1", "customer"),
        ("update {customers} set monetary_score = 6 - monetary_score", "monetary score"),
    ],
    "assert_current_versions_are_the_members": [
        *[
            (f"update marts.dim_users_history set {column} = {value} where user_id = 1 and is_current", "user")
            for column, value in (
                ("name", "'x'"),
                ("email", "'x'"),
                ("is_email_valid", "not is_email_valid"),
                ("phone", "'1'"),
                ("age", "null"),
                ("country", "'x'"),
                ("registered_at", "now()"),
                ("deleted_at", "now()"),
            )
        ],
        *[
            (f"update marts.dim_products_history set {column} = {value} where product_id = 1 and is_current", "product")
            for column, value in (("name", "'x'"), ("category", "'x'"), ("price", "null"), ("deleted_at", "now()"))
        ],
        ("update marts.dim_users set age = age + 1 where user_id = 1", "user"),
        ("update marts.dim_users set is_age_imputed = true where user_id = 1", "user"),
        ("delete from marts.dim_users_history where user_id = 1", "user"),
        ("delete from marts.dim_products where product_id = 1", "product"),
    ],
}
TABLES = {
    "customers": "marts.mart_customers",
    "kpis": "marts.mart_kpis",
    "daily": "marts.mart_daily_sales",
    "day_is": "grain = 'day' and period_start =",
    "pairs": "intermediate.int_products__paired",
    "recommended": "marts.mart_product_recommendations",
    "totals": "intermediate.int_orders__totalled",
    "trending": "marts.mart_trending_products",
    "windows": "marts.fact_product_clicks",
}


@pytest.fixture(scope="module")
def audits(history: DbtWarehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audits]:
    """A connection to a warehouse and its marts, and the audits' SQL as dbt runs it."""
    warehouse = history.copy(tmp_path_factory.mktemp("audits") / "home")
    compiled = warehouse.dbt("compile", "--select", *BREAKAGES).result.results
    with warehouse.connect() as connection:
        connection.execute(f"attach '{warehouse.home / 'marts.duckdb'}' as marts")
        yield connection, {each.node.name: each.node.compiled_code for each in compiled}


@pytest.mark.parametrize("audit", BREAKAGES)
def test_an_audit_finds_each_way_in_which_it_can_be_broken(audits: Audits, audit: str) -> None:
    connection, queries = audits

    def findings() -> list[str]:
        return [str(value) for row in connection.execute(queries[audit]).fetchall() for value in row]

    assert findings() == []
    silent = []
    for statement, finding in BREAKAGES[audit]:
        connection.execute("begin")
        connection.execute(statement.format(**TABLES))
        found = findings()
        connection.execute("rollback")
        if not any(text.startswith(finding) for text in found):
            silent.append((statement, found))
    assert silent == []
