"""The command line of the benchmarks: scripts/bench."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import el, models, postgres_load, publish
from benchmarks.report import put
from ingestion.errors import UserError

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    """Measure, print the tables, and write them where asked; exit status 1 when a promised figure is not reached."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=main.__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    of_el = commands.add_parser("el", help="extract and load, PostgreSQL to DuckDB", description=el.__doc__)
    of_el.add_argument("--rows", type=int, action="append", help="rows of a table; repeatable (5000000, 20000000)")
    of_dbt = commands.add_parser("dbt", help="the models, on DuckDB", description=models.__doc__)
    of_dbt.add_argument("--lines", type=int, help="order lines of the long history (5000000)")
    of_dbt.add_argument("--memory-lines", type=int, help="order lines for the peak memory (20000000)")
    of_postgres = commands.add_parser("postgres", help="the target, into PostgreSQL", description=postgres_load.__doc__)
    of_postgres.add_argument("--rows", type=int, action="append", help="rows of a table; repeatable (5000000)")
    of_publish = commands.add_parser(
        "publish", help="readers during publishes, both engines", description=publish.__doc__
    )
    for command in (of_el, of_dbt, of_postgres, of_publish):
        command.add_argument("--repetitions", type=int, help="rounds (3)")
        command.add_argument(
            "--quick", action="store_true", help="small sizes, a few minutes at most; nothing is promised for them"
        )
        command.add_argument("--folder", type=Path, help="where its data live; kept for later runs (default: nowhere)")
        command.add_argument(
            "--results",
            type=Path,
            help=f"file for the tables (benchmarks/{RESULTS.name}, for the promised sizes)",
        )
    arguments = parser.parse_args()
    benchmark = {"el": el, "dbt": models, "postgres": postgres_load, "publish": publish}[arguments.command]
    sizes = benchmark.QUICK if arguments.quick else benchmark.Sizes()
    given = {name: getattr(arguments, name, None) for name in ("rows", "lines", "memory_lines", "repetitions")}
    sizes = replace(
        sizes, **{name: tuple(value) if name == "rows" else value for name, value in given.items() if value}
    )
    try:
        with tempfile.TemporaryDirectory(prefix="warehouse-bench-") as temporary:
            Path(temporary).chmod(0o711)  # The server's own user passes through.
            page, missed = benchmark.run(sizes, (arguments.folder or Path(temporary)).resolve())
    except UserError as error:
        sys.exit(f"scripts/bench: {error}")
    print(page)
    promised = replace(benchmark.Sizes(), repetitions=sizes.repetitions)
    results = arguments.results or (RESULTS if sizes == promised else None)
    if results:
        put(results, page)
    if missed:
        sys.exit(f"scripts/bench: not reached: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
