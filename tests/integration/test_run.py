"""scripts/run end to end: the first run, a run that fails, and the run after it, on a small demo shop."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """A run that ended: its exit code, what it printed and left, and what was true of the warehouse then."""

    code: int
    output: str
    last_run: dict[str, Any]
    reached: int
    """Days that the demo shop has lived."""
    published: int
    """The inode of the published file: another file, another number."""
    lines: int
    """Rows of fact_orders as published."""


def scripts_run(home: Path, *arguments: str, **variables: str) -> Done:
    """What scripts/run executes once the environment is made."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WAREHOUSE_", "DBT_"))}
    process = subprocess.run(
        [sys.executable, "-m", "orchestration.run", "--home", str(home), *arguments],
        cwd=ROOT,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    published = home / "published" / "warehouse.duckdb"
    assert published.exists(), process.stdout
    with duckdb.connect(str(published), read_only=True) as connection:
        lines = connection.execute("select count(*) from fact_orders").fetchall()[0][0]
    return Done(
        process.returncode,
        process.stdout,
        json.loads((home / "last_run.json").read_text()),
        json.loads((home / "demo_shop" / "shop.json").read_text())["reached"],
        published.stat().st_ino,
        lines,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "home"


@pytest.fixture(scope="module")
def runs(home: Path) -> list[Done]:
    """The first run; a second one, in whose way another process holds the warehouse; a third one, alone again.

    The first has dbt's unit tests too, the third leaves them out (docs/operating.md, "The build takes long").
    """
    first = scripts_run(home, "--lines", "20000")
    script = f"import duckdb; held = duckdb.connect({str(home / 'warehouse.duckdb')!r}); print(1, flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        second = scripts_run(home)
    finally:
        holder.communicate(b"\n")
    return [first, second, scripts_run(home, DBT_EXCLUDE_RESOURCE_TYPES="unit_test")]


def test_first_run_publishes_the_history(runs: list[Done]) -> None:
    first = runs[0]
    assert first.code == 0, first.output
    assert first.last_run["status"] == "published"
    assert first.last_run["published"]["version"] == 1
    assert first.last_run["changes"] is None
    assert first.lines > 15_000
    assert {stream["stream"] for stream in first.last_run["streams"]} >= {"shop-orders", "crm-users", "web-events"}
    for stream in first.last_run["streams"]:
        assert stream["extracted"] == stream["loaded"] + stream["quarantined"] + stream["dropped"] > 0
    assert first.last_run["build"]["models_built"] > 20
    assert first.last_run["build"]["tests_passed"] > 20
    revenue = first.last_run["revenue"]
    assert len(revenue["months"]) == 4
    assert all(len(category["sales"]) == 4 for category in revenue["categories"])


def test_stages_are_measured_and_sum_to_the_run(runs: list[Done]) -> None:
    seconds = {stage["name"]: stage["seconds"] for stage in runs[0].last_run["stages"]}
    assert list(seconds) == [
        *("environment", "demo shop", "ingest", "ingest databases", "freshness", "dbt build", "publish"),
        *("meltano", "docs", "summary"),
    ]
    assert min(seconds[name] for name in ("demo shop", "ingest", "freshness", "dbt build", "docs")) > 0.1
    # What lies between the stages: starting them, and writing last_run.json.
    assert sum(seconds.values()) == pytest.approx(runs[0].last_run["seconds"], abs=3)


def test_failed_run_says_why_and_leaves_what_is_published(runs: list[Done]) -> None:
    first, second, _ = runs
    assert second.code == 1
    assert (second.last_run["status"], second.last_run["stage"]) == ("failed", "ingest")
    assert second.last_run["error"]
    assert "Traceback" not in second.output
    assert "ingest failed" in second.output
    assert (second.published, second.lines) == (first.published, first.lines)


def test_day_after_a_failed_run_is_the_same_day(runs: list[Done]) -> None:
    first, second, third = runs
    assert second.reached == first.reached + 1, "the run after a published one lives one more day"
    assert third.reached == second.reached
    assert third.code == 0, third.output
    assert third.lines > first.lines
    # What the failed run may have loaded is counted by the run that publishes it.
    assert third.last_run["since"] == second.last_run["since"]
    assert third.last_run["published"]["version"] == 2
    rows = {row["mart"]: row for row in third.last_run["changes"]["rows"]}
    assert (rows["fact_orders"]["before"], rows["fact_orders"]["after"]) == (first.lines, third.lines)


def test_everything_that_was_written_is_in_the_log(runs: list[Done]) -> None:
    log = Path(runs[0].last_run["log"]).read_text()
    for said in ("demo shop: 2024-07 written", "Completed successfully", "published version 1"):
        assert said in log


def test_docs_page_asks_nothing_of_the_network(runs: list[Done], home: Path) -> None:
    page = (home / "docs" / "index.html").read_text()
    assert "mart_money_reconciliation" in page
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page)
    assert not re.findall(r"url\([\"']?(?:https?:)?//", page)
    # With statistics on, the page would load a tracker.
    assert '"send_anonymous_usage_stats": false' in page


def test_docs_page_describes_every_model_and_column_with_tests_and_personal_data(runs: list[Done], home: Path) -> None:
    page = (home / "docs" / "index.html").read_text()
    manifest, catalog = (
        json.JSONDecoder().raw_decode(page, page.index(f'{name}:{{"metadata"') + len(name) + 1)[0]
        for name in ("manifest", "catalog")
    )
    shown = [node for node in manifest["nodes"].values() if node["resource_type"] in ("model", "seed")]
    assert len(shown) > 40
    for node in shown:
        assert node["description"].strip(), node["name"]
        described = {name.lower() for name, column in node["columns"].items() if column["description"].strip()}
        assert {name.lower() for name in catalog["nodes"][node["unique_id"]]["columns"]} <= described, node["name"]
        assert any(child.startswith("test.") for child in manifest["child_map"][node["unique_id"]]), node["name"]
    personal = {
        name: column["meta"]["pii"]
        for name, column in manifest["nodes"]["model.shop_warehouse.dim_users.v1"]["columns"].items()
        if "pii" in column["meta"]
    }
    assert personal == {"name": "name", "email": "email", "phone": "phone", "age": "age"}
    assert {group["owner"]["email"] for group in manifest["groups"].values()} >= {"data-platform@example.com"}


def test_everything_that_changes_is_in_the_home(runs: list[Done], home: Path) -> None:
    assert {entry.name for entry in home.iterdir()} >= {"meltano", "logs", "docs", "dbt", "lake", "published"}
    assert list((home / "meltano" / "state").glob("*.json"))
    assert (home / "meltano" / "meltano.db").exists()
