"""Erase what is personal of persons from the lake (docs/erasure.md).

Rows, their order, load ids, batch ids, counts and metadata stay; what is personal in them becomes null, in every
version, and with it the hash of the row. A stream's files of rows are written anew beside the old ones, then the
manifest is replaced at once, then the old ones go (as `compaction` does); a file of quarantined records is replaced
by one of its name. So after a crash the same again ends it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ingestion.erased import Erased, Persons
from ingestion.errors import UserError
from ingestion.lake.batch import METADATA_COLUMNS, Batch, Stream
from ingestion.lake.column_types import as_text, json_value
from ingestion.lake.compaction import File, files_of, new_file, read, replace_manifest, write_file
from ingestion.lake.rowhash import identifier, row_hash
from ingestion.lake.writer import Lake, copy_file

_PLACES = ", filename = '_file', file_row_number = true"
_FETCH_ROWS = 1_000
_HASH, _OCCURRENCE, _SOURCE_FILE = "_sdc_row_hash", "_sdc_occurrence", "_sdc_source_file"


@dataclass
class Found:
    """What a stream of the lake has of erased persons."""

    held: int = 0
    """Rows of the persons, those without anything personal among them."""
    rows: dict[Path, int] = field(default_factory=dict)
    """By file: rows in which something is personal."""
    quarantined: dict[Path, int] = field(default_factory=dict)
    """By file: quarantined records in which something is."""
    values: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """All that is personal of them, by column in lower case."""


@dataclass
class _Row:
    """One row of a person: where it is, and what it is to be."""

    place: int
    is_personal: bool
    is_withdrawn: bool
    load_id: int
    source_file: str | None
    hash: str | None
    occurrence: int | None
    new_hash: str | None
    new_occurrence: int | None


def find(lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream, erased: Erased) -> Found:
    """What the stream has of the list's persons. `con` should come from `connect`.

    Quarantined records count that have the person's number or one of the list's values. Raises UserError where the
    lake lacks a file.
    """
    with lake.lock(stream):
        found, _, _ = _find(lake, con, stream, erased)
    return found


def redact(lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream, erased: Erased) -> Found:
    """Erase what is personal of the list's persons from the stream; returns what was there.

    Only files that have something of them are written anew, whether their batches are loaded or not. Raises UserError
    where a file is not what its batches say.
    """
    with lake.lock(stream):
        lake.remove_orphans(stream)
        found, rows, records = _find(lake, con, stream, erased)
        batches = lake.manifest(stream)
        for batch in batches:
            if batch.quarantine_file in records:
                _rewrite_quarantine(con, batch, records[batch.quarantine_file])
        persons = erased.rows_of(stream.id)
        changed: dict[Path, Path] = {}
        for file in files_of(batches):
            if persons and file.path in found.rows:
                changed[file.path] = _rewrite(lake, con, file, persons, rows[file.path])
        if changed:
            replace_manifest(
                lake, stream, [replace(batch, file=changed.get(batch.file, batch.file)) for batch in batches]
            )
    return found


_Records = dict[Path, dict[int, tuple[str | None, str]]]


def _find(
    lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream, erased: Erased
) -> tuple[Found, Mapping[Path, Sequence[_Row]], _Records]:
    """What there is; of each file the persons' rows, and the quarantined records with what they are to be."""
    found = Found()
    batches = lake.manifest(stream)
    files = [file.path for file in files_of(batches) if any(batch.rows_loaded for batch in file.batches)]
    bad_files = [batch.quarantine_file for batch in batches if batch.quarantine_file]
    if missing := [path for path in (*files, *bad_files) if not path.exists()]:
        raise UserError(f"{missing[0]} is missing; `warehouse-lake check` names what the lake lacks")
    rows: dict[Path, list[_Row]] = {}
    persons = erased.rows_of(stream.id)
    if persons and files:
        erased.install(con)
        for path in _files_of_persons(con, files, erased, persons):
            rows[path] = _rows_of_persons(con, path, stream, erased, persons, found)
    _renumber([row for of_file in rows.values() for row in of_file])
    for path, of_file in rows.items():
        found.held += len(of_file)
        if count := sum(row.is_personal for row in of_file):
            found.rows[path] = count
    records = _quarantined(con, bad_files, stream, erased, found)
    found.quarantined = {path: len(of_file) for path, of_file in records.items()}
    return found, rows, records


def _files_of_persons(
    con: duckdb.DuckDBPyConnection, files: Iterable[Path], erased: Erased, persons: Persons
) -> list[Path]:
    """The files that have rows of erased persons."""
    source = read(files, _PLACES)
    number = persons.number_column(_names(con, source))
    if number is None:
        return []
    query = f"select distinct _file from {source} where {erased.is_erased_sql(persons, number)} order by _file"
    return [Path(path) for (path,) in con.execute(query).fetchall()]


def _rows_of_persons(
    con: duckdb.DuckDBPyConnection, path: Path, stream: Stream, erased: Erased, persons: Persons, found: Found
) -> list[_Row]:
    """The rows of erased persons in a file; adds what is personal in them to `found`."""
    described = con.execute(f"describe from {read([path])}").fetchall()
    types = {name: kind for name, kind, *_ in described if name not in METADATA_COLUMNS}
    number = persons.number_column(types)
    if number is None:
        return []
    metadata = ["_sdc_operation = 'withdraw'", "_sdc_load_id", _SOURCE_FILE, _HASH, _OCCURRENCE]
    names = ", ".join(map(identifier, types))
    result = con.execute(
        f"select file_row_number, {', '.join(metadata)}, {names} from {read([path], _PLACES)}"
        f" where {erased.is_erased_sql(persons, number)} order by file_row_number"
    )
    rows = []
    while chunk := result.fetchmany(_FETCH_ROWS):
        for place, is_withdrawn, load_id, source_file, old_hash, occurrence, *values in chunk:
            row = dict(zip(types, values, strict=True))
            personal = erased.personal_values(stream.id, row)
            for name, value in personal.items():
                found.values[name].add(value)
            new_hash = None
            if old_hash is not None:
                new_hash = old_hash if not personal else _hash(erased.record(stream.id, row), types)
            of_file = source_file, old_hash, occurrence, new_hash, occurrence
            rows.append(_Row(place, bool(personal), is_withdrawn, load_id, *of_file))
    return rows


def _hash(row: Mapping[str, Any], types: Mapping[str, str]) -> str:
    """`_sdc_row_hash` as the row's writer gave it: of the text that each value was, files' or records'."""
    texts: dict[str, str | None] = {}
    for name, value in row.items():
        try:
            texts[name] = as_text(types[name], json_value(value))
        except ValueError:
            texts[name] = str(value)
    return row_hash(texts)


def _renumber(rows: Sequence[_Row]) -> None:
    """Keep the rows of a file apart that differed by what is personal alone: they get occurrences of their own.

    Those that the file still has come first, as when it is read again.
    """
    same: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        if row.source_file is not None and row.new_hash is not None:
            same[row.source_file, row.new_hash].append(row)
    for of_content in same.values():
        latest: dict[tuple[str | None, int | None], _Row] = {}
        for row in sorted(of_content, key=lambda row: (row.load_id, row.place)):
            latest[row.hash, row.occurrence] = row
        taken = {occurrence for old_hash, occurrence in latest if old_hash == of_content[0].new_hash}
        free = (number for number in itertools.count(1) if number not in taken)
        numbers = {
            identity: next(free)
            for identity, row in sorted(latest.items(), key=lambda each: (each[1].is_withdrawn, each[0][1]))
            if row.hash != row.new_hash
        }
        for row in of_content:
            row.new_occurrence = numbers.get((row.hash, row.occurrence), row.occurrence)


def _names(con: duckdb.DuckDBPyConnection, source: str) -> list[str]:
    return [row[0] for row in con.execute(f"describe from {source}").fetchall()]


def _rewrite(lake: Lake, con: duckdb.DuckDBPyConnection, file: File, persons: Persons, rows: Sequence[_Row]) -> Path:
    """Write a file anew without what is personal of these rows; returns the new one."""
    target = new_file(lake, file.batches)
    rows = [row for row in rows if row.is_personal]
    con.register(
        "erased_rows",
        pa.table(
            {
                "erased_place": pa.array([row.place for row in rows], pa.int64()),
                "new_hash": pa.array([row.new_hash for row in rows], pa.string()),
                "new_occurrence": pa.array([row.new_occurrence for row in rows], pa.int64()),
            }
        ),
    )
    names = _names(con, read([file.path]))
    data = [name for name in names if name not in METADATA_COLUMNS]
    personal = set(persons.personal(data))

    def value(name: str) -> str:
        column = identifier(name)
        if name in personal:
            return f"case when erased_place is null then {column} end as {column}"
        new = {_HASH: "new_hash", _OCCURRENCE: "new_occurrence"}.get(name)
        return f"coalesce({new}, {column}) as {column}" if new else column

    values = ", ".join(value(name) for name in (*data, *METADATA_COLUMNS))
    query = (
        f"select {values} from {read([file.path], ', file_row_number = true')} as rows"
        " left join erased_rows on file_row_number = erased_place order by file_row_number"
    )
    try:
        write_file(con, query, target, [replace(batch, file=target) for batch in file.batches], file.path)
    finally:
        con.unregister("erased_rows")
    return target


def _quarantined(
    con: duckdb.DuckDBPyConnection, files: Sequence[Path], stream: Stream, erased: Erased, found: Found
) -> _Records:
    """By file and place: reason and payload of the records that are to be others; adds values to `found`."""
    records: _Records = defaultdict(dict)
    if not files:
        return records
    result = con.execute(f"select _file, file_row_number, reason, payload from {read(files, _PLACES)}")
    while chunk := result.fetchmany(_FETCH_ROWS):
        for file, place, reason, payload in chunk:
            for name, value in erased.personal_values_of(stream.id, payload).items():
                found.values[name].add(value)
            new = (erased.text(reason) if reason else reason, erased.payload(stream.id, payload))
            if new != (reason, payload):
                records[Path(file)][place] = new
    return records


def _rewrite_quarantine(
    con: duckdb.DuckDBPyConnection, batch: Batch, records: Mapping[int, tuple[str | None, str]]
) -> None:
    """Replace a file of quarantined records by one in which these are others."""
    file = batch.quarantine_file
    assert file
    reasons, payloads = zip(*records.values(), strict=True)
    con.register(
        "erased_records",
        pa.table(
            {
                "erased_place": pa.array(list(records), pa.int64()),
                "new_reason": pa.array(reasons, pa.string()),
                "new_payload": pa.array(payloads, pa.string()),
            }
        ),
    )
    given = {
        "reason": "case when erased_place is null then reason else new_reason end as reason",
        "payload": "case when erased_place is null then payload else new_payload end as payload",
    }
    values = ", ".join(given.get(name, identifier(name)) for name in _names(con, read([file])))
    query = (
        f"select {values} from {read([file], ', file_row_number = true')} left join erased_records"
        " on file_row_number = erased_place order by file_row_number"
    )
    try:
        copy_file(con, query, file, batch, instead_of=file)
    finally:
        con.unregister("erased_records")
