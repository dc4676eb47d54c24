"""The command line of the benchmarks: scripts/bench."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import el
from ingestion.errors import UserError

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    """Measure, print the tables, and write them where asked; exit status 1 when a promised figure is not reached."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("el", help="extract and load, PostgreSQL to DuckDB", description=el.__doc__)
    command.add_argument("--rows", type=int, action="append", help="rows of a table; repeatable (5000000, 20000000)")
    command.add_argument("--repetitions", type=int, help="rounds (3)")
    command.add_argument(
        "--quick", action="store_true", help="small sizes, about a minute; nothing is promised for them"
    )
    command.add_argument("--folder", type=Path, help="where the server lives; kept, with its tables (default: nowhere)")
    command.add_argument(
        "--results", type=Path, help=f"file for the tables (benchmarks/{RESULTS.name}; other sizes are only printed)"
    )
    arguments = parser.parse_args()
    sizes = el.QUICK if arguments.quick else el.Sizes()
    sizes = replace(
        sizes,
        rows=tuple(arguments.rows or sizes.rows),
        repetitions=arguments.repetitions or sizes.repetitions,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="warehouse-bench-") as temporary:
            Path(temporary).chmod(0o711)  # The server's own user passes through.
            page, missed = el.run(sizes, (arguments.folder or Path(temporary)).resolve())
    except UserError as error:
        sys.exit(f"scripts/bench: {error}")
    print(page)
    results = arguments.results or (RESULTS if sizes.rows == el.Sizes().rows else None)
    if results:
        results.write_text(page)
    if missed:
        sys.exit(f"scripts/bench: not reached: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
