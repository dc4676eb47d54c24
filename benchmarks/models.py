"""`scripts/bench dbt`: what dbt adds to its own SQL, and whether a day's change costs the change or the history.

All is measured on demo shops with the same number of orders a day, so that a day's change is the same in a short
history and in a long one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from benchmarks import measure
from benchmarks.environment import ROOT
from benchmarks.measure import Sample, Spread
from benchmarks.project import environment
from benchmarks.report import FIGURE_HEADER, TIME_HEADER, Figure, machine, table, time_row
from benchmarks.rounds import Results, in_turns

DBT, SQL = "dbt build --full-refresh", "its compiled SQL, and its tests'"
NOTHING_NEW, VERSIONS = "meltano run daily, nothing new", "dbt --version and meltano --version"
PACKAGES = ("dbt-core", "dbt-duckdb", "duckdb", "meltano")

MEMORY_LIMIT = "4GB"
"""What dbt's DuckDB has by default (profiles.yml)."""

#: Limits of a median. They are promised for `Sizes()`.
MOST_DBT_RATIO = 1.2
MOST_NOTHING_NEW_RATIO = 4.0
MOST_HISTORY_RATIO = 1.5
MOST_MEMORY_MB = 8 * 1024.0


@dataclass(frozen=True)
class Sizes:
    """How much is measured: order lines, of which a day brings `lines_a_day`, and rounds."""

    lines: int = 5_000_000
    few_lines: int = 50_000
    lines_a_day: int = 12_500
    memory_lines: int = 20_000_000
    memory_limit: str = "2GB"
    repetitions: int = 3


QUICK = Sizes(lines=40_000, few_lines=8_000, lines_a_day=1_000, memory_lines=40_000, repetitions=1)


class Shop:
    """A demo shop and its warehouse, whose raw is loaded and whose marts are built."""

    def __init__(self, folder: Path, lines: int, lines_a_day: int) -> None:
        """Make it, or take what an earlier run left in `folder`."""
        self.home = folder / f"shop-{lines}"
        self._log = folder / "log"
        self._environment = environment(self.home, DBT_SEND_ANONYMOUS_USAGE_STATS="false")
        self.lines = lines
        if not (self.home / "made").exists():
            shutil.rmtree(self.home, ignore_errors=True)
            days = str(max(2, lines // lines_a_day))
            # Also the longest history ends before today: what lies ahead of it is taken for a mistake.
            self.run("demo-shop", "init", "--lines", str(lines), "--days", days, "--start", "2022-01-01")
            self.run("meltano", "run", "ingest")
            (self.home / "made").touch()

    def run(self, *command: str) -> Sample:
        """Run a command of the environment from the project's root. Raises UserError when it fails."""
        return measure.run([ROOT / ".venv" / "bin" / command[0], *command[1:]], self._log, self._environment, ROOT)

    def dbt(self, *arguments: str, profiles: Path | None = None) -> Sample:
        """Run dbt on the project."""
        folder = ROOT / "dbt_project"
        return self.run("dbt", *arguments, "--project-dir", str(folder), "--profiles-dir", str(profiles or folder))

    def advance(self) -> None:
        """One day more in raw; the marts do not have it yet."""
        self.run("demo-shop", "advance")
        self.run("meltano", "run", "ingest")

    def compiled(self) -> str:
        """The SQL of the last `dbt build`, models and data tests in the order in which dbt ran them."""
        results = json.loads((self.home / "dbt" / "run_results.json").read_text())["results"]
        nodes = json.loads((self.home / "dbt" / "manifest.json").read_text())["nodes"]
        statements = [
            "set TimeZone = 'UTC'",
            f"set memory_limit = '{MEMORY_LIMIT}'",
            f"attach '{self.home / 'marts.duckdb'}' as marts (storage_version 'v1.4.0')",
        ]
        counted = []
        for result in results:
            node = nodes.get(result["unique_id"])
            if node is None or not result["compiled_code"]:
                continue  # A unit test or a seed.
            if node["resource_type"] == "model":
                kind = "view" if node["config"]["materialized"] == "view" else "table"
                statements.append(f"create or replace {kind} {result['relation_name']} as {result['compiled_code']}")
                counted.append(kind)
            elif node["resource_type"] == "test":
                statements.append(f"select count(*) from ({result['compiled_code']})")
                counted.append("test")
        assert min(counted.count(kind) for kind in ("view", "table", "test")) > 5, counted
        return ";\n".join([*statements, f"select {len(counted)}"])

    def run_compiled(self) -> Sample:
        """Run `compiled` in DuckDB alone."""
        file = self.home / "compiled.sql"
        file.write_text(self.compiled())
        command = f"{sys.executable} -m benchmarks.in_duckdb {self.home / 'warehouse.duckdb'} < {file}"
        return measure.run(["sh", "-c", command], self._log, self._environment, ROOT)


def run(sizes: Sizes, folder: Path) -> tuple[str, list[str]]:
    """Measure everything in `folder`; returns the page of results, and what of it is not reached."""
    results = Results()
    promised = sizes == replace(Sizes(), repetitions=sizes.repetitions)
    few, many = (Shop(folder, lines, sizes.lines_a_day) for lines in (sizes.few_lines, sizes.lines))
    full_build(results, many, sizes.repetitions, MOST_DBT_RATIO if promised else None)
    nothing_new(results, few, max(3, sizes.repetitions), MOST_NOTHING_NEW_RATIO if promised else None)
    daily_change(results, few, many, max(3, sizes.repetitions), MOST_HISTORY_RATIO if promised else None)
    memory(results, folder, sizes, promised)
    missed = [f"{figure.what}: {figure.spread.middle:.2f} {figure.unit}" for figure in results.missed]
    return report(results), missed


def full_build(results: Results, shop: Shop, rounds: int, limit: float | None) -> None:
    """`dbt build` of everything, against the same SQL straight in DuckDB; dbt also runs the unit tests."""

    def dbt() -> None:
        results.add(DBT, shop.lines, shop.dbt("build", "--full-refresh"))

    def sql() -> None:
        results.add(SQL, shop.lines, shop.run_compiled())

    dbt()  # So that the compiled SQL is of a full build.
    results.samples.clear()
    in_turns([dbt, sql], rounds)
    # What was made without dbt's bookkeeping would not be taken for built.
    shop.dbt("build", "--full-refresh")
    pairs = zip(results.seconds(DBT, shop.lines), results.seconds(SQL, shop.lines), strict=True)
    spread = Spread.of([ours / other for ours, other in pairs])
    results.figures.append(
        Figure(f"full build of {shop.lines:,} order lines, wall, dbt build / its SQL", spread, "x", at_most=limit)
    )


def nothing_new(results: Results, shop: Shop, rounds: int, limit: float | None) -> None:
    """The whole job without anything to do, against what starting its two programs costs."""
    shop.run("meltano", "run", "daily")

    def daily() -> None:
        results.add(NOTHING_NEW, 0, shop.run("meltano", "run", "daily"))

    def versions() -> None:
        results.add(VERSIONS, 0, shop.run("dbt", "--version") + shop.run("meltano", "--version"))

    in_turns([daily, versions], rounds)
    pairs = zip(results.samples[NOTHING_NEW, 0], results.samples[VERSIONS, 0], strict=True)
    spread = Spread.of([ours.processor_seconds / other.processor_seconds for ours, other in pairs])
    results.figures.append(Figure(f"{NOTHING_NEW}, processor time / {VERSIONS}", spread, "x", at_most=limit))


def daily_change(results: Results, few: Shop, many: Shop, rounds: int, limit: float | None) -> None:
    """The dbt part of a day, with a short and with a long history."""

    def day(shop: Shop) -> None:
        shop.advance()
        results.add("dbt build of a day's change", shop.lines, shop.dbt("build"))

    in_turns([partial(day, few), partial(day, many)], rounds)
    seconds = [results.seconds("dbt build of a day's change", shop.lines) for shop in (many, few)]
    spread = Spread.of([long / short for long, short in zip(*seconds, strict=True)])
    what = f"dbt build of a day's change, history of {many.lines:,} / of {few.lines:,} order lines, wall"
    results.figures.append(Figure(what, spread, "x", at_most=limit))


def memory(results: Results, folder: Path, sizes: Sizes, promised: bool) -> None:
    """A full build's peak, and whether it ends with DuckDB held to `memory_limit`."""
    shop = Shop(folder, sizes.memory_lines, sizes.lines_a_day)
    way = f"{DBT}, memory"
    results.add(way, shop.lines, shop.dbt("build", "--full-refresh"))
    limited = f"{DBT}, DuckDB's memory_limit {sizes.memory_limit}"
    profiles = with_setting(folder / "profiles", {"memory_limit": sizes.memory_limit})
    results.add(limited, shop.lines, shop.dbt("build", "--full-refresh", profiles=profiles))
    for each, limit in ((way, MOST_MEMORY_MB), (limited, None)):
        spread = Spread.of([sample.peak_mb for sample in results.samples[each, shop.lines]])
        what = f"peak memory, {each}, {shop.lines:,} order lines"
        results.figures.append(Figure(what, spread, "MB", at_most=limit if promised else None))


def with_setting(folder: Path, settings: Mapping[str, str]) -> Path:
    """The project's profiles with more settings of DuckDB."""
    profiles = yaml.safe_load((ROOT / "dbt_project" / "profiles.yml").read_text())
    profiles["warehouse"]["outputs"]["dev"]["settings"] |= settings
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profiles.yml").write_text(yaml.safe_dump(profiles, sort_keys=False, width=2000))
    return folder


def report(results: Results) -> str:
    """The page that RESULTS.md holds."""
    times = [time_row(way, rows, samples) for (way, rows), samples in results.samples.items()]
    parts = [
        "# Models",
        "The demo shop in DuckDB, by `scripts/bench dbt`: all ways in one run, in turns; ratios round by round.",
        machine(PACKAGES),
        "## Figures",
        table(FIGURE_HEADER, [figure.row() for figure in results.figures]),
        "## Times",
        table(TIME_HEADER, times),
    ]
    return "\n\n".join(parts) + "\n"
