"""`scripts/bench publish`: what readers notice of a publish, and what a publish costs.

Readers ask without pause, each in a process of its own. Quiet moments and publishes take turns, and the readers'
answers of both are compared; building new marts in between counts for neither.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Spread
from benchmarks.report import FIGURE_HEADER, Figure, machine, table
from benchmarks.rounds import Results
from ingestion import postgres_service
from ingestion.settings import Settings
from orchestration import publish_duckdb, publish_postgres
from orchestration.services.postgres import PostgresServer
from tests.integration.reading import Answer, readers
from tests.integration.test_publish import build, built
from tests.integration.test_publish_postgres import Warehouse
from tests.postgres import create_database

PACKAGES = ("duckdb", "psycopg2-binary")
Moment = tuple[float, float]  # seconds of the system's monotonic clock


@dataclass(frozen=True)
class Sizes:
    """Rows of the largest mart, readers, publishes of a round, rounds, and how long each quiet moment is."""

    rows: int = 100_000
    readers: int = 8
    publishes: int = 10
    repetitions: int = 3
    quiet_seconds: float = 2.0


QUICK = Sizes(rows=20_000, readers=2, publishes=3, repetitions=1, quiet_seconds=0.5)


@dataclass(frozen=True)
class Engine:
    """One warehouse: where readers ask, how its marts are built anew, and how they are published."""

    name: str
    place: str
    build: Callable[[str], object]
    publish: Callable[[], object]


def run(sizes: Sizes, folder: Path) -> tuple[str, list[str]]:
    """Measure both engines; returns the page of results, and no missed figure, since none is promised."""
    results = Results()
    for opened in (duckdb_engine, postgres_engine):
        with opened(sizes, folder) as engine:
            ratios, times = [], []
            for number in range(sizes.repetitions):
                quiet, busy, seconds = one_round(engine, sizes, f"round {number}")
                ratios.append(percentile(busy, 0.99) / percentile(quiet, 0.99))
                times.extend(seconds)
                print(
                    f"  {engine.name}: {len(quiet)} answers in quiet, p99 {percentile(quiet, 0.99) * 1000:.0f} ms;"
                    f" {len(busy)} during publishes, p99 {percentile(busy, 0.99) * 1000:.0f} ms",
                    file=sys.stderr,
                )
            what = f"{engine.name}: p99 of readers' queries during publishes, against quiet"
            results.figures.append(Figure(what, Spread.of(ratios), "x"))
            what = f"{engine.name}: a publish of {sizes.rows:,} rows under {sizes.readers} readers"
            results.figures.append(Figure(what, Spread.of(times), "s"))
    return report(results, sizes), []


def one_round(engine: Engine, sizes: Sizes, name: str) -> tuple[list[Answer], list[Answer], list[float]]:
    """The answers in quiet, those that a publish overlapped, and the seconds of each publish; an error ends it all."""
    quiet: list[Moment] = []
    busy: list[Moment] = []
    with readers(sizes.readers, engine.name, engine.place) as answers:
        for number in range(sizes.publishes):
            engine.build(f"{name}, build {number}")
            started = time.perf_counter()
            time.sleep(sizes.quiet_seconds)
            ended = time.perf_counter()
            engine.publish()
            quiet.append((started, ended))
            busy.append((ended, time.perf_counter()))
    found = [answer for of_reader in answers for answer in of_reader]
    errors = [answer.error for answer in found if answer.error]
    if errors:
        raise RuntimeError(f"{engine.name}: readers met {len(errors)} errors, first: {errors[0]}")
    return _within(found, quiet), _overlapping(found, busy), [end - start for start, end in busy]


def _within(answers: list[Answer], moments: list[Moment]) -> list[Answer]:
    return [
        answer
        for answer in answers
        if any(start <= answer.started and answer.started + answer.seconds <= end for start, end in moments)
    ]


def _overlapping(answers: list[Answer], moments: list[Moment]) -> list[Answer]:
    return [
        answer
        for answer in answers
        if any(answer.started < end and start < answer.started + answer.seconds for start, end in moments)
    ]


def percentile(answers: list[Answer], share: float) -> float:
    """The seconds that this share of the answers took at most."""
    seconds = sorted(answer.seconds for answer in answers)
    return seconds[min(len(seconds) - 1, int(len(seconds) * share))]


@contextmanager
def duckdb_engine(sizes: Sizes, folder: Path) -> Iterator[Engine]:
    """A DuckDB warehouse with one published version."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        settings = built(Path(home))
        build(settings, "first", rows=sizes.rows)
        publish_duckdb.publish(settings)
        yield Engine(
            "duckdb",
            str(settings.published_file),
            lambda name: build(settings, name, rows=sizes.rows),
            lambda: publish_duckdb.publish(settings),
        )


@contextmanager
def postgres_engine(sizes: Sizes, folder: Path) -> Iterator[Engine]:
    """A warehouse in PostgreSQL with one published version."""
    with (
        PostgresServer.start(folder / "postgres", temporary=True) as server,
        tempfile.TemporaryDirectory(dir=folder) as home,
    ):
        database = create_database(server)
        file = Path(home) / "pg_service.conf"
        file.write_text(
            f"[{postgres_service.TRANSFORMER}]\nhost={server.host}\nport={server.port}\ndbname={database.name}\n"
            f"user={server.user}\npassword={server.password}\n"
        )
        os.environ["PGSERVICEFILE"] = str(file)
        settings = Settings(shop="demo_shop", home=Path(home), data=Path(home), engine="postgres")
        warehouse = Warehouse(database, settings)
        warehouse.build("first", rows=sizes.rows)
        publish_postgres.publish(settings)
        yield Engine(
            "postgres",
            database.dsn + "?options=-csearch_path%3Dmarts",
            lambda name: warehouse.build(name, rows=sizes.rows),
            lambda: publish_postgres.publish(settings),
        )


def report(results: Results, sizes: Sizes) -> str:
    """The page that RESULTS.md holds."""
    parts = [
        "# Publish",
        f"{sizes.readers} readers that ask without pause for figures of {sizes.rows:,} rows and another mart, by"
        " `scripts/bench publish`. On DuckDB they connect anew for each query, on PostgreSQL they stay connected.",
        machine(PACKAGES),
        "## Figures",
        table(FIGURE_HEADER, [figure.row() for figure in results.figures]),
    ]
    return "\n\n".join(parts) + "\n"
