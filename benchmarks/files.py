"""A large CSV file through tap-files, against DuckDB's `read_csv` into a table, in turns; and what a small file costs.

    python -m benchmarks.files [--rows 9600000] [--rounds 3] [--small 200] [--folder DIR]

9,600,000 rows of 12 columns are 1 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import yaml

from benchmarks.measure import Sample, Spread, ratios, run
from benchmarks.project import environment

_PROGRAMS = Path(sys.executable).parent
_TYPES = {
    **dict.fromkeys(("order_line_id", "order_id", "product_id", "user_id", "quantity"), "integer"),
    **dict.fromkeys(("unit_price", "discount"), "decimal"),
    **dict.fromkeys(("created_at", "updated_at"), "timestamp"),
}
_LINES = """
    select i as order_line_id, i // 3 as order_id, hash(i) % 5000 as product_id, hash(i + 1) % 200000 as user_id,
        1 + hash(i * 3) % 9 as quantity, printf('%d.%02d', 1 + hash(i * 5) % 500, hash(i * 7) % 100) as unit_price,
        printf('%d.%02d', hash(i * 11) % 20, hash(i * 13) % 100) as discount,
        ['pending', 'completed', 'cancelled', 'Completed '][1 + cast(hash(i * 17) % 4 as integer)] as status,
        ['EUR', 'USD', 'GBP'][1 + cast(hash(i * 19) % 3 as integer)] as currency,
        strftime(timestamp '2024-01-01' + to_seconds(cast(i * 7 + hash(i) % 3600 as bigint)), $moment) as created_at,
        strftime(timestamp '2024-01-01' + to_seconds(cast(i * 7 + hash(i) % 360000 as bigint)), $moment) as updated_at,
        case when hash(i * 23) % 10 = 0 then 'gift, wrapped ' || (hash(i) % 100000)
            when hash(i * 23) % 1000 = 1 then 'said "ok" then left'
            when hash(i * 23) % 3 = 0 then 'Käufer möchte ' || (hash(i * 29) % 1000) end as note
    from range({first}, {last}) t(i)
"""


@dataclass
class Results:
    """The samples of each way, in the order of the rounds."""

    rows: int
    megabytes: float
    small_files: int
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def table(self) -> str:
        """The results in Markdown: seconds of wall time and processor, memory, and the tap's speed against each."""
        lines = [
            f"{self.rows:,} rows, {self.megabytes:,.0f} MB of CSV; median (lowest - highest)",
            "",
            "| what | s | processor s | peak MB | tap-files' speed against it | tap \\| target's |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, samples in self.samples.items():
            if name in ("small files", "nothing new"):
                continue
            cells = [
                _text([sample.seconds for sample in samples]),
                _text([sample.processor_seconds for sample in samples]),
                f"{max(sample.peak_mb for sample in samples):.0f}",
            ]
            for ours in ("tap-files", "tap-files | target-warehouse"):
                spread = ratios([s.seconds for s in samples], [s.seconds for s in self.samples[ours]])
                cells.append("" if ours == name else f"{spread.middle:.2f} ({spread.low:.2f} - {spread.high:.2f})")
            lines.append(f"| {name.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
        per_file = [
            (some.seconds - none.seconds) / self.small_files * 1000
            for some, none in zip(self.samples["small files"], self.samples["nothing new"], strict=True)
        ]
        lines += ["", f"A small file (50 lines) costs {_text(per_file)} ms."]
        return "\n".join(lines)


def _text(values: list[float]) -> str:
    spread = Spread.of(values)
    return f"{spread.middle:.1f} ({spread.low:.1f} - {spread.high:.1f})"


class _Shop:
    """A data folder with one stream of order lines, and a warehouse of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        stream = {
            "name": "shop-order_lines",
            "path": "*.csv",
            "format": "csv",
            "keys": ["order_line_id"],
            "not_empty": ["updated_at"],
            "columns": _TYPES,
        }
        (folder / "streams.yml").write_text(yaml.safe_dump({"streams": [stream]}))
        (folder / "tap.json").write_text(
            json.dumps({"streams_file": str(folder / "streams.yml"), "data_path": str(self.data)})
        )
        self.home = folder / "home"

    def forget(self) -> None:
        """Start with an empty warehouse."""
        shutil.rmtree(self.home, ignore_errors=True)

    def tap(self, *, target: bool = False) -> Sample:
        """Run the tap, alone or into the target."""
        words = f"{_PROGRAMS / 'tap-files'} --config {self.folder / 'tap.json'}"
        words += f" | {_PROGRAMS / 'target-warehouse'}" if target else " > /dev/null"
        return run(["bash", "-o", "pipefail", "-c", words], self.folder / "log", self._environment(), self.folder)

    def _environment(self) -> Mapping[str, str]:
        return environment(self.home, WAREHOUSE_DATA=str(self.data))


def _write_lines(file: Path, first: int, last: int) -> None:
    lines = _LINES.format(first=first, last=last).replace("$moment", "'%Y-%m-%dT%H:%M:%SZ'")
    with duckdb.connect() as con:
        con.execute(f"copy ({lines}) to '{file}' (header)").fetchall()


def _read_csv(folder: Path, file: Path, more: str) -> Sample:
    database = folder / "read.duckdb"
    for left in folder.glob("read.duckdb*"):
        left.unlink()
    query = f"create table orders as from read_csv('{file}'{more})"
    script = f"import duckdb; con = duckdb.connect({str(database)!r}); con.execute({query!r}); con.close()"
    return run([sys.executable, "-c", script], folder / "log", environment(folder), folder)


def measure(folder: Path, *, rows: int, rounds: int, small_files: int) -> Results:
    """Run every way `rounds` times, in turns, below `folder`; needs about ten times the file's size on disk."""
    large, small = _Shop(folder / "large"), _Shop(folder / "small")
    file = large.data / "lines.csv"
    _write_lines(file, 0, rows)
    for number in range(small_files):
        _write_lines(small.data / f"{number:05d}.csv", 50 * number, 50 * number + 50)
    results = Results(rows, file.stat().st_size / 1e6, small_files)

    def add(name: str, sample: Sample) -> None:
        results.samples.setdefault(name, []).append(sample)

    for _ in range(rounds):
        add("read_csv, its own types", _read_csv(folder, file, ""))
        large.forget()
        add("tap-files", large.tap())
        add("read_csv, all text as in raw", _read_csv(folder, file, ", all_varchar = true"))
        large.forget()
        add("tap-files | target-warehouse", large.tap(target=True))
        small.forget()
        add("small files", small.tap())
        add("nothing new", small.tap())
    return results


def main(arguments: list[str] | None = None) -> Results:
    """Measure, print the table and return the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=9_600_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=200, help="number of small files")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-files-", dir=options.folder) as folder:
        results = measure(Path(folder), rows=options.rows, rounds=options.rounds, small_files=options.small)
    print(results.table())
    return results


if __name__ == "__main__":
    main()
