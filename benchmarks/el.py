"""`scripts/bench el`: extract and load, PostgreSQL into DuckDB, ours and the alternatives side by side in one run.

Each round runs every way once, in turns forwards and backwards, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks import files
from benchmarks.environment import peers
from benchmarks.measure import Spread, beyond, ratios
from benchmarks.report import FIGURE_HEADER, TIME_HEADER, Figure, machine, table, time_row
from benchmarks.rounds import Results, in_turns
from benchmarks.source import SCHEMA
from benchmarks.source import table as table_name
from benchmarks.ways import Bench, bench

OURS, IDLE, COPY, DLT = "meltano run, ours", "meltano run, idle", "COPY + COPY", "dlt"
OURS_PACKAGES = ("meltano", "singer-sdk", "duckdb", "pyarrow", "adbc-driver-postgresql")
PEERS = ("dlt", "connectorx", "meltanolabs-tap-postgres", "target-duckdb")
METHODS = ("INCREMENTAL", "LOG_BASED")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: tuple[int, ...] = (5_000_000, 20_000_000)
    repetitions: int = 3
    memory_rows: tuple[int, int] = (1_000_000, 10_000_000)
    nothing_new_rows: int = 1_000_000
    singer_rows: int = 100_000
    csv_rows: int = 9_600_000
    small_files: int = 200


QUICK = Sizes(
    rows=(200_000,),
    repetitions=1,
    memory_rows=(100_000, 200_000),
    nothing_new_rows=100_000,
    singer_rows=20_000,
    csv_rows=100_000,
    small_files=5,
)

#: Limits of a median, by what is measured. They are promised for these row counts, not for small ones.
LEAST_COPY_RATIO = {5_000_000: {"less idle": 1.25}, 20_000_000: {"whole": 1.2}}
LEAST_DLT_RATIO = 2.0
MOST_MEMORY_RATIO = 1.1
MOST_MEMORY_MB = 600.0
MOST_NOTHING_NEW_SECONDS = 1.0
LEAST_CSV_RATIO = 0.5


def run(sizes: Sizes, folder: Path) -> tuple[str, list[str]]:
    """Measure everything in `folder`; returns the page of results, and what of it is not reached."""
    results = Results()
    peers()
    with bench(folder) as made:
        postgres = made.execute("show server_version")[0][0]
        made.make_tables([*sizes.rows, *sizes.memory_rows, sizes.nothing_new_rows, sizes.singer_rows])
        made.idle()  # Meltano makes its own database at the first time.
        for rows in sizes.rows:
            full_table(made, results, rows, sizes.repetitions)
        memory(made, results, *sizes.memory_rows)
        for method in METHODS:
            nothing_new(made, results, method, sizes.nothing_new_rows, max(3, sizes.repetitions))
        singer(made, results, sizes)
    csv(results, sizes, folder / "csv")
    missed = [f"{figure.what}: {figure.spread.middle:.2f} {figure.unit}" for figure in results.missed]
    return report(results, postgres), missed


def full_table(bench: Bench, results: Results, rows: int, rounds: int) -> None:
    """A whole table: ours, COPY + COPY and dlt."""
    name = table_name(rows)

    def idle() -> None:
        results.add(IDLE, rows, bench.idle())

    def ours() -> None:
        with bench.scratch("ours") as home:
            results.add(OURS, rows, bench.meltano(home, "FULL_TABLE", name))
            bench.check(OURS, name, home / "warehouse.duckdb", f"raw_{SCHEMA}.{name}")

    def copy() -> None:
        with bench.scratch("copy") as folder:
            results.add(COPY, rows, bench.copy(folder, name))
            bench.check(COPY, name, folder / "x.duckdb", "orders")

    def dlt() -> None:
        with bench.scratch("dlt") as folder:
            results.add(DLT, rows, bench.dlt(folder, name))
            bench.check(DLT, name, folder / "x.duckdb", f"raw.{name}")

    in_turns([idle, ours, copy, dlt], rounds)
    limits = LEAST_COPY_RATIO.get(rows, {})
    own, nothing = results.seconds(OURS, rows), results.seconds(IDLE, rows)
    for what, other, less, limit in (
        (f"{rows:,} rows less an idle run, against {COPY}", COPY, nothing, limits.get("less idle")),
        (f"{rows:,} rows, whole run, against {COPY}", COPY, None, limits.get("whole")),
        (f"{rows:,} rows, whole run, against {DLT}", DLT, None, LEAST_DLT_RATIO if limits else None),
    ):
        spread = ratios(results.seconds(other, rows), own, less)
        results.figures.append(Figure(what, spread, "x", at_least=limit))


def memory(bench: Bench, results: Results, few: int, many: int) -> None:
    """The largest process's peak with many rows against few."""
    for rows in (few, many):
        # What was measured already need not run again.
        if (OURS, rows) not in results.samples:
            with bench.scratch("ours") as home:
                results.add(OURS, rows, bench.meltano(home, "FULL_TABLE", table_name(rows)))
    low, high = (max(sample.peak_mb for sample in results.samples[OURS, rows]) for rows in (few, many))
    promised = (few, many) == Sizes().memory_rows
    what = f"peak memory of the largest process, {many:,} rows"
    results.figures += [
        Figure(
            f"{what} against {few:,}", Spread.of([high / low]), "x", at_most=MOST_MEMORY_RATIO if promised else None
        ),
        Figure(what, Spread.of([high]), "MB", at_most=MOST_MEMORY_MB if promised else None),
    ]


def nothing_new(bench: Bench, results: Results, method: str, rows: int, rounds: int) -> None:
    """A run that finds nothing new, beyond an idle one."""
    way, idle_way = f"{OURS}, {method}, nothing new", f"{IDLE} ({method})"
    name = table_name(rows)
    with bench.scratch("ours") as home:
        bench.prepare_log_based(name)
        bench.meltano(home, method, name)

        def idle() -> None:
            results.add(idle_way, 0, bench.idle())

        def ours() -> None:
            results.add(way, 0, bench.meltano(home, method, name))

        in_turns([idle, ours], rounds)
        bench.check(way, name, home / "warehouse.duckdb", f"raw_{SCHEMA}.{name}")
        bench.forget_log_based()
    promised = rows == Sizes().nothing_new_rows
    spread = beyond(results.seconds(way, 0), results.seconds(idle_way, 0))
    what = f"{method} with nothing new in {rows:,} rows, beyond an idle run"
    results.figures.append(Figure(what, spread, "s", at_most=MOST_NOTHING_NEW_SECONDS if promised else None))


def singer(bench: Bench, results: Results, sizes: Sizes) -> None:
    """MeltanoLabs' tap and target-duckdb on fewer rows, scaled by row to the largest table of ours."""
    rows, way = sizes.singer_rows, "MeltanoLabs tap-postgres, target-duckdb"
    name = table_name(rows)
    with bench.scratch("singer") as folder:
        results.add(way, rows, bench.singer(folder, name))
        counted = int(bench.loaded(folder / "x.duckdb", f"select count(*) from raw.{name}")[0])
    if counted != rows:
        results.notes.append(f"target-duckdb lost {rows - counted:,} of {rows:,} rows, without a word.")
    most = max(sizes.rows)
    scaled = [sample.seconds / rows * most for sample in results.samples[way, rows]]
    ours = min(results.seconds(OURS, most))
    what = f"{most:,} rows, whole run, against MeltanoLabs tap and target-duckdb (scaled from {rows:,})"
    results.figures.append(Figure(what, ratios(scaled, [ours]), "x"))


def csv(results: Results, sizes: Sizes, folder: Path) -> None:
    """A large CSV file through tap-files, against read_csv into a table (benchmarks/files.py)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    measured = files.measure(folder, rows=sizes.csv_rows, rounds=sizes.repetitions, small_files=sizes.small_files)
    shutil.rmtree(folder)
    seconds = {way: [sample.seconds for sample in samples] for way, samples in measured.samples.items()}
    limit = LEAST_CSV_RATIO if sizes.csv_rows == Sizes().csv_rows else None
    for way, at_least in (("tap-files", limit), ("tap-files | target-warehouse", None)):
        spread = ratios(seconds["read_csv, its own types"], seconds[way])
        what = f"CSV of {measured.megabytes:,.0f} MB, {way.replace(' | ', ' and ')}, against read_csv into a table"
        results.figures.append(Figure(what, spread, "x", at_least=at_least))
    results.tables.append(measured.table())


def report(results: Results, postgres: str) -> str:
    """The page that RESULTS.md holds."""
    listing = subprocess.run(
        [peers() / "python", "-c", _VERSIONS, *PEERS], check=True, capture_output=True, text=True
    ).stdout
    times = [time_row(way, 0 if way == IDLE else rows, samples) for (way, rows), samples in results.samples.items()]
    figures = [figure.row() for figure in results.figures]
    parts = [
        "# Extract and load",
        "PostgreSQL to DuckDB, a table of 12 mixed columns (`benchmarks/source.py`), by `scripts/bench el`: "
        + _EXPLAINED,
        machine(OURS_PACKAGES, {"PostgreSQL": postgres}, json.loads(listing)),
        "## Figures",
        table(FIGURE_HEADER, figures),
        *results.notes,
        "## Times",
        table(TIME_HEADER, times),
        "## CSV files",
        *results.tables,
    ]
    return "\n\n".join(parts) + "\n"


_VERSIONS = (
    "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
)
_EXPLAINED = (
    "all ways in one run, in turns. A ratio is our speed as a multiple of the other's, round by round; above 1 we are"
    " quicker. Each way's rows are compared with the source's by count and sums. Memory is that of the largest process."
)
