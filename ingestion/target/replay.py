"""`warehouse-replay`: load quarantined records that pass now, after a rule, a schema or a column's type was mended."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
from singer_sdk.singerlib.json import deserialize_json

from ingestion import erased, settings
from ingestion.errors import UserError
from ingestion.lake import Lake, Stream, connect, first_line
from ingestion.taps.file_config import FileStreamConfig, load_streams
from ingestion.taps.file_rules import broken_sql, timestamp_sql
from ingestion.target.core import Loader, Options, Quarantined, Run
from ingestion.target.engines import open_warehouse
from ingestion.target.records import BadRecord, Row

Place = tuple[str | None, int | None, int | None]


def replay(run: Run, files: Mapping[Stream, FileStreamConfig]) -> dict[Stream, Counter[str]]:
    """Replay every stream's quarantine; returns the counts loaded, dropped and waiting of those that had any.

    Records are checked against the keys and schema of ops.streams and, for the streams of `files`, the rules there.
    What passes is loaded as a batch of kind `replay` and marked with its load id; the rest stays as it is, and so does
    what its file no longer has: the corrected record is in raw, or in quarantine by itself.
    """
    results: dict[Stream, Counter[str]] = {}
    for stream, (keys, schema) in run.engine.streams().items():
        manifest = run.lake.manifest(stream)
        superseded = {each for batch in manifest for each in batch.origin.get("superseded", ())}
        database_types = next((batch.origin["types"] for batch in reversed(manifest) if "types" in batch.origin), None)
        for chunk in run.engine.quarantined(stream):
            loader = run.loader(stream.id)
            loader.set_schema(schema, keys)
            results.setdefault(stream, Counter()).update(
                _replay_chunk(run, loader, chunk, files.get(stream), superseded, database_types)
            )
    return results


def _replay_chunk(
    run: Run,
    loader: Loader,
    chunk: Sequence[Quarantined],
    config: FileStreamConfig | None,
    superseded: Set[str],
    database_types: Mapping[str, str] | None,
) -> Counter[str]:
    """Replay some records; `database_types` are the types in the lake of a database's stream, None for others."""
    records = {
        each.quarantine_id: record
        for each in chunk
        if each.quarantine_id not in superseded and (record := _record(each.payload, loader)) is not None
    }
    if config:
        from_files = {each.quarantine_id for each in chunk if each.source_file is not None}
        plain_records = {each: record for each, record in records.items() if each not in from_files}
        records = plain_records | _passing(config, {each: records[each] for each in records if each in from_files})
    ids: list[str] = []
    plain: list[tuple[Row, Quarantined]] = []
    of_files: list[tuple[Row, Quarantined]] = []
    for each in chunk:
        if each.quarantine_id not in records:
            continue
        try:
            row = loader.row(records[each.quarantine_id])
        except BadRecord:
            continue  # It keeps the reason it has.
        ids.append(each.quarantine_id)
        if each.source_file is None:
            plain.append((row, each))
        else:
            of_files.append((row, each))
    if ids:
        # Versions of a database's key are in the order of their loads, so an old one must not come after a newer one.
        not_older = [row for row, _ in (plain if database_types is None else _not_older(run, loader, plain))]
        kept = loader.without_known_versions(not_older)
        if database_types is not None:
            # As its other rows: one with a hash would be a file's, and come before all of them (docs/contracts.md).
            kept = [replace(row, hash=None) for row in kept]
        rows = [*kept, *(row for row, _ in of_files)]
        places: list[Place] = []
        if of_files:
            places = [*((None, None, None) for _ in kept), *_places(run, loader.stream, of_files)]
        batch = loader.write(
            rows,
            [],
            batch_id=hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
            # A database's tap goes on with the types that the lake has now.
            origin={"kind": "replay", "replays": ids}
            | ({} if database_types is None else {"types": {**database_types, **loader.schema.types}}),
            dropped=len(plain) - len(kept),
            places=places,
        )
        loader.commit(batch, "replay")
        return Counter(loaded=len(rows), dropped=len(plain) - len(kept), waiting=len(chunk) - len(ids))
    return Counter(waiting=len(chunk))


def _not_older(run: Run, loader: Loader, rows: Sequence[tuple[Row, Quarantined]]) -> Sequence[tuple[Row, Quarantined]]:
    """Those of a database's rows whose key has nothing in raw that came later.

    What was replayed counts from where it came, not from where it was replayed: else a key's newer version, which
    passes after the older one, would be taken for the older. Of one load's rows in raw and in quarantine nothing says
    which came first; those in raw are taken for the later.
    """
    if not rows or not loader.schema.keys:
        return rows
    keys = {row.key for row, _ in rows}
    in_raw = run.engine.newest_loads(loader.stream, loader.schema.keys, keys)
    newest = {key: (load_id, sys.maxsize, "") for key, load_id in in_raw.items()}
    # What came before the first of these cannot be newer than any of them.
    for chunk in run.engine.replayed(loader.stream, min(each.place for _, each in rows)):
        for each in chunk:
            if (record := _record(each.payload, loader)) is None:
                continue
            try:
                # The key alone: the rest need not fit the schema that there is now.
                key = loader.schema.key(record)
            except BadRecord:
                continue
            if key in keys:
                newest[key] = max(newest.get(key, each.place), each.place)
    return [(row, each) for row, each in rows if row.key not in newest or newest[row.key] < each.place]


def _record(payload: str, loader: Loader) -> dict[str, Any] | None:
    """The payload's record; None for a line that was never one (`{"line": ...}`)."""
    try:
        record = deserialize_json(payload)
    except ValueError:
        return None
    if not isinstance(record, dict) or (set(record) == {"line"} and "line" not in loader.schema.properties):
        return None
    return record


def _passing(config: FileStreamConfig, records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of a file stream's records that its rules let pass, with `_sdc_deleted_at` from its soft-delete column."""
    records = {each: record for each, record in records.items() if _is_text(record)}
    if not records:
        return {}
    columns = list(dict.fromkeys(name for record in records.values() for name in record))
    ids = list(records)
    table = {name: pa.array([records[each].get(name) for each in ids], pa.string()) for name in columns}
    table["_sdc_line_number"] = pa.array(range(len(ids)), pa.int64())
    with connect(settings.load().lake / "_spill") as con:
        con.register("records", pa.table(table))
        query = broken_sql(config, columns, "records")
        broken = {row[-1] for row in con.execute(query).fetchall()} if query else set()
        deleted: dict[int, str | None] = {}
        if config.deleted_at in columns:
            moment = timestamp_sql(f'trim("{config.deleted_at}")')
            deleted = dict(con.execute(f"select _sdc_line_number, cast({moment} as varchar) from records").fetchall())
    return {each: records[each] | {"_sdc_deleted_at": deleted.get(n)} for n, each in enumerate(ids) if n not in broken}


def _is_text(record: Mapping[str, Any]) -> bool:
    return all(value is None or isinstance(value, str) for value in record.values())


def _places(run: Run, stream: Stream, of_files: Sequence[tuple[Row, Quarantined]]) -> list[Place]:
    """Where each row is from; it becomes the next occurrence of its content in its file."""
    highest = run.engine.occurrences(stream, {(each.source_file or "", row.hash) for row, each in of_files})
    places: list[Place] = []
    for row, each in of_files:
        identity = (each.source_file or "", row.hash)
        highest[identity] = highest.get(identity, 0) + 1
        places.append((each.source_file, each.line_number, highest[identity]))
    return places


def main() -> None:
    """Entry point of `warehouse-replay`."""
    parser = argparse.ArgumentParser(prog="warehouse-replay", description=(__doc__ or "").split(": ", 1)[1])
    parser.parse_args()
    try:
        home = settings.load()
        files = (
            {config.stream: config for config in load_streams(home.streams_file)} if home.streams_file.exists() else {}
        )
        _ = erased.load(home)
        engine = open_warehouse(home, memory_limit="1GB", threads=2)
        run = Run(engine, Lake(home.lake), Options(), time.time_ns() // 1_000_000, erased.load(home))
        try:
            results = replay(run, files)
        finally:
            run.close()
    except (UserError, OSError, duckdb.Error) as error:
        print(f"warehouse-replay: {first_line(error)}", file=sys.stderr)
        sys.exit(1)
    for stream, counts in results.items():
        print(
            f"{stream.id}: {counts['loaded']} loaded, {counts['dropped']} known already, {counts['waiting']} still wait"
        )
    if not results:
        print("nothing waits in quarantine")
