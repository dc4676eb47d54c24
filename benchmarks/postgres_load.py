"""`scripts/bench postgres`: target-warehouse into PostgreSQL, against psql COPY of the same rows, in turns.

Both write into a new table without index: psql the 12 columns from CSV, ours also the 13 metadata columns of raw, from
a closed batch of the lake, with the ledger in one transaction.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import psycopg2.extensions

from benchmarks import measure, source
from benchmarks.environment import ROOT
from benchmarks.measure import Sample, Spread, ratios
from benchmarks.project import environment
from benchmarks.report import FIGURE_HEADER, TIME_HEADER, Figure, machine, table, time_row
from benchmarks.rounds import Results, in_turns
from benchmarks.ways import Bench, bench, psql
from ingestion.errors import UserError
from ingestion.lake import literal
from orchestration.services import warehouse_database

OURS, IDLE, COPY = "target-warehouse", "target-warehouse, nothing to load", "psql COPY"
PLAIN = "orders"
"""The table that psql fills."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: tuple[int, ...] = (5_000_000,)
    repetitions: int = 3
    memory_rows: tuple[int, int] = (500_000, 5_000_000)


QUICK = Sizes(rows=(100_000,), repetitions=1, memory_rows=(50_000, 100_000))

#: Limits of a median; they are promised for these row counts, not for small ones.
LEAST_COPY_RATIO = {5_000_000: 0.7}
MOST_MEMORY_RATIO = 1.1
MOST_MEMORY_MB = 600.0


def run(sizes: Sizes, folder: Path) -> tuple[str, list[str]]:
    """Measure everything in `folder`; returns the page of results, and what of it is not reached."""
    results = Results()
    with bench(folder) as made:
        postgres = made.execute("show server_version")[0][0]
        made.make_tables([*sizes.rows, *sizes.memory_rows])
        for rows in sizes.rows:
            load(made, results, rows, sizes.repetitions)
        memory(made, results, sizes)
    missed = [f"{figure.what}: {figure.spread.middle:.2f} {figure.unit}" for figure in results.missed]
    return report(results, postgres), missed


def load(made: Bench, results: Results, rows: int, rounds: int) -> None:
    """One table, ours and psql's."""
    with _files(made, rows) as files:

        def ours() -> None:
            results.add(OURS, rows, files.load())

        def copy() -> None:
            results.add(COPY, rows, files.copy())

        def idle() -> None:
            results.add(IDLE, 0, files.idle())

        in_turns([idle, ours, copy], rounds)
    limit = LEAST_COPY_RATIO.get(rows)
    own, copied, nothing = results.seconds(OURS, rows), results.seconds(COPY, rows), results.seconds(IDLE, 0)[-rounds:]
    for what, less, least in (("whole run", None, limit), ("less an idle run", nothing, None)):
        results.figures.append(
            Figure(f"{rows:,} rows, {what}, against {COPY}", ratios(copied, own, less), "x", at_least=least)
        )


def memory(made: Bench, results: Results, sizes: Sizes) -> None:
    """The target's peak with many rows against few."""
    few, many = sizes.memory_rows
    for rows in (few, many):
        if (OURS, rows) not in results.samples:
            with _files(made, rows) as files:
                results.add(OURS, rows, files.load())
    low, high = (max(sample.peak_mb for sample in results.samples[OURS, rows]) for rows in (few, many))
    promised = sizes.memory_rows == Sizes().memory_rows
    what = f"peak memory of the largest process, {many:,} rows"
    results.figures += [
        Figure(
            f"{what} against {few:,}", Spread.of([high / low]), "x", at_most=MOST_MEMORY_RATIO if promised else None
        ),
        Figure(what, Spread.of([high]), "MB", at_most=MOST_MEMORY_MB if promised else None),
    ]


@dataclass(frozen=True)
class _Files:
    """The rows of a table as CSV and as a batch of a lake, and what loads them."""

    made: Bench
    rows: int
    home: Path

    @property
    def csv(self) -> Path:
        return self.home / "orders.csv"

    @property
    def _services(self) -> Path:
        return self.home / "pg_service.conf"

    def make(self) -> None:
        """Write the CSV with psql, and the batch from it."""
        name = f"{source.SCHEMA}.{source.table(self.rows)}"
        self._psql("postgres", f"\\copy {name} to {literal(str(self.csv))} (format csv)")
        command = (sys.executable, "-m", "benchmarks.lake_batch", self.home, self.csv, str(self.rows))
        measure.run(command, self.made.logs / "lake_batch.log", environment(self.home), ROOT)

    def load(self) -> Sample:
        """Ours, into a new warehouse."""
        self._new_warehouse()
        sample = self._target(self.home / "messages")
        self._check(f"raw_{source.SCHEMA}.orders")
        return sample

    def idle(self) -> Sample:
        """The target without input, in a new warehouse."""
        self._new_warehouse()
        return self._target(Path("/dev/null"))

    def copy(self) -> Sample:
        """The plain way, into a new table."""
        self._new_warehouse()
        columns = ", ".join(f"{name} {kind}" for name, kind in source.COLUMNS.items())
        self._psql("warehouse", f"create table {PLAIN} ({columns})")
        sample = self._psql("warehouse", f"\\copy {PLAIN} from {literal(str(self.csv))} (format csv)")
        self._check(PLAIN)
        return sample

    def _new_warehouse(self) -> None:
        server = self.made.server
        self.made.execute("drop database if exists warehouse with (force)")
        warehouse_database.prepare(psycopg2.extensions.parse_dsn(server.dsn()), self._services)
        self.made.execute("checkpoint")

    def _target(self, messages: Path) -> Sample:
        variables = {"WAREHOUSE_ENGINE": "postgres", "PGSERVICEFILE": str(self._services)}
        words = ("sh", "-c", f"exec target-warehouse < {shlex.quote(str(messages))}")
        return measure.run(words, self.made.logs / "target.log", environment(self.home, **variables), self.home)

    def _psql(self, database: str, command: str) -> Sample:
        words = (psql(self.made.server), self.made.server.dsn(database), "-qXv", "ON_ERROR_STOP=1", "-c", command)
        return measure.run(words, self.made.logs / "psql.log", environment(self.home), self.home)

    def _check(self, relation: str) -> None:
        """Raise UserError unless the relation has exactly the source's rows."""
        with closing(psycopg2.connect(self.made.server.dsn("warehouse"))) as connection, connection.cursor() as cursor:
            cursor.execute(source.checksum_in_postgres(relation))
            found = [str(value) for value in cursor.fetchall()[0]]
        expected = self.made.expected(source.table(self.rows))
        if found != expected:
            raise UserError(f"{relation} has other rows than the source: {found} instead of {expected}")


@contextmanager
def _files(made: Bench, rows: int) -> Iterator[_Files]:
    with made.scratch(f"postgres-{rows}") as home:
        files = _Files(made, rows, home)
        print(f"Writing {rows:,} rows to CSV and lake ...", file=sys.stderr, flush=True)
        files.make()
        yield files


def report(results: Results, postgres: str) -> str:
    """The page that RESULTS.md holds."""
    times = [time_row(way, rows, samples) for (way, rows), samples in results.samples.items()]
    parts = [
        "# Load into PostgreSQL",
        "A table of 12 mixed columns (`benchmarks/source.py`) into a new table, by `scripts/bench postgres`: psql COPY"
        " of its CSV, and target-warehouse with its closed batch (25 columns in raw). A ratio is our speed as a"
        " multiple of psql's, round by round. The rows of each are compared with the source's by count and sums."
        " Seconds of the processor are the client's, without the server's.",
        machine(("duckdb", "pyarrow", "adbc-driver-postgresql"), {"PostgreSQL": postgres}),
        "## Figures",
        table(FIGURE_HEADER, [figure.row() for figure in results.figures]),
        "## Times",
        table(TIME_HEADER, times),
    ]
    return "\n\n".join(parts) + "\n"
