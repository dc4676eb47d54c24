"""What dbt says before it builds, and what it leaves in ops for publish."""

from __future__ import annotations

from pathlib import Path

import pytest
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import HISTORY, line, order


@pytest.fixture
def raw(tmp_path: Path) -> DbtWarehouse:
    """Raw with the first loads; nothing built."""
    warehouse = DbtWarehouse.create(tmp_path / "home")
    warehouse.parse()
    warehouse.load(HISTORY)
    return warehouse


def test_without_data_one_line_says_what_to_do(tmp_path: Path) -> None:
    warehouse = DbtWarehouse.create(tmp_path / "home")
    warehouse.parse()
    for command in ("build", "test"):
        message = warehouse.message(warehouse.try_dbt(command))
        assert "No data has been loaded yet: run `meltano run ingest` (or scripts/run) first." in message


def test_a_home_that_was_never_used_says_the_same(tmp_path: Path) -> None:
    warehouse = DbtWarehouse(tmp_path / "new")
    warehouse.parse()
    assert "No data has been loaded yet" in warehouse.message(warehouse.try_dbt("build"))


def test_missing_streams_are_named(raw: DbtWarehouse) -> None:
    with raw.connect() as connection:
        connection.execute("drop table raw_shop.refunds; drop table raw_web.events")
    message = raw.message(raw.try_dbt("build"))
    assert "Nothing has been loaded from these streams of demo_shop: shop-refunds, web-events" in message


def test_another_shops_warehouse_is_refused(raw: DbtWarehouse) -> None:
    with raw.connect() as connection:
        connection.execute("update ops.warehouse set shop = 'online_retail'")
    message = raw.message(raw.try_dbt("build"))
    assert "This warehouse holds the shop online_retail, but WAREHOUSE_SHOP is demo_shop" in message


def test_builds_are_recorded_as_they_were(raw: DbtWarehouse) -> None:
    """Only a `dbt build` of all that looks at data is complete; a failing test makes it failed."""
    raw.dbt("build", "--resource-type", "model", "seed")
    raw.dbt("build", "--exclude-resource-type", "unit_test")
    raw.dbt("build", "--exclude-resource-type", "unit_test", "test")
    raw.load({"shop.orders": [order(1, "2024-05-01", status="lost")]})
    failed = raw.try_dbt("build", "--exclude-resource-type", "unit_test")
    assert "accepted_by_seed_fact_orders_v1_status" in raw.message(failed)
    raw.dbt("run", "--select", "dim_users")
    raw.dbt("parse")
    raw.dbt("test", "--select", "assert_one_currency")
    builds = raw.query(
        "select command, is_complete, status, load_bound, shop, failures, finished_at is not null from ops.builds "
        "order by started_at",
        "warehouse.duckdb",
    )
    assert [build[:5] for build in builds] == [
        ("build", False, "passed", 7, "demo_shop"),
        ("build", True, "passed", 7, "demo_shop"),
        ("build", False, "passed", 7, "demo_shop"),
        ("build", True, "failed", 8, "demo_shop"),
        ("run", False, "passed", 8, "demo_shop"),
    ]
    assert [build[5] > 0 for build in builds] == [False, False, False, True, False]
    assert all(build[6] for build in builds)


def test_money_that_cannot_be_read_blocks_until_it_is_corrected(raw: DbtWarehouse) -> None:
    """Nothing of it becomes 0, no view throws, and a corrected version ends it."""
    raw.load(
        {
            "shop.orders": [order(1, "2024-03-01", shipping_cost="123456789012345.00")],
            "shop.order_items": [
                line(11, 1, "2024-03-01", quantity=2_000_000_000, unit_price="99999999999999"),
                line(21, 2, "2024-03-01", discount="1e15"),
                line(31, 3, "2024-03-01", quantity="1.5"),
            ],
        }
    )
    message = raw.message(raw.try_dbt("build", "--exclude", "resource_type:unit_test"))
    assert "not_null_columns_int_orders__current" in message
    assert "not_null_columns_int_order_items__current" in message
    broken = raw.query(
        "select order_line_id, quantity, discount, amount from intermediate.int_order_items__current "
        "where order_line_id in (11, 21, 31) order by all",
        "warehouse.duckdb",
    )
    assert [[value is None for value in row[1:]] for row in broken] == [
        [False, False, True],
        [False, True, True],
        [True, False, True],
    ]
    raw.load(
        {
            "shop.orders": [order(1, "2024-04-01", shipping_cost="")],
            "shop.order_items": [
                line(11, 1, "2024-04-01"),
                line(21, 2, "2024-04-01", discount=""),
                line(31, 3, "2024-04-01"),
            ],
        }
    )
    raw.dbt("build", "--exclude", "resource_type:unit_test")


def test_a_version_without_a_time_of_its_own_takes_that_of_its_extraction(raw: DbtWarehouse) -> None:
    raw.load({"shop.order_items": [line(11, 1, quantity=7) | {"updated_at": None}]})
    raw.dbt("build", "--exclude", "resource_type:unit_test")
    assert raw.query("select quantity from fact_orders where order_line_id = 11") == [(7,)]


def test_duckdbs_memory_is_limited(raw: DbtWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def limit() -> str:
        shown = raw.dbt("show", "--inline", "select current_setting('memory_limit')")
        return shown.result.results[0].agate_table.rows[0][0]

    assert limit() == "3.7 GiB"
    monkeypatch.setenv("WAREHOUSE_MEMORY_LIMIT", "1GiB")
    assert limit() == "1.0 GiB"


def test_duckdb_may_be_asked_again_after_it_has_written_its_temporary_folder(
    raw: DbtWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another thread of a build; the folder lies in the warehouse's home."""
    monkeypatch.setenv("WAREHOUSE_MEMORY_LIMIT", "64MB")
    too_large = "select max(v) from (select md5(range::text) as v from range(1000000) order by v offset 1)"
    with raw._environment():
        runner = dbtRunner(manifest=raw.manifests[raw.project, raw.shop])
        try:
            spilt, asked = (
                runner.invoke(["show", "--inline", query, "--quiet"])
                for query in (too_large, "select current_setting('temp_directory')")
            )
        finally:
            DuckDBConnectionManager.close_all_connections()
    assert spilt.success, raw.message(spilt)
    assert asked.success, raw.message(asked)
    assert asked.result.results[0].agate_table.rows[0][0] == str(raw.home / "tmp")
