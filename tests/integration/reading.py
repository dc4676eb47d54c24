"""A reader of the published marts that asks without pause, as a process of its own.

    python -m tests.integration.reading duckdb published/warehouse.duckdb
    python -m tests.integration.reading postgres DSN

It reads as long as its input is open, and prints a line of JSON for each query: `[version, prices, rows, started,
seconds]`, or `{"error": ...}`. `prices` are those of all marts that the query joins; of one version they are the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg2

QUERY = """
select
    info.version,
    min(orders.amount),
    max(orders.amount),
    min(customers.price),
    max(customers.price),
    count(*)
from fact_orders as orders
inner join dim_customers as customers on orders.order_line_id % 20 = customers.user_id
cross join meta.publish_info as info
group by info.version
"""


@dataclass(frozen=True)
class Answer:
    """What one query found, or the error that it met."""

    version: int
    prices: frozenset[int]
    rows: int
    started: float  # of the system's monotonic clock
    seconds: float
    error: str | None = None


@contextmanager
def readers(number: int, engine: str, place: str | Path) -> Iterator[list[list[Answer]]]:
    """So many readers at work; afterwards the list holds the answers of each, in their order."""
    found: list[list[Answer]] = []
    command = [sys.executable, "-m", "tests.integration.reading", engine, str(place)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    outputs: list[list[str]] = [[] for _ in processes]
    threads = []
    for process, output in zip(processes, outputs, strict=True):
        assert process.stdout is not None
        output.append(process.stdout.readline())  # It is at work.
        threads.append(threading.Thread(target=output.extend, args=[process.stdout]))
        threads[-1].start()
    try:
        yield found
    finally:
        for process, thread in zip(processes, threads, strict=True):
            assert process.stdin is not None
            process.stdin.close()
            thread.join()
            process.wait()
    found.extend([_answer(json.loads(line)) for line in output] for output in outputs)


def _answer(said: Any) -> Answer:
    if isinstance(said, dict):
        return Answer(0, frozenset(), 0, 0.0, 0.0, said["error"])
    version, prices, *others = said
    return Answer(version, frozenset(prices), *others)


def _asking(engine: str, place: str) -> Callable[[], Sequence[tuple[Any, ...]]]:
    if engine == "postgres":
        connection = psycopg2.connect(place)
        connection.autocommit = True

        def ask() -> Sequence[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                cursor.execute(QUERY)
                return cursor.fetchall()

        return ask

    def ask_anew() -> Sequence[tuple[Any, ...]]:
        with duckdb.connect(place, read_only=True) as connection:
            return connection.execute(QUERY).fetchall()

    return ask_anew


def main() -> None:
    """Read until the input ends."""
    engine, place = sys.argv[1:]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    ask = _asking(engine, place)
    while not ended.is_set():
        started = time.perf_counter()
        try:
            rows = ask()
            if len(rows) != 1:
                raise ValueError(f"{len(rows)} versions at once")
            version, *prices, number = rows[0]
            seconds = time.perf_counter() - started
            line: Any = [version, [int(price) for price in prices], number, started, seconds]
        except Exception as error:  # Whatever a reader meets is what the test is about.
            line = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
