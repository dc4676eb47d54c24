"""The same raw in PostgreSQL: what a DuckDB warehouse received, copied, and dbt run over it in this process."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
from adbc_driver_postgresql import dbapi
from dbt.cli.main import dbtRunnerResult
from dbt.contracts.graph.manifest import Manifest

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.pipeline import MART_KEYS, ROOT
from tests.postgres import Database

#: Tables of `ops` that target-warehouse writes; dbt makes the others itself.
LEDGER = ("warehouse", "loads", "quarantine", "streams", "syncs")
Rows = dict[str, tuple[list[str], Counter[tuple[Any, ...]]]]


class PostgresTwin(DbtWarehouse):
    """A warehouse in a PostgreSQL database whose raw is that of a DuckDB file; `home` holds dbt's own files."""

    manifests: dict[tuple[Path, str], Manifest] = {}  # noqa: RUF012

    def __init__(self, home: Path, database: Database, shop: str = "demo_shop") -> None:
        super().__init__(home, ROOT / "dbt_project", shop=shop)
        home.mkdir()
        self.database = database
        server = database.server
        self.variables = {
            "WAREHOUSE_ENGINE": "postgres",
            "WAREHOUSE_POSTGRES_HOST": server.host,
            "WAREHOUSE_POSTGRES_PORT": str(server.port),
            "WAREHOUSE_POSTGRES_DATABASE": database.name,
            "WAREHOUSE_POSTGRES_USER": server.user,
            "WAREHOUSE_POSTGRES_PASSWORD": server.password,
        }

    def follow(self, file: Path) -> None:
        """Copy the loads that this raw does not have yet, and the ledger, from a DuckDB warehouse's file."""
        with (
            duckdb.connect(str(file), read_only=True) as source,
            closing(dbapi.connect(self.database.dsn)) as connection,
            connection.cursor() as cursor,
        ):
            source.execute("set timezone = 'UTC'")
            tables = source.execute(
                "select table_schema, table_name from information_schema.tables"
                " where table_schema like 'raw_%' or table_schema = 'ops' order by all"
            ).fetchall()
            for schema, table in tables:
                if schema == "ops" and table not in LEDGER:
                    continue
                columns = source.execute(
                    "select column_name, data_type from information_schema.columns"
                    f" where table_schema = '{schema}' and table_name = '{table}' order by ordinal_position"
                ).fetchall()
                declared = ", ".join(f'"{name}" {data_type}' for name, data_type in columns)
                cursor.execute(f"create schema if not exists {schema}")
                cursor.execute(f"create table if not exists {schema}.{table} ({declared})")
                if schema == "ops":
                    cursor.execute(f"delete from {schema}.{table}")
                    news = "true"
                else:
                    cursor.execute(f"select distinct _sdc_load_id from {schema}.{table}")
                    known = [str(load_id) for (load_id,) in cursor.fetchall()]
                    news = f"_sdc_load_id not in ({', '.join(known)})" if known else "true"
                rows = source.sql(f'select * from {schema}."{table}" where {news}').to_arrow_table()
                if rows.num_rows:
                    cursor.adbc_ingest(table, rows, mode="append", db_schema_name=schema)
            connection.commit()

    def mart_rows(self) -> Rows:
        """Each mart's columns in their order, and its rows."""
        return {
            name: (
                [
                    column
                    for (column,) in self.database.query(
                        "select column_name from information_schema.columns"
                        f" where table_schema = 'build' and table_name = '{name}' order by ordinal_position"
                    )
                ],
                Counter(self.database.query(f"select * from build.{name}")),
            )
            for name in MART_KEYS
        }


def mart_rows(file: Path) -> Rows:
    """Each mart's columns in their order, and its rows, of a DuckDB file."""
    with duckdb.connect(str(file), read_only=True) as connection:
        found = {}
        for name in MART_KEYS:
            rows = connection.execute(f"select * from {name}").fetchall()
            found[name] = ([column[0] for column in connection.description], Counter(rows))
        return found


def unlike(one: Rows, other: Rows) -> list[str]:
    """What differs between the marts of two engines, a few rows of each; empty when they are equal."""
    found = []
    for name, (columns, rows) in one.items():
        other_columns, other_rows = other[name]
        if columns != other_columns:
            found.append(f"{name}: columns {columns} against {other_columns}")
        elif rows != other_rows:
            alone, there = rows - other_rows, other_rows - rows
            found.append(
                f"{name}: {alone.total()} rows of {rows.total()} against {there.total()} of {other_rows.total()}:"
                f" {list(alone)[:3]} against {list(there)[:3]}"
            )
    return found


def verdicts(result: dbtRunnerResult) -> dict[str, tuple[str, int | None]]:
    """What became of each model, seed and test: status, and rows found by a test."""
    return {
        node.node.unique_id: (str(node.status), node.failures if node.node.resource_type == "test" else None)
        for node in result.result
        if node.node.resource_type != "operation"
    }
