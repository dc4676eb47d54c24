"""The job into PostgreSQL, with the roles that `scripts/services` makes: marts hold the truth, and reporter reads them.

Quick size: one day after the first load. `--full`: 20 days.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
from psycopg2.extensions import parse_dsn

from ingestion.postgres_service import read_services
from orchestration.services import warehouse_database
from tests.acceptance.test_days import QUERY, query_truth
from tests.pipeline import MART_KEYS, WALL_CLOCK_COLUMNS, Pipeline
from tests.postgres import Database

PERSONAL = ("name", "email", "phone", "age")


class Warehouse:
    """A database with its roles, and the pipeline that fills it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.file = folder / "pg_service.conf"
        warehouse_database.prepare(parse_dsn(database.server.dsn()), self.file, database.name)
        self.pipeline = Pipeline(folder / "home", extra_env={"PGSERVICEFILE": str(self.file)})

    def query(self, role: str, statement: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The columns and rows that a role gets."""
        with closing(psycopg2.connect(**read_services(self.file)[role])) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return [column[0] for column in cursor.description], cursor.fetchall()

    def daily(self) -> str:
        done = self.pipeline.run("meltano", "--environment=postgres", "run", "daily")
        return done.stdout + done.stderr


def test_after_each_day_marts_equal_truth_and_reporter_reads_them(
    postgres: Database, tmp_path: Path, full: bool
) -> None:
    warehouse = Warehouse(postgres, tmp_path)
    warehouse.pipeline.run(
        "demo-shop", "init", "--seed", "11", "--lines", "4000", "--start", "2024-12-01", "--days", "120"
    )
    for day in range(21 if full else 2):
        if day:
            warehouse.pipeline.run("demo-shop", "advance")
        warehouse.daily()
        truth = tmp_path / "truth"
        warehouse.pipeline.run("demo-shop", "truth", "--out", str(truth))
        for mart in MART_KEYS:
            check_mart(warehouse, mart, truth)
        _, sales = warehouse.query("warehouse_reporter", QUERY)
        assert len(sales) > 12 and sorted(sales) == sorted(query_truth(truth))
        _, version = warehouse.query("warehouse_reporter", "select version from meta.publish_info")
        assert version == [(day + 1,)]
    assert "nothing to build" in warehouse.daily()


def check_mart(warehouse: Warehouse, mart: str, truth: Path) -> None:
    """As built it is the truth; what is published differs from it in personal data, and tells none of it."""
    with duckdb.connect() as connection:
        connection.execute(f"create view truth as from read_parquet('{truth / mart}.parquet')")
        names = [row[0] for row in connection.execute("describe truth").fetchall()]
        columns = ", ".join(name for name in names if name not in WALL_CLOCK_COLUMNS.get(mart, []))
        expected = connection.execute(f"select {columns} from truth").fetchall()
    _, built = warehouse.query("warehouse_transformer", f"select {columns} from build.{mart}")
    assert len(built) > 1 and Counter(built) == Counter(expected), mart

    names, built = warehouse.query("warehouse_transformer", f"select * from build.{mart}")
    shown, published = warehouse.query("warehouse_reporter", f"select * from {mart}")
    assert shown == names
    hidden = [number for number, name in enumerate(names) if name in PERSONAL and mart.startswith("dim_users")]
    assert bool(hidden) == mart.startswith("dim_users")
    assert Counter(without(built, hidden)) == Counter(without(published, hidden))
    for number in hidden:
        plain = [row[number] for row in built if row[number] is not None]
        masked = [row[number] for row in published if row[number] is not None]
        assert len(plain) == len(masked) > 1
        if names[number] == "age":
            assert all(age % 10 == 0 for age in masked)
        else:
            assert all(re.fullmatch("[0-9a-f]{32}", value) for value in masked) and len(set(plain)) == len(set(masked))


def without(rows: list[tuple[Any, ...]], columns: list[int]) -> list[tuple[Any, ...]]:
    return [tuple(value for number, value in enumerate(row) if number not in columns) for row in rows]
