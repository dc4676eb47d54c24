"""What a search for erased persons is: all tables, all files of the lake, and the bytes of every file."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from tests.pipeline import ROOT, Pipeline

# Ends the process when a step of the erasure has ended.
_CRASH = """
import os, sys
from orchestration.erasure import __main__ as command, work
step = sys.argv.pop(1)
done = getattr(work.Erasure, step)
def end(self, *arguments):
    done(self, *arguments)
    os._exit(9)
setattr(work.Erasure, step, end)
sys.exit(command.main())
"""


@dataclass(frozen=True)
class User:
    """A user of the demo shop, and all that its files ever said of the user."""

    id: object
    values: frozenset[str]
    """Names, e-mails and phones, in lower case, phones also as digits."""


def users(source: Path) -> dict[object, User]:
    """All users in the files of the shop; what has no number that is one is of nobody."""
    said: dict[int, set[str]] = {}
    for file in sorted(source.glob("users/*.jsonl*")):
        content = file.read_bytes()
        for line in (gzip.decompress(content) if file.suffix == ".gz" else content).decode().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            texts = {str(row.get(name) or "").strip().lower() for name in ("name", "email", "phone")}
            texts.add(re.sub("[^0-9]", "", str(row.get("phone") or "")))
            said.setdefault(row["user_id"], set()).update(text for text in texts if len(text) > 4)
    return {user: User(user, frozenset(values)) for user, values in said.items()}


def chosen(everybody: dict[object, User], count: int, seed: int) -> list[User]:
    """Some users at random, of whom something is known."""
    known = sorted(user for user, each in everybody.items() if isinstance(user, int) and len(each.values) > 2)
    return [everybody[user] for user in random.Random(seed).sample(known, count)]


def own_values(erased: Collection[User], everybody: dict[object, User]) -> set[str]:
    """What tells these users from all others: a name that somebody else has too stays with that one."""
    ids = {user.id for user in erased}
    others = "\n".join(value for each in everybody.values() if each.id not in ids for value in each.values)
    return {value for user in erased for value in user.values if value not in others}


def erase(pipeline: Pipeline, *arguments: str, crash_after: str | None = None) -> subprocess.CompletedProcess[str]:
    """`scripts/erase-user`; with `crash_after`, it ends without a word when that step has."""
    start = ["-c", _CRASH, crash_after] if crash_after else ["-m", "orchestration.erasure"]
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=ROOT, env=pipeline.env, capture_output=True, text=True, check=False
    )


def erase_and_kill(pipeline: Pipeline, seconds: float, *arguments: str) -> None:
    """The same, ended by `kill -9` after so many seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestration.erasure", *arguments],
        cwd=ROOT,
        env=pipeline.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()


def found_in_files(home: Path, values: Iterable[str]) -> list[str]:
    """Where any of the values is in the warehouse's home: in a table, a Parquet file, or the bytes of a file."""
    values = sorted(values)
    found = []
    for file in sorted(home.rglob("*")):
        if not file.is_file():
            continue
        content = file.read_bytes()
        texts = (content.lower(), content.decode(errors="replace").lower().encode())
        found += [f"{file}: {value}" for value in values if any(value.encode() in text for text in texts)]
        if file.suffix == ".duckdb":
            with duckdb.connect(str(file), read_only=True) as connection:
                found += [f"{file}: {each}" for each in found_in_tables(_tables(connection), connection.sql, values)]
        if file.suffix == ".parquet":
            found += [f"{file}: {each}" for each in found_in_tables([f"'{file}'"], duckdb.sql, values)]
    return found


def found_in_tables(tables: Iterable[str], ask: Callable, values: Collection[str]) -> list[str]:
    """Which of the tables have any of the values, in whatever column."""
    found = []
    for table in tables:
        rows = ask(f"select lower(cast(rows as varchar)) from (from {table}) as rows").fetchall()
        text = "\n".join(row for (row,) in rows)
        found += [f"{table}: {value}" for value in values if value in text]
    return found


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute(
        "select schema_name, table_name from duckdb_tables() where database_name = current_database()"
    ).fetchall()
    return [f'"{schema}"."{name}"' for schema, name in rows]
