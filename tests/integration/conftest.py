"""A warehouse of its own for each integration test of the target."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ingestion.lake import Lake
from ingestion.target import replay
from ingestion.target.target import TargetWarehouse

TARGET = Path(sys.executable).with_name("target-warehouse")


def text(messages: Iterable[dict[str, Any]]) -> str:
    """Singer messages as the lines that a tap writes."""
    return "".join(json.dumps(message) + "\n" for message in messages)


@dataclass(frozen=True)
class TargetHome:
    """One warehouse folder, and the target that fills it."""

    home: Path

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
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as con:
            con.execute("set TimeZone = 'UTC'")
            return con.execute(sql).fetchall()

    def check_identities(self) -> None:
        """Every load's counts add up, and raw, ledger, quarantine and lake agree."""
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as con:
            loads = con.execute(
                "select load_id, source, stream, rows_extracted, rows_loaded, rows_quarantined, rows_dropped, lake_file"
                " from ops.loads"
            ).fetchall()
            assert loads
            for load_id, source, stream, extracted, loaded, quarantined, dropped, lake_file in loads:
                assert extracted == loaded + quarantined + dropped
                counts = con.execute(
                    f'select (select count(*) from "raw_{source}"."{stream}" where _sdc_load_id = {load_id}),'
                    f" (select count(*) from '{self.home / 'lake' / lake_file}'),"
                    f" (select count(*) from ops.quarantine where load_id = {load_id})"
                ).fetchone()
                assert counts == (loaded, loaded, quarantined)
            for source, stream in {load[1:3] for load in loads}:
                raw_loads = con.execute(f'select distinct _sdc_load_id from "raw_{source}"."{stream}"').fetchall()
                assert {row[0] for row in raw_loads} <= {load[0] for load in loads}


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TargetHome:
    home = tmp_path / "warehouse"
    monkeypatch.setenv("WAREHOUSE_HOME", str(home))
    monkeypatch.setenv("WAREHOUSE_SHOP", "demo_shop")
    return TargetHome(home)


@pytest.fixture
def run_replay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Runs `warehouse-replay` in this process; returns what it printed."""

    def run() -> str:
        monkeypatch.setattr(sys, "argv", ["warehouse-replay"])
        replay.main()
        return capsys.readouterr().out

    return run
