"""Make raw and ops anew from the lake alone (`warehouse-lake rebuild`)."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb

from ingestion import erased
from ingestion.erased import Erased
from ingestion.errors import UserError
from ingestion.lake import Lake, Stream, connect, first_line, literal
from ingestion.lake.checking import Ledger, asking, check_shop, read_ledger
from ingestion.lake.column_types import TEXT
from ingestion.lake.definition import Definition, read_definition, streams
from ingestion.lake.erasure import redact
from ingestion.lake.row_groups import sync
from ingestion.settings import POSTGRES, Settings
from ingestion.target.duckdb import DuckDBEngine, open_existing, opening_failed
from ingestion.target.records import RecordSchema
from ingestion.target.sql_engine import SqlEngine


class _TakingUpText(SqlEngine):
    """Takes up a column that was altered by hand between two loads, as raw did then: as text."""

    def _widened(self, old: str, new: str) -> str | None:
        return super()._widened(old, new) or TEXT


class _RebuildingEngine(_TakingUpText, DuckDBEngine):
    """A new file."""


#: What a new file's connection calls itself while the old one is asked what of it is to be kept.
REBUILT = "rebuilt"


def rebuild(
    home: Settings,
    *,
    memory_limit: str,
    threads: int,
    report: Callable[[str], None],
    lake: Lake | None = None,
    keep: Callable[[duckdb.DuckDBPyConnection], None] | None = None,
) -> str:
    """Make raw and ops anew from the lake; returns what messages call the warehouse.

    The old ones stay as they are until all is there, and no run can begin meanwhile. Whom the suppression list has is
    taken out of the lake before, where files of a backup have them again. `lake` is the settings', for who
    holds its locks already. `keep` may copy more than the lake has from the old DuckDB file, to which it gets a
    connection, into the new one, there called REBUILT, before that takes its place; PostgreSQL keeps what is beside raw
    and the ledger anyway. Raises UserError when the warehouse is in use, is another shop's or has loads that the lake
    lacks, and when the lake is being written, is empty or is damaged.
    """
    lake = lake or Lake(home.lake)
    found = streams(lake)
    if not found:
        raise UserError(f"{lake.root} has no batches to rebuild raw from; check WAREHOUSE_HOME, or bring the lake back")
    with contextlib.ExitStack() as locks:
        for stream in found:
            locks.enter_context(lake.lock(stream))
        listed = erased.load(home)
        if home.engine == POSTGRES:
            return _rebuild_database(lake, found, listed, home, memory_limit, threads, report)
        _rebuild_file(lake, found, listed, home.warehouse_file, home.shop, memory_limit, threads, report, keep)
    return str(home.warehouse_file)


def _erase_again(lake: Lake, found: list[Stream], listed: Erased | None, report: Callable[[str], None]) -> None:
    """Take out of the lake whom the suppression list has: files that came back from a backup may have them."""
    if listed is None:
        return
    for stream in found:
        with connect(lake.root / "_spill") as con:
            personal = redact(lake, con, stream, listed)
        rows, records = sum(personal.rows.values()), sum(personal.quarantined.values())
        if rows or records:
            report(f"{stream.id}: {rows} rows and {records} quarantined records of erased persons were erased again")


def _rebuild_database(
    lake: Lake,
    found: list[Stream],
    listed: Erased | None,
    home: Settings,
    memory_limit: str,
    threads: int,
    report: Callable[[str], None],
) -> str:
    """Empty the tables and fill them again, in one transaction: views and grants stay, readers wait for its end."""
    from ingestion.target.postgres import PostgresEngine

    class Rebuilding(_TakingUpText, PostgresEngine):
        pass

    spill = home.lake / "_spill" / "postgres"
    with contextlib.closing(Rebuilding(home.shop, spill, memory_limit=memory_limit, threads=threads)) as engine:
        _refuse_loss(engine.ledger(), lake, engine.name, engine.elsewhere)
        _erase_again(lake, found, listed, report)
        with engine.emptied():
            _fill(engine, lake, found, report)
        return engine.name


def _rebuild_file(
    lake: Lake,
    found: list[Stream],
    listed: Erased | None,
    warehouse_file: Path,
    shop: str,
    memory_limit: str,
    threads: int,
    report: Callable[[str], None],
    keep: Callable[[duckdb.DuckDBPyConnection], None] | None,
) -> None:
    """Build a new warehouse file, then put it in place of the old one, which nobody can open meanwhile."""
    new = warehouse_file.with_name(f"{warehouse_file.stem}.rebuilt.duckdb")
    old = _open_old(warehouse_file, lake, shop)
    try:
        _remove(new)
        _erase_again(lake, found, listed, report)
        _build(lake, found, new, shop, memory_limit, threads, report)
        if old and keep:
            old.execute(f"attach {literal(str(new))} as {REBUILT}")
            keep(old)
            old.execute(f"detach {REBUILT}")
        sync(new)
        if old:
            old.close()  # Takes its write-ahead log in.
        _put_in_place(new, warehouse_file)
    finally:
        if old:
            old.close()
        _remove(new)


def _build(
    lake: Lake,
    found: list[Stream],
    new: Path,
    shop: str,
    memory_limit: str,
    threads: int,
    report: Callable[[str], None],
) -> None:
    engine = _RebuildingEngine(new, shop, memory_limit=memory_limit, threads=threads)
    try:
        _fill(engine, lake, found, report)
    finally:
        engine.close()


def _fill(engine: SqlEngine, lake: Lake, found: list[Stream], report: Callable[[str], None]) -> None:
    """Load all batches of the lake."""
    for stream in found:
        batches = lake.manifest(stream)
        for batch in batches:
            try:
                engine.load(batch, batch.origin.get("kind", "batch"), batch.origin.get("replays", ()))
            except duckdb.IOException as error:
                raise UserError(
                    f"stream {stream.id}: {first_line(error)}; `warehouse-lake check` names what the lake lacks"
                ) from error
        definition = read_definition(lake, stream)
        if definition:
            _define(engine, stream, definition)
        rows = sum(batch.rows_loaded for batch in batches)
        note = "" if definition else "; its keys and schema come with its next run"
        report(f"{stream.id}: {len(batches)} loads, {rows} rows{note}")


def _define(engine: SqlEngine, stream: Stream, definition: Definition) -> None:
    """What a run does with a SCHEMA message, so that a stream without rows has its table too."""
    engine.record_stream(stream, definition.keys, definition.schema, definition.updated_at)
    types = RecordSchema(stream, definition.schema, definition.keys, engine.columns(stream), engine.limits).types
    engine.make_table(stream, types)


def _open_old(warehouse_file: Path, lake: Lake, shop: str) -> duckdb.DuckDBPyConnection | None:
    """Hold the warehouse that is to be replaced; None when there is none that can be read.

    Raises UserError when it is in use, another shop's, or has what a new one would not have.
    """
    if not warehouse_file.exists():
        return None
    old = None
    try:
        old = open_existing(warehouse_file, read_only=False)
        check_shop(asking(old), str(warehouse_file), shop)
        _refuse_loss(read_ledger(asking(old)), lake, str(warehouse_file), "move the warehouse file away")
    except duckdb.Error:
        # Damaged, which is what rebuilding is for.
        if old:
            old.close()
        return None
    except UserError:
        if old:
            old.close()
        raise
    return old


def _put_in_place(new: Path, warehouse_file: Path) -> None:
    """Replace the warehouse at once, while nobody else has it open."""
    with contextlib.ExitStack() as held:
        if warehouse_file.exists():
            file = held.enter_context(warehouse_file.open("rb+"))
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # As DuckDB locks it.
            except OSError as error:
                raise UserError(opening_failed(warehouse_file, "Could not set lock")) from error
        # A damaged warehouse may have left one, which the new file must not take in.
        _log(warehouse_file).unlink(missing_ok=True)
        if warehouse_file.exists():
            shutil.copymode(warehouse_file, new)
        new.replace(warehouse_file)
        sync(warehouse_file.parent)


def _refuse_loss(ledger: Ledger, lake: Lake, name: str, otherwise: str) -> None:
    """Raises UserError when the old warehouse knows loads that a new one would not have."""
    lost = []
    for stream, loads in ledger.items():
        known = {batch.batch_id for batch in lake.manifest(stream)}
        missing = [load.load_id for load in loads.values() if load.batch_id not in known]
        if missing:
            lost.append(f"{stream.id} {len(missing)} (first {missing[0]})")
    if lost:
        raise UserError(
            f"{name} has loads that the lake lacks: {', '.join(lost)}; bring the lake back,"
            f" or {otherwise} and rebuild without them"
        )


def _log(file: Path) -> Path:
    return file.with_name(f"{file.name}.wal")


def _remove(file: Path) -> None:
    for path in (file, _log(file)):
        path.unlink(missing_ok=True)
