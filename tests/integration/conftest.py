"""A warehouse of its own for each integration test of the target."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from ingestion import settings
from ingestion.lake import Lake, Stream
from ingestion.settings import DUCKDB, POSTGRES
from ingestion.target import replay
from ingestion.target.engines import open_warehouse
from ingestion.target.target import TargetWarehouse
from orchestration.services import warehouse_database
from tests.postgres import Database

ENGINES = pytest.mark.parametrize("engine", [DUCKDB, POSTGRES], indirect=True)
"""Marks tests that are to hold on both engines."""
TARGET = Path(sys.executable).with_name("target-warehouse")


def text(messages: Iterable[dict[str, Any]]) -> str:
    """Singer messages as the lines that a tap writes."""
    return "".join(json.dumps(message) + "\n" for message in messages)


@dataclass(frozen=True)
class TargetHome:
    """One warehouse folder, and the target that fills its warehouse: a file in it, or a database of PostgreSQL."""

    home: Path
    database: Database | None = None

    @property
    def lake(self) -> Lake:
        return Lake(self.home / "lake")

    def load(self, messages: Iterable[dict[str, Any]], **config: Any) -> list[dict[str, Any]]:
        """Run the target in this process; returns the states it emitted."""
        return self.load_lines(text(messages), **config)

    def load_lines(self, lines: str, **config: Any) -> list[dict[str, Any]]:
        """The same for messages as text."""
        target = TargetWarehouse(config=config)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            try:
                target.listen(io.StringIO(lines))
            except BaseException:
                target.fail()
                raise
        return [json.loads(line) for line in output.getvalue().splitlines()]

    def run(self, lines: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the target as Meltano does: a process with messages on its standard input."""
        return subprocess.run([TARGET], input=lines, capture_output=True, text=True, env=os.environ | environment)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query of the warehouse."""
        with self.connect() as ask:
            return ask(sql)

    @contextlib.contextmanager
    def connect(self) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        """A function that runs SQL in the warehouse and returns its rows."""
        if self.database is None:
            with duckdb.connect(str(self.home / "warehouse.duckdb")) as con:
                con.execute("set TimeZone = 'UTC'")
                yield lambda sql: con.execute(sql).fetchall()
            return
        with contextlib.closing(self.database.connect()) as con, con, con.cursor() as cursor:

            def ask(sql: str) -> list[tuple[Any, ...]]:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []

            yield ask

    def columns(self, stream: Stream) -> dict[str, str]:
        """The data columns of the stream's raw table, with DuckDB's names of their types, whatever the engine."""
        engine = open_warehouse(settings.load(), memory_limit="256MB", threads=1)
        try:
            return engine.columns(stream)
        finally:
            engine.close()

    @property
    def exists(self) -> bool:
        """Whether the target has made ops."""
        if self.database is None:
            return (self.home / "warehouse.duckdb").exists()
        return self.query("select to_regclass('ops.syncs') is not null") == [(True,)]

    def check_identities(self) -> None:
        """Every load's counts add up, and raw, ledger, quarantine and lake agree."""
        with self.connect() as ask:
            loads = ask(
                "select load_id, source, stream, rows_extracted, rows_loaded, rows_quarantined, rows_dropped, lake_file"
                " from ops.loads"
            )
            assert loads
            for load_id, source, stream, extracted, loaded, quarantined, dropped, lake_file in loads:
                assert extracted == loaded + quarantined + dropped
                counts = ask(
                    f'select (select count(*) from "raw_{source}"."{stream}" where _sdc_load_id = {load_id}),'
                    f" (select count(*) from ops.quarantine where load_id = {load_id})"
                )
                assert counts == [(loaded, quarantined)]
                assert duckdb.sql(f"select count(*) from '{self.home / 'lake' / lake_file}'").fetchall() == [(loaded,)]
            for source, stream in {load[1:3] for load in loads}:
                raw_loads = ask(f'select distinct _sdc_load_id from "raw_{source}"."{stream}"')
                assert {row[0] for row in raw_loads} <= {load[0] for load in loads}


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of `warehouse`: DuckDB, unless the test is marked with ENGINES."""
    return getattr(request, "param", DUCKDB)


@pytest.fixture
def warehouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, request: pytest.FixtureRequest
) -> TargetHome:
    home = tmp_path / "warehouse"
    monkeypatch.setenv("WAREHOUSE_HOME", str(home))
    monkeypatch.setenv("WAREHOUSE_SHOP", "demo_shop")
    monkeypatch.delenv("WAREHOUSE_ENGINE", raising=False)
    if engine == DUCKDB:
        return TargetHome(home)
    database = request.getfixturevalue("postgres")
    monkeypatch.setenv("WAREHOUSE_ENGINE", engine)
    # As the role that loads, which may no more than it needs.
    services = request.getfixturevalue("warehouse_services")
    warehouse_database.prepare(psycopg2.extensions.parse_dsn(database.server.dsn()), services, database.name)
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    return TargetHome(home, database)


@pytest.fixture(scope="session")
def warehouse_services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service file of the warehouse's roles, whose passwords stay the same for the session's server."""
    return tmp_path_factory.mktemp("services") / "pg_service.conf"


@pytest.fixture
def run_replay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Runs `warehouse-replay` in this process; returns what it printed."""

    def run() -> str:
        monkeypatch.setattr(sys, "argv", ["warehouse-replay"])
        replay.main()
        return capsys.readouterr().out

    return run
