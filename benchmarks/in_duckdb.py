"""Run SQL in a DuckDB file, in a process of its own, so that its time and memory can be measured.

    python -m benchmarks.in_duckdb FILE < statements

Two threads, as target-warehouse has. The last statement's rows are printed as JSON.
"""

from __future__ import annotations

import json
import sys

import duckdb


def main(file: str) -> None:
    """Run the statements of standard input."""
    with duckdb.connect(file) as connection:
        connection.execute("set threads = 2")
        rows = connection.execute(sys.stdin.read()).fetchall()
    print(json.dumps([[None if value is None else str(value) for value in row] for row in rows]))


if __name__ == "__main__":
    main(sys.argv[1])
