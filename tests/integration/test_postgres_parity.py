"""Both engines say the same: from equal raw, equal marts to the last row and column, and equal verdicts of all tests.

Quick size: hand-written rows of every fate, two days of a small demo shop, a small folder of Online Retail.
`--full`: twenty days of twenty thousand lines, and all of Online Retail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ingestion import postgres_service
from ingestion.postgres_service import read_services, write_services
from orchestration import tied_dbt
from orchestration.services.postgres import PostgresServer
from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.online_retail_files import REAL_FOLDER, generate
from tests.integration.postgres_twin import PostgresTwin, mart_rows, unlike, verdicts
from tests.integration.test_dbt_incremental import ANSWERS, CHANGES, HISTORY, line, order
from tests.pipeline import ROOT, CommandFailed, Pipeline
from tests.postgres import Database, create_database, drop_database

#: dbt as Meltano runs it.
DBT = str(ROOT / "scripts" / "dbt")
#: Everything but the unit tests, which know no raw.
BUILD = ["build", "--exclude-resource-type", "unit_test"]

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
        {
            "event_id": "e901",
            "user_id": 1,
            "product_id": 1,
            "event_type": "cl\u0131ck",
            "occurred_at": "2024-01-05T24:01",
        },
        {"event_id": "e902", "product_id": 1, "event_type": "View", "occurred_at": "2024-01-05T10:00:00.1234567+02"},
    ],
}


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """One for this file, because a parsed project knows its name."""
    database = create_database(postgres_server)
    yield database
    drop_database(database)


@pytest.fixture
def postgres(database: Database) -> Iterator[Database]:
    """The file's database, emptied afterwards."""
    yield database
    made = "select nspname from pg_namespace where nspname !~ '^pg_|^information_schema$|^public$'"
    database.execute(*(f"drop schema {schema} cascade" for (schema,) in database.query(made)))


def test_of_whatever_arrives_both_engines_say_the_same(
    tmp_path: Path, postgres: Database, warehouse_services: Path
) -> None:
    """The second step is incremental; the third is of what contracts and tests refuse, and the last says which do."""
    one = DbtWarehouse.create(tmp_path / "duckdb")
    two = PostgresTwin(tmp_path / "postgres", postgres, warehouse_services)
    loads = [[HISTORY], [CHANGES, ANSWERS], [GARBAGE], []]
    models = ["build", "--resource-type", "model", "--resource-type", "seed"]
    commands = [models, ["run"], ["run"], ["test", *BUILD[1:]]]
    marts, said = [], []
    for versions_of_loads, command in zip(loads, commands, strict=True):
        for versions in versions_of_loads:
            one.load(versions)
        two.follow(one.home / "warehouse.duckdb")
        for warehouse in (one, two):
            warehouse.parse()
            warehouse.try_dbt(*command)
        said.append(verdicts(one))
        assert verdicts(two) == said[-1]
        marts.append(mart_rows(one.home / "marts.duckdb"))
        assert unlike(marts[-1], two.mart_rows()) == []
    for name, (_, rows) in marts[0].items():
        assert rows
        assert rows != marts[1][name][1] or name == "dim_date"
    # A model that the contract refuses keeps its rows: what was removed before comes back with it.
    assert said[2]["model.shop_warehouse.fact_orders.v1"][0] == "error"
    assert marts[2]["fact_orders"] == marts[1]["fact_orders"]
    assert {status for status, _ in said[-1].values()} == {"pass", "fail"}
    kept = "select test_name, count(*) from ops.failing_rows group by test_name order by test_name"
    assert postgres.query(kept) == one.query(kept, "warehouse.duckdb")

    # PostgreSQL shows the row that breaks a constraint, which may be a person's.
    messages = postgres.query("select message from ops.model_runs where message like '%violates not-null%'")
    assert messages
    assert not any("Failing row" in message for (message,) in messages)

    two.dbt("test", "--resource-type", "unit_test")
    assert len(verdicts(two)) > 40


def test_days_of_the_demo_shop_are_the_same(
    built: Pipeline, tmp_path: Path, postgres: Database, warehouse_services: Path, full: bool
) -> None:
    pipeline = Pipeline(tmp_path / "home") if full else built.copy(tmp_path / "home")
    if full:
        pipeline.run("demo-shop", "init", "--seed", "5", "--lines", "20000")
        pipeline.ingest()
    one = DbtWarehouse(pipeline.home)
    two = PostgresTwin(tmp_path / "postgres", postgres, warehouse_services)
    days = 0
    while True:
        two.rebuild_from(pipeline)
        for warehouse in (one, two):
            warehouse.parse()
            warehouse.dbt(*BUILD)
        assert verdicts(two) == verdicts(one)
        rows = mart_rows(pipeline.home / "marts.duckdb")
        assert unlike(rows, two.mart_rows()) == [], f"after {days} days"
        assert all(found for _, found in rows.values())
        if days == (20 if full else 2):
            break
        step = 1 if full else 2
        pipeline.run("demo-shop", "advance", "--days", str(step))
        pipeline.ingest()
        days += step


def test_online_retail_is_the_same(tmp_path: Path, postgres: Database, warehouse_services: Path, full: bool) -> None:
    """On PostgreSQL by the command that Meltano runs, which finds the database by itself."""
    data = REAL_FOLDER if full else generate(tmp_path / "data")
    pipeline = Pipeline(tmp_path / "home", "online_retail", data)
    pipeline.ingest()
    one = DbtWarehouse(pipeline.home, shop="online_retail")
    two = PostgresTwin(tmp_path / "postgres", postgres, warehouse_services, "online_retail")
    two.rebuild_from(pipeline)
    days_may_lack = [] if full else ["--vars", "{rows_per_open_day_min: 0}"]
    one.dbt("build", *days_may_lack)
    meltanos = Pipeline(two.home, "online_retail", extra_env=two.environment, with_unit_tests=True)
    with closing(postgres.connect()) as connection, connection.cursor() as cursor:
        # Neither a load nor another build is let in beside a build; what only reads raw is.
        for lock in ("1467045491, 1", "1467045491, 2"):
            cursor.execute(f"select pg_advisory_lock({lock})")
            with pytest.raises(CommandFailed, match=rf"dbt: the database {postgres.name} of .* is in use by another"):
                meltanos.run(DBT, "build")
            cursor.execute(f"select pg_advisory_unlock({lock})")
        cursor.execute("select pg_advisory_lock_shared(1467045491, 1)")
        meltanos.run(DBT, "build", *days_may_lack)
    assert verdicts(two) == verdicts(one)
    rows = mart_rows(pipeline.home / "marts.duckdb")
    assert unlike(rows, two.mart_rows()) == []
    # The shop has no events and no stock; in the small folder no two products are often bought together.
    without_rows = {"fact_product_clicks", "mart_trending_products", "fact_inventory_daily"}
    without_rows |= set() if full else {"mart_product_recommendations"}
    assert {name for name, (_, found) in rows.items() if not found} == without_rows


def test_a_missing_connection_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "services.conf").write_text("[warehouse_loader]\nhost=localhost\n")
    environment = {"WAREHOUSE_ENGINE": "postgres", "PGSERVICEFILE": str(tmp_path / "services.conf")}
    with pytest.raises(CommandFailed) as failed:
        Pipeline(tmp_path, extra_env=environment).run(DBT, "build")
    assert failed.value.output == (
        f"dbt: {tmp_path}/services.conf has no connection warehouse_transformer: run `scripts/services up`,"
        " or let PGSERVICEFILE name a file that has it\n"
    )


def test_what_libpq_knows_of_a_connection_dbt_knows_too(
    tmp_path: Path, postgres: Database, warehouse_services: Path
) -> None:
    """The password where docs/postgres.md says that it may be; what a service file says beside host and user."""
    two = PostgresTwin(tmp_path / "postgres", postgres, warehouse_services)
    said = read_services(warehouse_services)[postgres_service.TRANSFORMER]
    password = said.pop("password")
    (tmp_path / "passwords").write_text(f"*:*:*:*:{password}\n")
    (tmp_path / "passwords").chmod(0o600)
    file = tmp_path / "services.conf"
    for parameters, variables in [({}, {"PGPASSWORD": password}), ({"passfile": tmp_path / "passwords"}, {})]:
        write_services(file, {postgres_service.TRANSFORMER: said | parameters})
        environment = two.environment | {"PGSERVICEFILE": str(file)} | variables
        Pipeline(two.home, extra_env=environment).run(DBT, "debug")


def test_the_session_with_the_locks_of_a_build_is_not_timed_out(
    tmp_path: Path, postgres: Database, warehouse_services: Path
) -> None:
    PostgresTwin(tmp_path / "postgres", postgres, warehouse_services)
    postgres.execute(f"alter database {postgres.name} set idle_session_timeout = '100ms'")
    try:
        with closing(tied_dbt.hold_raw(read_services(warehouse_services)[postgres_service.TRANSFORMER], "build")):
            time.sleep(0.5)
            assert postgres.query("select count(*) from pg_locks where locktype = 'advisory'") == [(2,)]
    finally:
        postgres.execute(f"alter database {postgres.name} reset idle_session_timeout")


def test_an_engine_that_there_is_not_is_none_for_dbt_typed_by_hand_either(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="does not have a target named 'Postgres'"):
        Pipeline(tmp_path, extra_env={"WAREHOUSE_ENGINE": "Postgres"}).dbt("build")
    assert not list(tmp_path.glob("*.duckdb"))
