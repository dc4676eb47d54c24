"""Opening the shop, and moving it one day on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from ingestion.demo_shop import broken, files
from ingestion.demo_shop.postgres import TABLES, OrderDatabase, Period
from ingestion.demo_shop.streams import Streams
from ingestion.demo_shop.world import Config, World
from ingestion.errors import UserError

ORDERS_AT_ONCE = 100_000
"""No more orders than these are made at once, a single day's apart: this bounds the memory, whatever the history."""
FILES, POSTGRES = "files", "postgres"
"""What the shop's order database is: CSV files like all else, or a PostgreSQL."""


@dataclass(frozen=True)
class Memory:
    """All that the demo shop remembers: everything else follows from it. `reached` is the first day not yet written."""

    config: Config
    reached: int
    """Days written so far; 0 while the history is being written."""
    into: str = FILES
    """FILES or POSTGRES."""

    @staticmethod
    def path(home: Path) -> Path:
        """The memory's file below WAREHOUSE_HOME."""
        return home / "demo_shop" / "shop.json"

    @classmethod
    def load(cls, home: Path) -> Memory | None:
        """Read the memory; None when there is none."""
        path = cls.path(home)
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text("utf-8"))
            config = Config(stored["seed"], date.fromisoformat(stored["start"]), stored["days"], stored["lines"])
            return cls(config, int(stored["reached"]), stored.get("into", FILES))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not readable ({error}); start again with `demo-shop init --force`") from error

    def save(self, home: Path) -> None:
        """Write the memory in one step."""
        path = self.path(home)
        path.parent.mkdir(parents=True, exist_ok=True)
        config = self.config
        stored = {
            "seed": config.seed,
            "start": config.start.isoformat(),
            "days": config.days,
            "lines": config.lines,
            "reached": self.reached,
            "into": self.into,
        }
        beside = path.with_suffix(".writing")
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(stored, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def init(
    config: Config,
    home: Path,
    data: Path,
    *,
    into: str = FILES,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> Memory:
    """Write the history below `data`, one set of files per month, and remember it below `home`.

    With `into` POSTGRES, orders, order_items and refunds are tables there, and no files.
    An interrupted call with the same configuration can be repeated. Raises UserError when the shop exists already, or
    when `data` or the database holds what looks like the shop's, unless `force`: then it is removed first.
    """
    known = Memory.load(home)
    unfinished = Memory(config, 0, into)
    if known is not None and known != unfinished and not force:
        raise UserError(
            f"the demo shop exists already ({Memory.path(home)}): use `demo-shop advance` to move it a day on,"
            " or `demo-shop init --force` to start again"
        )
    existing = files.own_files(data)
    if existing and known is None and not force:
        raise UserError(
            f"{data} already holds {len(existing)} files such as {existing[0].relative_to(data)}, of a shop that"
            f" {home} does not remember: move them away, or use `demo-shop init --force` to replace them"
        )
    with open_database(into) as database:
        if database:
            database.create_tables()
            if known != unfinished and database.holds_rows():
                if not force:
                    raise UserError(
                        f"the shop's PostgreSQL already holds orders, of a shop that {home} does not remember: use"
                        " `demo-shop init --force` to replace them"
                    )
                database.empty_tables()
        unfinished.save(home)
        for path in existing:
            path.unlink()
        streams = _open_streams(config, config.days, data)
        done = 0
        for label, first, end in _months(config):
            _write(streams, data, database, label, first, end, is_history=True)
            done = end
            say(f"demo shop: {label} written ({done} of {config.days} days)")
    shutil.rmtree(data / files.SCRATCH, ignore_errors=True)
    memory = Memory(config, done, into)
    memory.save(home)
    return memory


def advance(home: Path, data: Path, *, into: str | None = None, say: Callable[[str], None] = print) -> Memory:
    """Write the next day below `data` and into the database; interrupted and repeated, it writes the same again.

    Raises UserError when there is no shop, or when `into` is not where it was opened.
    """
    memory = Memory.load(home)
    if memory is None or memory.reached == 0:
        raise UserError(f"{home} holds no demo shop yet: run `demo-shop init` first")
    if into not in (None, memory.into):
        raise UserError(f"the demo shop of {home} was opened with --into {memory.into}: it cannot go on in {into}")
    day = memory.reached
    label = (memory.config.start + timedelta(days=day)).isoformat()
    streams = _open_streams(memory.config, day + 1, data)
    with open_database(memory.into) as database:
        _write(streams, data, database, label, day, day + 1, is_history=False)
    shutil.rmtree(data / files.SCRATCH, ignore_errors=True)
    memory = replace(memory, reached=day + 1)
    memory.save(home)
    say(f"demo shop: {label} written")
    return memory


def open_database(into: str) -> AbstractContextManager[OrderDatabase | None]:
    """The order database of a shop that has one."""
    return OrderDatabase.open() if into == POSTGRES else nullcontext()


def _open_streams(config: Config, until: int, data: Path) -> Streams:
    shutil.rmtree(data / files.SCRATCH, ignore_errors=True)
    return Streams(World(config, until), until)


def _months(config: Config) -> Iterator[tuple[str, int, int]]:
    """(yyyy-mm, first day, end day) of each month of the history; the last one may be a part of a month."""
    first = 0
    while first < config.days:
        begin = config.start + timedelta(days=first)
        following = (begin.replace(day=1) + timedelta(days=32)).replace(day=1)
        end = min((following - config.start).days, config.days)
        yield f"{begin:%Y-%m}", first, end
        first = end


def _write(
    streams: Streams,
    data: Path,
    database: OrderDatabase | None,
    label: str,
    first: int,
    end: int,
    *,
    is_history: bool,
) -> None:
    period = files.Period(data, label, is_history=is_history)
    with database.period(is_history=is_history) if database else nullcontext() as tables:
        part = first
        while part < end:
            until = min(end, max(part + 1, streams.world.day_after_orders(part, ORDERS_AT_ONCE)))
            for stream in files.STREAMS:
                _write_part(period, tables, stream, streams, part, until)
            part = until
    period.publish()


def _write_part(
    period: files.Period, tables: Period | None, stream: files.FileStream, streams: Streams, first: int, end: int
) -> None:
    rows = getattr(streams, stream.entity)(first, end)
    if tables and stream.entity in TABLES:
        # Broken records are none of a database's: its columns have types and its keys are not null.
        tables.write(stream, rows)
    else:
        period.write(stream, rows, broken.records(streams.world, stream.entity, first, end))
