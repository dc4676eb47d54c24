"""`meltano --environment=postgres run ingest`: raw and ops in PostgreSQL are those of DuckDB, row for row."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import duckdb
import psycopg2
import pytest

from orchestration.services import warehouse_database
from tests.pipeline import Pipeline
from tests.postgres import Database

COLUMNS = (
    "select table_schema, table_name, column_name from information_schema.columns"
    " where table_schema like 'raw%' or (table_schema = 'ops' and table_name in ('loads', 'quarantine', 'streams'))"
    " order by 1, 2, ordinal_position"
)
# When it was committed, and said, is each warehouse's own.
OWN = {"committed_at", "updated_at"}


@pytest.fixture
def pipeline(postgres: Database, tmp_path: Path) -> Pipeline:
    """The demo shop with its DuckDB warehouse, and a database beside it."""
    services = tmp_path / "pg_service.conf"
    warehouse_database.prepare(psycopg2.extensions.parse_dsn(postgres.server.dsn()), services, postgres.name)
    pipeline = Pipeline(tmp_path / "home", extra_env={"PGSERVICEFILE": str(services)})
    pipeline.run("demo-shop", "init", "--seed", "3", "--lines", "2000", "--days", "60")
    pipeline.ingest()
    return pipeline


def rows(ask) -> dict[str, list[tuple]]:
    """All rows of raw and of what the target wrote of it, by table."""
    tables: dict[str, list[str]] = {}
    for schema, table, column in ask(COLUMNS):
        if column not in OWN:
            tables.setdefault(f'"{schema}"."{table}"', []).append(column)
    columns = {name: ", ".join(f'"{column}"' for column in columns) for name, columns in tables.items()}
    return {name: ask(f"select {columns[name]} from {name}") for name in tables}


def in_duckdb(file: Path) -> dict[str, list[tuple]]:
    with duckdb.connect(str(file), read_only=True) as con:
        con.execute("set TimeZone = 'UTC'")
        return rows(lambda sql: con.execute(sql).fetchall())


def in_postgres(database: Database) -> dict[str, list[tuple]]:
    with closing(database.connect()) as con, con.cursor() as cursor:

        def ask(sql: str) -> list[tuple]:
            cursor.execute(sql)
            return cursor.fetchall()

        cursor.execute("set timezone = 'UTC'")
        return rows(ask)


def differing(one: dict[str, list[tuple]], other: dict[str, list[tuple]]) -> list[str]:
    """The tables that differ; compared as text, because each driver has its own object for UTC."""
    assert one.keys() == other.keys()
    return [name for name in one if texts(one[name]) != texts(other[name])]


def texts(found: list[tuple]) -> list[tuple[str, ...]]:
    return sorted(tuple(str(value) for value in row) for row in found)


def test_raw_in_postgresql_is_raw_in_duckdb_also_when_made_anew_from_the_lake(pipeline, postgres):
    """From the same lake: the taps send to a new warehouse what it has not, as they do to one that lost its state."""
    ingest = ("meltano", "--environment=postgres", "run", "ingest")
    pipeline.run(*ingest)
    expected = in_duckdb(pipeline.home / "warehouse.duckdb")
    assert sum(map(len, expected.values())) > 10_000
    loaded = in_postgres(postgres)
    assert differing(loaded, expected) == []

    pipeline.run(*ingest)  # nothing is new
    assert differing(in_postgres(postgres), loaded) == []

    lake = Pipeline(pipeline.home, extra_env={**pipeline.extra_env, "WAREHOUSE_ENGINE": "postgres"})
    assert "the lake is whole" in lake.run("warehouse-lake", "check").stdout
    postgres.execute("delete from raw_shop.orders where order_id::bigint % 2 = 0", "delete from ops.loads")
    assert "is made anew" in lake.run("warehouse-lake", "rebuild").stdout
    assert differing(in_postgres(postgres), loaded) == []
    assert "files are now 1" in lake.run("warehouse-lake", "compact").stdout
    assert "the lake is whole" in lake.run("warehouse-lake", "check").stdout
    lake.run("warehouse-lake", "rebuild")
    found = in_postgres(postgres)
    # Where its rows are now is not where they were.
    assert differing(found, loaded) == ['"ops"."loads"']
