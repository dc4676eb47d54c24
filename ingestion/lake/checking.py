"""Is the lake what its manifests and the ledger say it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ingestion.errors import UserError
from ingestion.lake.batch import METADATA_COLUMNS, Batch, Stream
from ingestion.lake.compaction import File, files_of, read
from ingestion.lake.definition import NEXT, read_definition
from ingestion.lake.row_groups import TEMPORARY
from ingestion.lake.rowhash import identifier, row_hash_sql
from ingestion.lake.writer import MANIFEST, Lake, first_line, read_batches

# What a user changes to have another warehouse than a DuckDB file that is another shop's.
ELSEWHERE = "WAREHOUSE_HOME to another folder"


@dataclass(frozen=True)
class Load:
    """One row of ops.loads, as far as the lake has it too."""

    batch_id: str
    load_id: int
    rows_extracted: int
    rows_loaded: int
    rows_quarantined: int
    rows_removed: int


# Of each stream, its loads by batch id.
Ledger = Mapping[Stream, Mapping[str, Load]]


# Runs a query in the warehouse, whatever its engine, and returns its rows.
Ask = Callable[[str], list[tuple[Any, ...]]]


def asking(con: duckdb.DuckDBPyConnection) -> Ask:
    """`Ask` for a warehouse that is a DuckDB file."""
    return lambda sql: con.execute(sql).fetchall()


def read_ledger(ask: Ask) -> Ledger:
    """The ledger of a warehouse; empty when it has none."""
    if not _has_table(ask, "loads"):
        return {}
    rows = ask(
        "select source, stream, batch_id, load_id, rows_extracted, rows_loaded, rows_quarantined,"
        " coalesce(cast(cast(origin as json) ->> 'rows_removed' as bigint), 0) from ops.loads order by load_id"
    )
    ledger: dict[Stream, dict[str, Load]] = {}
    for source, name, batch_id, *counts in rows:
        ledger.setdefault(Stream(source, name), {})[batch_id] = Load(batch_id, *counts)
    return ledger


def check_shop(ask: Ask, name: str, shop: str, elsewhere: str = ELSEWHERE) -> None:
    """Raise UserError when the warehouse, which messages call `name`, is another shop's."""
    if not _has_table(ask, "warehouse"):
        return
    owners = {row[0] for row in ask("select shop from ops.warehouse")} or {shop}
    if owners != {shop}:
        raise UserError(
            f"{name} holds the shop {', '.join(sorted(owners))}, not {shop}; set WAREHOUSE_SHOP to it, or {elsewhere}"
        )


def _has_table(ask: Ask, table: str) -> bool:
    """Whether ops has a table, and with it what else the target makes."""
    query = "select 1 from information_schema.tables where table_schema = 'ops' and table_name"
    return bool(ask(f"{query} = '{table}'"))


def waiting(batches: list[Batch], loads: Mapping[str, Load]) -> list[Batch]:
    """The batches that were closed and are not loaded yet: a killed run's, which the next one loads."""
    return [batch for batch in batches if batch.batch_id not in loads]


def check_stream(
    lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream, loads: Mapping[str, Load] | None
) -> Iterator[str]:
    """Every fault of the stream as one line; `loads` is None where there is no warehouse to compare with."""
    try:
        batches = lake.manifest(stream)
        read_definition(lake, stream)
    except UserError as error:
        yield str(error)
        return
    last = 0
    previous: str | None = None
    known: set[str | None] = {None}
    for batch in batches:
        if batch.origin.get("follows", previous) != previous or batch.origin.get("replaces") not in known:
            yield f"{stream.id}: the batch before load {batch.load_id} is not in the manifest; bring that file back"
        previous = batch.batch_id
        known.add(previous)
        if batch.load_id <= last:
            yield f"{stream.id}: load {batch.load_id} stands after load {last} in the manifest"
        if batch.rows_extracted != batch.rows_loaded + batch.rows_quarantined + batch.rows_dropped:
            yield f"{stream.id}: the counts of load {batch.load_id} do not add up in the manifest"
        last = max(last, batch.load_id)
        if batch.quarantine_file:
            yield from _check_quarantine(con, batch, batch.quarantine_file)
    for file in files_of(batches):
        yield from _check_file(con, file)
    if loads is not None:
        yield from _compare(stream, batches, loads)


def _check_file(con: duckdb.DuckDBPyConnection, file: File) -> Iterator[str]:
    """Read every value of a file of rows."""
    try:
        described = con.execute(f"describe from {read([file.path])}").fetchall() if file.path.exists() else []
        if not described:
            loads = ", ".join(str(batch.load_id) for batch in file.batches[:3])
            yield f"{file.path}: missing; it has {len(file.batches)} loads ({loads}); bring it back from a backup"
            return
        if (fault := _metadata_fault(file.path, file.batches)) is not None:
            yield fault
            return
        names = [row[0] for row in described]
        if missing := [name for name in METADATA_COLUMNS if name not in names]:
            yield f"{file.path}: has no column {', '.join(missing)}; bring it back from a backup"
            return
        data = [(name, kind) for name, kind, *_ in described if name not in METADATA_COLUMNS]
        # A file's own values are text, which hashes the same wherever it is computed.
        is_text = all(kind == "VARCHAR" for _, kind in data)
        wrong = (
            f"_sdc_source_file is not null and _sdc_row_hash <> {row_hash_sql([name for name, _ in data])}"
            if is_text
            else "false"
        )
        values = ", ".join(identifier(name) for name in names)
        rows = con.execute(
            f"select _sdc_load_id, count(*), count(*) filter ({wrong}), bit_xor(hash({values}))"
            f" from {read([file.path])} group by all"
        ).fetchall()
    except (OSError, duckdb.Error) as error:
        yield f"{file.path}: not readable: {first_line(error)}; bring it back from a backup"
        return
    found = {load_id: (count, broken) for load_id, count, broken, _ in rows}
    for batch in file.batches:
        count, broken = found.pop(batch.load_id, (0, 0))
        if count != batch.rows_loaded:
            yield (
                f"{file.path}: load {batch.load_id} has {count} rows, not the {batch.rows_loaded} of its manifest line;"
                " bring it back from a backup"
            )
        if broken:
            yield f"{file.path}: {broken} rows of load {batch.load_id} are not what their hash says; bring it back"
    for load_id in found:
        yield f"{file.path}: has rows of load {load_id}, which no manifest line places there"


def _check_quarantine(con: duckdb.DuckDBPyConnection, batch: Batch, path: Path) -> Iterator[str]:
    try:
        if not path.exists():
            yield f"{path}: missing; it has {batch.rows_quarantined} quarantined records; bring it back from a backup"
            return
        # hash() of every column reads every value.
        query = f"select count(*), bit_xor(hash(columns(*))) from {read([path])}"
        count = con.execute(query).fetchall()[0][0]
    except (OSError, duckdb.Error) as error:
        yield f"{path}: not readable: {first_line(error)}; bring it back from a backup"
        return
    if count != batch.rows_quarantined:
        yield (
            f"{path}: has {count} records, not the {batch.rows_quarantined} of its manifest line;"
            " bring it back from a backup"
        )


def _metadata_fault(path: Path, batches: list[Batch]) -> str | None:
    """What differs between a file's own description of its batches and the manifest's."""
    try:
        described = [json.loads(batch.to_json()) for batch in read_batches(path)]
    except (ValueError, KeyError, TypeError):
        described = []
    if described != [json.loads(batch.to_json()) for batch in batches]:
        return f"{path}: its own description of its batches is not the manifest's; bring file or manifest back"
    return None


def _compare(stream: Stream, batches: list[Batch], loads: Mapping[str, Load]) -> Iterator[str]:
    """Manifest against ledger."""
    known = {batch.batch_id: batch for batch in batches}
    for load in loads.values():
        batch = known.get(load.batch_id)
        if batch is None:
            yield (
                f"{stream.id}: the ledger has load {load.load_id}, the lake does not;"
                " bring the lake's files and manifest back from a backup"
            )
            continue
        # Retention moves rows from loaded to dropped after they were loaded.
        removed = batch.origin.get("rows_removed", 0) - load.rows_removed
        in_lake = (batch.load_id, batch.rows_extracted, batch.rows_loaded + removed, batch.rows_quarantined)
        if in_lake != (load.load_id, load.rows_extracted, load.rows_loaded, load.rows_quarantined):
            yield f"{stream.id}: load {load.load_id} has other counts in the ledger than in the manifest"


def orphans(lake: Lake, stream: Stream) -> list[Path]:
    """What a killed process left in the stream's folder: files that nothing names, or a torn manifest."""
    folder = lake.root / stream.folder
    batches = lake.manifest(stream)
    named = {batch.file for batch in batches} | {batch.quarantine_file for batch in batches}
    found = [
        path
        for path in folder.iterdir()
        if path.name.startswith(TEMPORARY) or path.suffix == NEXT or (path.suffix == ".parquet" and path not in named)
    ]
    manifest = folder / MANIFEST
    if manifest.exists() and not manifest.read_bytes().endswith(b"\n") and manifest.stat().st_size:
        found.append(manifest)
    return sorted(found)


def remove_orphans(lake: Lake, stream: Stream) -> None:
    """Remove what `orphans` finds; the torn end of a manifest is cut off."""
    lake.remove_orphans(stream)
    for path in (lake.root / stream.folder).glob(f"*{NEXT}"):
        path.unlink()


def leftovers(lake: Lake) -> list[Path]:
    """Working files of killed processes, beside the streams. Only right while no tap and no target is at work."""
    return sorted(path for folder in ("_spill", f"{TEMPORARY}*") for path in lake.root.glob(f"{folder}/*"))


def remove_leftovers(lake: Lake) -> None:
    """Remove what `leftovers` finds."""
    for path in leftovers(lake):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
