"""The same raw in PostgreSQL: what a DuckDB warehouse received, copied, and dbt run over it in this process."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import psycopg2.extensions
from adbc_driver_postgresql import dbapi
from dbt.contracts.graph.manifest import Manifest

from ingestion import postgres_service
from ingestion.postgres_service import read_services
from ingestion.settings import POSTGRES
from orchestration import tied_dbt
from orchestration.services import warehouse_database
from tests.integration.dbt_warehouse import DbtWarehouse
from tests.pipeline import MART_KEYS, ROOT, Pipeline
from tests.postgres import Database

#: Tables of `ops` that target-warehouse writes; dbt makes the others itself.
LEDGER = ("warehouse", "loads", "quarantine", "streams", "syncs")
Rows = dict[str, tuple[list[str], Counter[tuple[Any, ...]]]]


class PostgresTwin(DbtWarehouse):
    """A warehouse in a PostgreSQL database, whose raw is that of a DuckDB file; `home` holds dbt's own files.

    Raw is written as warehouse_loader, dbt runs as warehouse_transformer: both with the rights that they have.
    """

    manifests: dict[tuple[Path, str], Manifest] = {}  # noqa: RUF012

    def __init__(self, home: Path, database: Database, services: Path, shop: str = "demo_shop") -> None:
        super().__init__(home, ROOT / "dbt_project", shop=shop)
        home.mkdir()
        self.database = database
        warehouse_database.prepare(psycopg2.extensions.parse_dsn(database.server.dsn()), services, database.name)
        roles = read_services(services)
        self.loader = roles[postgres_service.LOADER]
        #: The environment of commands that find the database by the service file.
        self.environment = {"WAREHOUSE_ENGINE": POSTGRES, "PGSERVICEFILE": str(services)}
        self.variables = self.environment | {
            f"WAREHOUSE_POSTGRES_{variable}": roles[postgres_service.TRANSFORMER][name]
            for name, variable in tied_dbt.VARIABLES.items()
        }

    def follow(self, file: Path) -> None:
        """Copy the loads that this raw does not have yet, and the ledger, from a DuckDB warehouse's file."""
        place = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**self.loader)
        with (
            duckdb.connect(str(file), read_only=True) as source,
            closing(dbapi.connect(place)) as connection,
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

    def rebuild_from(self, pipeline: Pipeline) -> None:
        """Make raw and the ledger anew from the lake of a pipeline, as a user would."""
        Pipeline(pipeline.home, pipeline.shop, pipeline.data, extra_env=self.environment).run(
            "warehouse-lake", "rebuild"
        )

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


Verdicts = dict[str, tuple[str, int | None]]


def verdicts(warehouse: DbtWarehouse) -> Verdicts:
    """What the last command of dbt said of each model, seed and test: its status, and how many rows a test found."""
    results = json.loads((warehouse.home / "dbt" / "run_results.json").read_text())["results"]
    return {
        result["unique_id"]: (result["status"], result["failures"])
        for result in results
        if not result["unique_id"].startswith("operation.")
    }
