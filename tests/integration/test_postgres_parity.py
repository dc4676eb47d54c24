"""Both engines say the same: from equal raw, equal marts to the last row and column, and equal verdicts of all tests.

Quick size: hand-written rows of every fate, two days of a small demo shop, a small folder of Online Retail.
`--full`: twenty days of twenty thousand lines, and all of Online Retail.
"""

from __future__ import annotations

from pathlib import Path

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.online_retail_files import REAL_FOLDER, generate
from tests.integration.postgres_twin import PostgresTwin, mart_rows, unlike, verdicts
from tests.integration.test_dbt_incremental import ANSWERS, CHANGES, HISTORY, line, order
from tests.pipeline import Pipeline
from tests.postgres import Database

#: Everything but the unit tests, which know no raw.
BUILD = ("build", "--exclude-resource-type", "unit_test")

#: What nobody can read, or does not fit: null on both engines, and no error.
GARBAGE = {
    "shop.orders": [
        order(60, user_id="1.5", status=" AUSGEFÜHRT ", ordered_at="2024-02-30"),
        order(61, "2024-02-30", user_id="-", ordered_at="31/02/2024 09:08"),
        order(62, ordered_at="2023-02-29T10:00:00Z", currency=" é"),
        order(63, ordered_at="1709629687", shipping_cost="1e400"),
        order(64, ordered_at="mar 5, 2024 9:08", shipping_cost="abc"),
        order(65, ordered_at="0000-01-01"),
        order(99999999999),
    ],
    "shop.order_items": [
        line(601, 62, quantity=2147483647, unit_price="99999999999999.9999"),
        line(602, 62, product_id="x", quantity="2.5", unit_price="1e2"),
        line(603, 62, quantity="3.0", unit_price="1.00005", created_at="2024-01-01T24:00:00Z"),
        line(604, "6_0", quantity=" +2. ", unit_price=".5", discount="1_0"),
    ],
    "crm.users": [
        {"user_id": 70, "name": "\u00a0Zoë\u2003", "email": " ZOË@EXAMPLE.COM", "age": "34.5", "phone": "n/a"},
        {"user_id": 71, "name": "\u2003", "email": "İ@example.com", "age": "0034", "country": "\u3000"},
    ],
    "web.events": [
        {"event_id": "e900", "user_id": "x", "product_id": 1, "event_type": "CLICK ", "occurred_at": "now"},
        {"event_id": "e901", "user_id": 1, "product_id": 1, "event_type": "cl\u0131ck", "occurred_at": "2024-01-05T24:01"},
        {"event_id": "e902", "product_id": 1, "event_type": "View", "occurred_at": "2024-01-05T10:00:00.1234567+02"},
    ],
}


def test_of_whatever_arrives_both_engines_say_the_same(tmp_path: Path, postgres: Database) -> None:
    one, two = DbtWarehouse.create(tmp_path / "duckdb"), PostgresTwin(tmp_path / "postgres", postgres)
    commands: list[tuple[str, ...]] = [BUILD, BUILD, ("run",), ("test", "--exclude-resource-type", "unit_test")]
    loads = [[HISTORY], [CHANGES, ANSWERS], [GARBAGE], []]
    seen = []
    for command, arriving in zip(commands, loads, strict=True):
        for versions in arriving:
            one.load(versions)
        two.follow(one.home / "warehouse.duckdb")
        said = [verdicts(warehouse.try_dbt(*command)) for warehouse in (one, two)]
        assert said[0] == said[1]
        rows = mart_rows(one.home / "marts.duckdb")
        assert unlike(rows, two.mart_rows()) == []
        seen.append((rows, said[0]))
    (first, _), (second, _), (third, _), (_, tested) = seen
    assert all(rows for _, rows in first.values())
    assert first != second != third
    assert {status for status, _ in tested.values()} == {"pass", "fail"}
    # What the failed tests found is kept on both.
    kept = "select test_name, count(*) from {} group by test_name order by test_name"
    assert one.query(kept.format("ops.failing_rows"), "warehouse.duckdb") == postgres.query(
        kept.format("ops.failing_rows")
    )


def test_unit_tests_pass(tmp_path: Path, postgres: Database) -> None:
    """They need the relations that they stand in for."""
    one, two = DbtWarehouse.create(tmp_path / "duckdb"), PostgresTwin(tmp_path / "postgres", postgres)
    one.load(HISTORY)
    two.follow(one.home / "warehouse.duckdb")
    two.dbt("run", "--empty")
    result = two.dbt("test", "--resource-type", "unit_test")
    assert len(result.result) > 40
    assert {str(node.status) for node in result.result} == {"pass"}


def test_days_of_the_demo_shop_are_the_same(built: Pipeline, tmp_path: Path, postgres: Database, full: bool) -> None:
    pipeline = Pipeline(tmp_path / "home") if full else built.copy(tmp_path / "home")
    if full:
        pipeline.run("demo-shop", "init", "--seed", "5", "--lines", "20000")
        pipeline.ingest()
    one, two = DbtWarehouse(pipeline.home), PostgresTwin(tmp_path / "postgres", postgres)
    for day in range(21 if full else 2):
        if day:
            pipeline.run("demo-shop", "advance", "--days", "1" if full else "2")
            pipeline.ingest()
        two.follow(pipeline.home / "warehouse.duckdb")
        said = [verdicts(warehouse.try_dbt(*BUILD)) for warehouse in (one, two)]
        assert said[0] == said[1]
        rows = mart_rows(pipeline.home / "marts.duckdb")
        assert unlike(rows, two.mart_rows()) == [], f"day {day}"
        assert all(found for _, found in rows.values())


def test_online_retail_is_the_same(tmp_path: Path, postgres: Database, full: bool) -> None:
    data = REAL_FOLDER if full else generate(tmp_path / "data")
    pipeline = Pipeline(tmp_path / "home", "online_retail", data)
    pipeline.ingest()
    one = DbtWarehouse(pipeline.home, shop="online_retail")
    two = PostgresTwin(tmp_path / "postgres", postgres, "online_retail")
    two.follow(pipeline.home / "warehouse.duckdb")
    said = [verdicts(warehouse.try_dbt("build")) for warehouse in (one, two)]
    assert said[0] == said[1]
    rows = mart_rows(pipeline.home / "marts.duckdb")
    assert unlike(rows, two.mart_rows()) == []
    assert sum(1 for _, found in rows.values() if found) >= 13
