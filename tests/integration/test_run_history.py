"""What dbt's own end writes into ops: timings, results, the rows that failed, and the runs of the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import HISTORY, order

#: What a wrong status in raw makes fail, and nothing else.
FEW = ["--select", "+fact_orders", "mart_daily_sales", "--exclude", "resource_type:unit_test", "test_type:singular"]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> DbtWarehouse:
    """Raw with the first loads; built once as a whole."""
    warehouse = DbtWarehouse.create(tmp_path_factory.mktemp("history") / "home")
    warehouse.parse()
    warehouse.load(HISTORY)
    warehouse.dbt("build", "--exclude", "resource_type:unit_test")
    return warehouse


@pytest.fixture
def built(history: DbtWarehouse, tmp_path: Path) -> DbtWarehouse:
    warehouse = history.copy(tmp_path / "home")
    warehouse._last_load = history._last_load
    return warehouse


def ops(warehouse: DbtWarehouse, sql: str) -> list[tuple]:
    return warehouse.query(sql, "warehouse.duckdb")


def test_every_model_has_its_timing_and_rows(built: DbtWarehouse) -> None:
    runs = ops(
        built,
        "select name, materialized, status, rows_held, seconds >= 0, finished_at >= started_at, invocation_id = "
        "(select invocation_id from ops.builds) from ops.model_runs",
    )
    assert len(runs) > 20
    assert all(row[4:] == (True, True, True) for row in runs)
    rows = {row[0]: row[1:4] for row in runs}
    lines = built.query("select count(*) from fact_orders")[0][0]
    assert rows["fact_orders"] == ("incremental", "success", lines)
    assert rows["dim_users"][0] == "incremental" and rows["mart_customers"][0] == "table"
    assert rows["statuses"] == ("seed", "success", ops(built, "select count(*) from seeds.statuses")[0][0])
    assert rows["stg_demo_shop__orders"] == ("view", "success", None)


def test_every_test_has_its_result(built: DbtWarehouse) -> None:
    results = ops(
        built,
        "select test_name, kind, model, column_name, severity, status, failures, executed_at > now() - interval 1 hour"
        " from ops.test_results",
    )
    assert len(results) > 60
    assert {row[5] for row in results} == {"pass"}
    assert all(row[7] for row in results)
    by_name = {row[0]: row[1:7] for row in results}
    assert by_name["key_holds_fact_orders_v1_order_line_id"] == (
        "data", "fact_orders", "order_line_id", "error", "pass", 0,
    )  # fmt: skip
    assert by_name["assert_one_currency"][:3] == ("data", "fact_adjustments, fact_orders, fact_refunds", None)


def test_a_failed_build_leaves_its_results_and_the_rows(built: DbtWarehouse, capfd: pytest.CaptureFixture[str]) -> None:
    built.load({"shop.orders": [order(1, "2024-05-01", status="lost")]})
    assert not built.try_dbt("build", *FEW).success
    failed = ops(
        built,
        "select test_name, model, column_name, status, failures, message from ops.test_results "
        "where invocation_id = (select arg_max(invocation_id, started_at) from ops.builds) and status = 'fail'",
    )
    (result,) = [row for row in failed if row[1] == "fact_orders"]
    assert result[2:4] == ("status", "fail")
    assert result[4] > 0
    assert "\n" not in result[5]
    skipped = ops(built, "select count(*) from ops.model_runs where status = 'skipped' and rows_held is null")
    assert skipped[0][0] > 0
    of_test = f"from ops.failing_rows where test_name = '{result[0]}'"
    kept = ops(built, f"select failing_row ->> 'status', severity {of_test}")
    assert kept == [("lost", "error")] * result[4]
    capfd.readouterr()
    built.dbt("run-operation", "show_failures")
    shown = capfd.readouterr().out
    assert f"error {result[0]}: {result[4]} rows" in shown
    assert '"status":"lost"' in shown


def test_a_model_that_cannot_be_built_says_so_in_one_line_without_secrets(built: DbtWarehouse) -> None:
    with built.connect("marts.duckdb") as connection:
        connection.execute("drop table dim_users; create view dim_users as select 1 as \"password: 'x y' z\"")
    with built.connect() as connection:
        connection.execute('alter table raw_crm.users rename column name to "password=hunter2"')
    assert not built.try_dbt("run", "--select", "stg_demo_shop__users", "dim_users").success
    messages = ops(built, "select message from ops.model_runs where status = 'error'")
    assert messages
    assert all("\n" not in row[0] and len(row[0]) <= 500 and "hunter2" not in row[0] for row in messages)


def test_dbt_test_and_freshness_leave_their_results_too(built: DbtWarehouse) -> None:
    with built.connect() as connection:
        connection.execute(
            "insert into ops.syncs values ('a', 'shop', 'orders', now(), now(), 1, 1, 0, 0, 'ok', 'run'),"
            " ('a', 'crm', 'users', now(), now() - interval 30 hour, 1, 1, 0, 0, 'ok', 'run');"
            " delete from ops.test_results"
        )
    built.dbt("test", "--select", "assert_one_currency")
    assert ops(built, "select test_name, status from ops.test_results") == [("assert_one_currency", "pass")]
    built.try_dbt("source", "freshness", "--select", "source:raw_shop.orders", "source:raw_crm.users")
    assert ops(
        built, "select model, status, failures from ops.test_results where kind = 'freshness' order by model"
    ) == [("raw_crm.users", "error", None), ("raw_shop.orders", "pass", None)]
    assert ops(built, "select count(*) from ops.builds") == [(1,)], "publish looks at builds alone"


def test_a_killed_build_is_marked_by_the_next(built: DbtWarehouse) -> None:
    with built.connect() as connection:
        connection.execute("update ops.builds set status = 'running', finished_at = null")
    built.dbt("run", "--select", "dim_users")
    assert ops(built, "select status from ops.builds order by started_at") == [("killed",), ("passed",)]


def test_an_older_warehouse_gets_what_it_lacks(built: DbtWarehouse) -> None:
    with built.connect() as connection:
        connection.execute(
            "drop view ops.runs; drop table ops.model_runs; drop table ops.test_results; drop table ops.failing_rows;"
            " drop table ops.publishes; alter table ops.builds drop column run_id;"
            " alter table ops.syncs drop column run_id"
        )
    older = built.copy(built.home.parent / "older")
    older.dbt("test", "--select", "assert_one_currency")
    built.dbt("run", "--select", "dim_users")
    assert ops(built, "select count(*) > 0 from ops.model_runs") == [(True,)]
    assert ops(built, "select status from ops.runs") == [("ok",), ("ok",)]


def test_the_history_does_not_grow_for_ever(built: DbtWarehouse) -> None:
    with built.connect() as connection:
        connection.execute(
            "update ops.model_runs set finished_at = now() - interval 731 day;"
            "update ops.test_results set executed_at = now() - interval 729 day;"
            "insert into ops.failing_rows values ('old', 't', 'm', 'error', '{}', now() - interval 31 day)"
        )
        connection.execute("update ops.model_runs set status = 'skipped', finished_at = null where name = 'dim_date'")
        connection.execute("update ops.builds set started_at = now() - interval 731 day")
    built.dbt("run", "--select", "dim_users")
    assert ops(built, "select name from ops.model_runs") == [("dim_users",)]
    assert ops(built, "select count(*) > 60 from ops.test_results") == [(True,)]
    assert ops(built, "select * from ops.failing_rows") == []


def test_a_run_is_what_shares_meltanos_id(built: DbtWarehouse) -> None:
    """Its steps, and which of them failed, from what each of them left."""
    with built.connect() as connection:
        connection.execute(
            """
            insert into ops.syncs values
                ('s1', 'shop', 'orders', '2026-05-01 02:00Z', '2026-05-01 02:01Z', 12, 10, 1, 1, 'ok', 'good'),
                ('s1', 'crm', 'users', '2026-05-01 02:00Z', '2026-05-01 02:02Z', 5, 5, 0, 0, 'ok', 'good'),
                ('s2', 'shop', 'orders', '2026-05-02 02:00Z', '2026-05-02 02:01Z', 3, 3, 0, 0, 'failed', 'no load'),
                ('s3', 'shop', 'orders', '2026-05-03 02:00Z', '2026-05-03 02:01Z', 0, 0, 0, 0, 'ok', 'stale'),
                ('s4', 'shop', 'orders', '2026-05-04 02:00Z', '2026-05-04 02:01Z', 0, 0, 0, 0, 'ok', 'unpublished'),
                ('s5', 'shop', 'orders', '2026-05-05 02:00Z', '2026-05-05 02:01Z', 0, 0, 0, 0, 'ok', null),
                ('s6', 'shop', 'orders', '2026-05-06 02:00Z', '2026-05-06 02:01Z', 0, 0, 0, 0, 'ok', 'killed');
            delete from ops.builds;
            insert into ops.builds (invocation_id, command, status, started_at, finished_at, run_id) values
                ('b1', 'build', 'passed', '2026-05-01 02:03Z', '2026-05-01 02:05Z', 'good'),
                ('b4', 'build', 'passed', '2026-05-04 02:03Z', '2026-05-04 02:05Z', 'unpublished'),
                ('b6', 'build', 'killed', '2026-05-06 02:03Z', null, 'killed'),
                ('b7', 'build', 'running', '2026-05-07 02:03Z', null, null);
            delete from ops.test_results;
            insert into ops.test_results (invocation_id, kind, status, executed_at, run_id) values
                ('f1', 'freshness', 'pass', '2026-05-01 02:03Z', 'good'),
                ('b1', 'data', 'pass', '2026-05-01 02:04Z', 'good'),
                ('f3', 'freshness', 'error', '2026-05-03 02:02Z', 'stale'),
                ('t8', 'data', 'fail', '2026-05-08 02:02Z', null),
                ('t9', 'data', 'warn', '2026-05-09 02:02Z', null);
            insert into ops.publishes values
                (3, 'b1', 'publish', '2026-05-01 02:06Z', 7, null, 'good'),
                (null, null, 'refused', '2026-05-04 02:06Z', null, 'why', 'unpublished');
            """
        )
        connection.execute("set timezone = 'UTC'")
        runs = connection.execute(
            "select run_id, status, last_step, failed_step, streams_synced, streams_failed, rows_extracted, "
            "rows_loaded, rows_quarantined, version, hour(finished_at) * 60 + minute(finished_at) "
            "from ops.runs order by started_at"
        ).fetchall()
    assert runs == [
        ("good", "ok", "publish", None, 2, 0, 17, 15, 1, 3, 126),
        ("no load", "failed", "ingest", "ingest", 1, 1, 3, 3, 0, None, 121),
        ("stale", "failed", "freshness", "freshness", 1, 0, 0, 0, 0, None, 122),
        ("unpublished", "failed", "publish", "publish", 1, 0, 0, 0, 0, None, 126),
        ("s5", "ok", "ingest", None, 1, 0, 0, 0, 0, None, 121),
        ("killed", "failed", "build", "build", 1, 0, 0, 0, 0, None, 121),
        ("b7", "running", "build", None, 0, 0, 0, 0, 0, None, None),
        ("t8", "failed", "test", "test", 0, 0, 0, 0, 0, None, 122),
        ("t9", "ok", "test", None, 0, 0, 0, 0, 0, None, 122),
    ]
