"""`warehouse-lake`: check the lake, rebuild raw and Singer state from it, and keep it small."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import duckdb

from ingestion import erased, settings
from ingestion.errors import UserError
from ingestion.lake import Lake, Stream, connect, first_line
from ingestion.lake.checking import (
    Ledger,
    check_stream,
    leftovers,
    orphans,
    remove_leftovers,
    remove_orphans,
    waiting,
)
from ingestion.lake.compaction import compact
from ingestion.lake.definition import streams
from ingestion.lake.erasure import find
from ingestion.lake.retention import retain
from ingestion.lake.state import ORIGINS, singer_state
from ingestion.target.engines import held_ledger
from ingestion.target.rebuild import rebuild

PROGRAM = "warehouse-lake"
# As JSON: for how many days superseded versions stay, by stream or pattern of streams.
RETENTION = "WAREHOUSE_RETENTION_DAYS"
# Larger files gain nothing more, and are slower to rewrite.
FILE_MEGABYTES = 128
_MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class _Quiet:
    """A lake that nobody writes meanwhile. `ledger` is None where there is no warehouse."""

    lake: Lake
    streams: list[Stream]
    ledger: Ledger | None

    def committed(self, stream: Stream) -> set[str]:
        """The batch ids of the stream that the ledger has."""
        return set((self.ledger or {}).get(stream, {}))


@contextlib.contextmanager
def _quiet(patterns: list[str]) -> Iterator[_Quiet]:
    """Keep taps and targets out; the streams are those that match one of the patterns, if there are any.

    Raises UserError while one is at work, and when the warehouse cannot be read or a pattern matches nothing.
    """
    home = settings.load()
    lake = Lake(home.lake)
    found = streams(lake)
    for pattern in patterns:
        if not fnmatch.filter((stream.id for stream in found), pattern):
            raise UserError(f"{pattern}: no such stream in {lake.root}; it has {_listed(found)}")
    with contextlib.ExitStack() as held:
        # Open as long as this takes: it keeps the target out, and lets readers be.
        ledger = held.enter_context(held_ledger(home))
        for stream in found:
            held.enter_context(lake.lock(stream))
        chosen = [stream for stream in found if not patterns or any(fnmatch.fnmatch(stream.id, p) for p in patterns)]
        yield _Quiet(lake, chosen, ledger)


def _listed(found: list[Stream]) -> str:
    return ", ".join(stream.id for stream in found) or "none"


def _check(arguments: argparse.Namespace) -> int:
    """Print every finding; 1 when there is one that stays."""
    count = 0
    with _quiet([]) as quiet:
        left = leftovers(quiet.lake)
        for stream in quiet.streams:
            with contextlib.suppress(UserError):  # The check says it.
                left += orphans(quiet.lake, stream)
        for path in left:
            print(f"{path}: left by a killed run, {'removed' if arguments.repair else 'the next run removes it'}")
        if arguments.repair:
            remove_leftovers(quiet.lake)
        else:
            count += len(left)
        with connect(quiet.lake.root / "_spill") as con:
            for stream in quiet.streams:
                loads = None if quiet.ledger is None else quiet.ledger.get(stream, {})
                for finding in (*check_stream(quiet.lake, con, stream, loads), *_of_erased(quiet.lake, con, stream)):
                    print(finding)
                    count += 1
                if arguments.repair:
                    with contextlib.suppress(UserError):
                        remove_orphans(quiet.lake, stream)
        for stream, loads in (quiet.ledger or {}).items():
            if stream not in quiet.streams:
                print(f"{stream.id}: the ledger has {len(loads)} loads, the lake nothing; bring the lake back")
                count += 1
        if not count:
            print(f"the lake is whole: {_summary(quiet)}")
    return 1 if count else 0


def _of_erased(lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream) -> Iterator[str]:
    """What the stream has of persons whom the suppression list has, as files from a backup may."""
    listed = erased.load(settings.load())
    if listed is None:
        return
    with contextlib.suppress(UserError):  # The check says what is missing.
        personal = find(lake, con, stream, listed)
        rows, records = sum(personal.rows.values()), sum(personal.quarantined.values())
        if rows or records:
            yield (
                f"{stream.id}: has {rows} rows and {records} quarantined records of erased persons;"
                f" `{PROGRAM} rebuild` erases them again"
            )


def _summary(quiet: _Quiet) -> str:
    manifests = {stream: quiet.lake.manifest(stream) for stream in quiet.streams}
    batches = [batch for manifest in manifests.values() for batch in manifest]
    text = f"{len(manifests)} streams, {len(batches)} loads, {sum(batch.rows_loaded for batch in batches)} rows"
    if quiet.ledger is None:
        return f"{text}; there is no warehouse to compare it with"
    late = sum(len(waiting(manifests[stream], quiet.ledger.get(stream, {}))) for stream in manifests)
    return f"{text}; {late} loads wait for the next run" if late else text


def _rebuild(arguments: argparse.Namespace) -> int:
    name = rebuild(settings.load(), memory_limit="1GB", threads=2, report=print)
    print(f"{name} is made anew; `dbt build` makes the models again")
    return 0


def _state(arguments: argparse.Namespace) -> int:
    with _quiet([]) as quiet:
        if quiet.ledger is None:
            raise UserError(f"there is no warehouse with a ledger; run `{PROGRAM} rebuild` first")
        print(json.dumps(singer_state(quiet.lake, quiet.ledger, arguments.tap)))
    return 0


def _compact(arguments: argparse.Namespace) -> int:
    size = arguments.megabytes * 1_000_000

    def one(quiet: _Quiet, con: duckdb.DuckDBPyConnection, stream: Stream) -> str | None:
        before, after = compact(quiet.lake, con, stream, quiet.committed(stream), file_bytes=size)
        return f"{before} files are now {after}" if before else None

    return _each(arguments.streams, one, "nothing to compact")


def _retain(arguments: argparse.Namespace) -> int:
    """Remove from each stream what was superseded for so many days as are given, or configured for it."""
    now = time.time_ns() // 1000
    periods = None if arguments.days is not None else _configured_periods()

    def one(quiet: _Quiet, con: duckdb.DuckDBPyConnection, stream: Stream) -> str | None:
        days = arguments.days if periods is None else _period(periods, stream)
        if days is None:
            return "no period is configured" if arguments.streams else None
        before = now - days * _MICROSECONDS_PER_DAY
        result = retain(quiet.lake, con, stream, quiet.committed(stream), before=before)
        if isinstance(result, str):
            return f"nothing removed: {result}"
        rows, files = result
        if rows:
            return f"{rows} rows removed from {files} files, superseded for {days} days"
        return None if periods is None else f"nothing was superseded for {days} days"

    if periods is None:
        return _each(arguments.streams, one, f"nothing was superseded for {arguments.days} days")
    status = _each(arguments.streams, one, f"{RETENTION} names no stream of the lake")
    found = [stream.id for stream in streams(Lake(settings.load().lake))]
    for pattern in periods if not arguments.streams else ():
        if not fnmatch.filter(found, pattern):
            print(f"{pattern}: no such stream; the lake has {', '.join(found) or 'none'}")
    return status


def _configured_periods() -> dict[str, int]:
    """Days by stream or pattern of streams, from the environment. Raises UserError for what is no such thing."""
    text = os.environ.get(RETENTION) or ""
    example = """'{"web-*": 400, "crm-users": 365}'"""
    if not text.strip():
        raise UserError(
            f"for how many days? Give --days, or set {RETENTION}, as in {example}; what meltano.yml says of it counts"
            " with `meltano invoke warehouse-lake retain`"
        )
    try:
        given = json.loads(text)
    except ValueError as error:
        raise UserError(f"{RETENTION} is not JSON ({error}); write it as in {example}") from error
    if not isinstance(given, dict):
        raise UserError(f"{RETENTION} is no JSON object; write it as in {example}")
    periods: dict[str, int] = {}
    for pattern, days in given.items():
        if not str(days).isdecimal():
            raise UserError(
                f"{RETENTION} has {json.dumps(days)} for {pattern}, which is no whole number of days; write it as in"
                f" {example}"
            )
        periods[pattern] = int(days)
    return periods


def _period(periods: Mapping[str, int], stream: Stream) -> int | None:
    """The days of the longest pattern that a stream matches, as its own name is; of equally long ones the fewest."""
    matching = [(-len(pattern), days) for pattern, days in periods.items() if fnmatch.fnmatchcase(stream.id, pattern)]
    return min(matching)[1] if matching else None


def _each(
    patterns: list[str], do: Callable[[_Quiet, duckdb.DuckDBPyConnection, Stream], str | None], nothing: str
) -> int:
    """Do something with each stream and print what it says."""
    said = False
    with _quiet(patterns) as quiet:
        if quiet.ledger is None:
            raise UserError(f"there is no warehouse with a ledger, which says what is loaded; run `{PROGRAM} rebuild`")
        for stream in quiet.streams:
            with connect(quiet.lake.root / "_spill") as con:
                if text := do(quiet, con, stream):
                    print(f"{stream.id}: {text}")
                    said = True
    if not said:
        print(nothing)
    return 0


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


_number.__name__ = "whole number"  # argparse says it.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=(__doc__ or "").split(": ", 1)[1],
        epilog="WAREHOUSE_HOME says which lake. All refuse while a run writes.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, run: Callable[[argparse.Namespace], int], description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description)
        command.set_defaults(run=run)
        return command

    streams_help = "streams such as shop-orders, or patterns such as 'shop-*'; default: all"
    check = add("check", _check, "Read every file and compare it with manifests and ledger; exit 1 on a finding.")
    check.add_argument("--repair", action="store_true", help="remove what killed runs left")
    add("rebuild", _rebuild, "Make the warehouse anew from the lake alone: raw, ledger, quarantine, streams.")
    state = add("state", _state, "Print a tap's Singer state, made anew from the ledger, for `meltano state set`.")
    state.add_argument("tap", choices=sorted(ORIGINS), help="the tap")
    small = add("compact", _compact, "Merge the small files of each stream into larger ones.")
    small.add_argument("streams", nargs="*", help=streams_help)
    small.add_argument(
        "--megabytes", type=_number, default=FILE_MEGABYTES, help="size of the larger files (%(default)s)"
    )
    old = add("retain", _retain, "Remove versions from the lake that were superseded long ago; raw stays as it is.")
    old.add_argument("streams", nargs="*", help=streams_help)
    old.add_argument(
        "--days", type=_number, help=f"for how many days they must be superseded; default: what {RETENTION} says"
    )
    return parser


def main() -> None:
    """Entry point of `warehouse-lake`."""
    arguments = _parser().parse_args()
    try:
        status = arguments.run(arguments)
    except (UserError, OSError, duckdb.Error) as error:
        print(f"{PROGRAM}: {first_line(error)}", file=sys.stderr)
        status = 1
    sys.exit(status)
