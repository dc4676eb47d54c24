"""Take up one file as one batch: check its records, compare with the file's earlier versions, hand over to the lake."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.erased import Erased
from ingestion.lake import Batch, Lake, identifier, literal, row_hash_sql
from ingestion.taps.file_config import FileStreamConfig
from ingestion.taps.file_reading import LINE_NUMBER, RECORDS, REJECTS, ROW_HASH, FileFault, FileView
from ingestion.taps.file_rules import broken_sql, timestamp_sql
from ingestion.taps.file_sure import unsure_columns

_ROWS = "file_rows"
_QUARANTINE = "file_quarantine"
_COMPARED_AT_ONCE = 1 << 24
_REJECTS_AT_ONCE = 1_000


@dataclass(frozen=True)
class SourceFile:
    """A file as found: its name below the data folder, and what tells one version from another."""

    name: str
    sha256: str
    """Empty while it is not known."""
    size: int
    mtime_ns: int


@dataclass
class History:
    """What the lake has of one stream's files, read once and kept up by whoever adds batches."""

    by_file: dict[str, list[Batch]] = field(default_factory=dict)
    replays: list[Batch] = field(default_factory=list)
    """Batches of `warehouse-replay`, which may hold rows of any file."""

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> History:
        """The history that a manifest tells."""
        history = cls()
        for batch in batches:
            history.add(batch)
        return history

    def add(self, batch: Batch) -> None:
        """Append a newer batch."""
        if name := batch.origin.get("source_file"):
            self.by_file.setdefault(name, []).append(batch)
        elif batch.origin.get("kind") == "replay":
            self.replays.append(batch)

    def versions(self, name: str) -> list[Batch]:
        """The batches of one file, oldest first."""
        return self.by_file.get(name, [])

    def latest(self, name: str) -> Batch | None:
        """The newest batch of one file."""
        versions = self.versions(name)
        return versions[-1] if versions else None


def batch_id(config: FileStreamConfig, file: SourceFile, replaces: str | None) -> str:
    """The same for the same file content on top of the same earlier version, whenever and wherever it is read."""
    identity = json.dumps([config.stream.id, file.name, file.sha256, replaces])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def quarantine_broken(con: duckdb.DuckDBPyConnection, config: FileStreamConfig, columns: Sequence[str]) -> None:
    """Move the records that break a rule of the stream from `records` to `rejects`."""
    query = broken_sql(config, columns, RECORDS)
    if query is None:
        return
    before = _value(con, f"select count(*) from {REJECTS}")
    con.execute(f"insert into {REJECTS} {query}")
    if _value(con, f"select count(*) from {REJECTS}") > before:
        con.execute(f"delete from {RECORDS} where {LINE_NUMBER} in (select line_number from {REJECTS})")


def erase_records(
    con: duckdb.DuckDBPyConnection, config: FileStreamConfig, columns: Sequence[str], erased: Erased
) -> None:
    """Take what is personal of erased persons out of `records`, and give those the hash of what is left."""
    if known := erased.known_by(config.stream.id, columns):
        number, personal = known
        is_erased = erased.is_erased_sql(erased.streams[config.stream.id], number)
        nulls = ", ".join(f"{identifier(name)} = null" for name in personal)
        con.execute(f"update {RECORDS} set {nulls} where {is_erased}")
        con.execute(f"update {RECORDS} set {ROW_HASH} = {row_hash_sql(columns)} where {is_erased}")


def erase_rejects(con: duckdb.DuckDBPyConnection, config: FileStreamConfig, erased: Erased) -> None:
    """Take what is personal of erased persons out of `rejects`."""
    changed = []
    rejects = con.execute(f"select line_number, payload from {REJECTS}")
    while chunk := rejects.fetchmany(_REJECTS_AT_ONCE):
        for number, payload in chunk:
            if (left := erased.payload(config.stream.id, payload)) != payload:
                changed.append((number, left))
    if changed:
        numbers, payloads = zip(*changed, strict=True)
        con.register("erased_rejects", pa.table({"number": numbers, "left_over": payloads}))
        con.execute(f"update {REJECTS} set payload = left_over from erased_rejects where line_number = number")
        con.unregister("erased_rejects")


def write_batch(
    con: duckdb.DuckDBPyConnection,
    lake: Lake,
    config: FileStreamConfig,
    history: History,
    file: SourceFile,
    columns: Sequence[str],
    extracted_at: datetime,
) -> Batch:
    """Write `records` and `rejects` of `con` as the batch of this file, on top of its earlier versions in the lake.

    What the earlier versions hold already is counted as dropped; their rows that the file no longer has are withdrawn.
    """
    earlier = history.versions(file.name)
    replaces = earlier[-1].batch_id if earlier else None
    records, rejects = (_value(con, f"select count(*) from {name}") for name in (RECORDS, REJECTS))
    con.execute(f"create or replace temp view new_rows as {_versions_sql(config, columns, _occurrences_sql(con))}")
    if earlier:
        withdrawn = _compare_rows(con, [*earlier, *history.replays], file, extracted_at)
        superseded = _compare_rejects(con, earlier, history.replays, file)
    else:
        withdrawn, superseded = 0, []
        con.execute(f"create or replace temp view {_ROWS} as from new_rows")
        con.execute(f"create or replace temp view {_QUARANTINE} as {_quarantine_sql(REJECTS, file)}")
    con.execute(
        f"create or replace temp view stamped_rows as select *, {literal(file.name)} as _sdc_source_file from {_ROWS}"
    )
    written = _value(con, f"select (select count(*) from {_ROWS}) + (select count(*) from {_QUARANTINE})")
    return lake.write(
        con,
        config.stream,
        rows="stamped_rows",
        quarantine=_QUARANTINE,
        batch_id=batch_id(config, file, replaces),
        origin=_origin(file, replaces) | ({"superseded": superseded} if superseded else {}),
        extracted_at=extracted_at,
        rows_dropped=records + rejects + withdrawn - written,
    )


class _NotSimple(Exception):
    """The file cannot be written in one pass."""


def write_at_once(
    con: duckdb.DuckDBPyConnection,
    lake: Lake,
    config: FileStreamConfig,
    file: SourceFile,
    view: FileView,
    work: Path,
    extracted_at: datetime,
    sha256: Future[str],
    check_unchanged: Callable[[], None],
    erased: Erased | None = None,
) -> Batch | None:
    """Write a new file as its batch in one pass, from reader to lake, without ever holding it.

    `sha256` of the file is asked for, instead of `file`'s, when all is read, and before `check_unchanged` has its say.
    None, and nothing written, when it takes more: the view is not exact or cannot be read, or records are equal and
    have to be numbered.
    """
    # A small file costs what its query costs to plan, so there is one, and no view. No record with a NUL stays.
    given = [*view.columns, *([LINE_NUMBER] if view.is_numbered else []), ROW_HASH]
    names = [*map(identifier, given[:-1]), f"{row_hash_sql(view.columns, texts=True)} as {ROW_HASH}"]
    source = erased.sql(config.stream.id, f"({view.query})", view.columns) if erased else view.query
    rows = f"select {', '.join(names)} from ({source})"
    if config.deleted_at in view.columns:
        rows = _versions_sql(config, view.columns, rows)
        given += ["_sdc_deleted_at", "_sdc_operation"]
    try:
        with _Fingerprints(work / "fingerprints") as fingerprints, con.cursor() as checks:

            def through(chunks: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
                count = 0
                name, one = pa.scalar(file.name), pa.scalar(1, pa.int64())
                for chunk in chunks:
                    if view.is_exact.done() and not view.is_exact.result():
                        raise _NotSimple
                    if not view.is_numbered:
                        numbers = pa.array(np.arange(count, count + len(chunk), dtype=np.int64) + 1)
                        count += len(chunk)
                        chunk = chunk.append_column(LINE_NUMBER, numbers)
                    if unsure := unsure_columns(config, view.columns, chunk):
                        chunk = _without_broken(checks, config, view.columns, unsure, chunk)
                    fingerprints.add(chunk[ROW_HASH])
                    chunk = chunk.append_column("_sdc_source_file", pa.repeat(name, len(chunk)))
                    yield chunk.append_column("_sdc_occurrence", pa.repeat(one, len(chunk)))
                if not view.is_exact.result() or fingerprints.repeat():
                    raise _NotSimple
                if erased:
                    erase_rejects(checks, config, erased)
                sha256.result()
                check_unchanged()

            return lake.write(
                con,
                config.stream,
                rows=f"({rows})",
                columns=given,
                quarantine=f"({_quarantine_sql(REJECTS, file)})",
                batch_id=lambda: batch_id(config, replace(file, sha256=sha256.result()), None),
                origin=lambda: _origin(replace(file, sha256=sha256.result()), None),
                extracted_at=extracted_at,
                through=_reading(through),
            )
    except _NotSimple:
        return None


def _reading(
    through: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The same, but what stops the reading, or the check that runs beside it, makes the file not simple."""

    def guarded(chunks: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from through(chunks)
        except (duckdb.Error, OSError, EOFError) as error:
            raise _NotSimple from error

    return guarded


def _without_broken(
    checks: duckdb.DuckDBPyConnection,
    config: FileStreamConfig,
    columns: Sequence[str],
    unsure: Sequence[str],
    chunk: pa.RecordBatch,
) -> pa.RecordBatch:
    """Move the records that break a rule of an unsure column to `rejects`; return the others."""
    query = broken_sql(config, columns, "chunk", unsure)
    assert query
    checks.register("chunk", chunk)
    first, last = (chunk[LINE_NUMBER][at].as_py() for at in (0, -1))
    checks.execute(f"insert into {REJECTS} {query}").fetchall()
    found = checks.execute(f"select line_number from {REJECTS} where line_number between {first} and {last}").fetchall()
    checks.unregister("chunk")
    if not found:
        return chunk
    return chunk.filter(pc.invert(pc.is_in(chunk[LINE_NUMBER], pa.array([number for (number,) in found], pa.int64()))))


class _Fingerprints:
    """64 bits of each row's hash, kept on disk; equal rows have equal ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0

    def __enter__(self) -> _Fingerprints:
        self._file = self._path.open("w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink()

    def add(self, hashes: pa.StringArray) -> None:
        """Append those of some rows, whose hashes have 32 hexadecimal digits."""
        _, ends, text = hashes.buffers()
        start = np.frombuffer(ends, np.int32)[hashes.offset]
        # Each half of a half has 32 bits; the odd factor spreads them.
        halves = np.frombuffer(text, np.uint64, 4 * len(hashes), start).reshape(-1, 4)
        self._count += len(hashes)
        self._file.write((halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1]).tobytes())

    def repeat(self) -> bool:
        """Whether two are equal; in bounded memory, whatever their number."""
        parts = self._count // _COMPARED_AT_ONCE + 1
        for part in range(parts):
            self._file.seek(0)
            if parts == 1:
                values = np.fromfile(self._file, np.uint64)
            else:
                chosen = []
                while len(block := np.fromfile(self._file, np.uint64, _COMPARED_AT_ONCE // 16)):
                    chosen.append(block[block % parts == part])
                values = np.concatenate(chosen)
            values.sort()
            if bool((values[1:] == values[:-1]).any()):
                return True
        return False


def write_copy(
    con: duckdb.DuckDBPyConnection,
    lake: Lake,
    config: FileStreamConfig,
    file: SourceFile,
    original: str,
    extracted_at: datetime,
) -> Batch:
    """Write a batch without rows that remembers a new file as a copy of `original`, until its own content changes.

    Else its rows would come in once the original changes, beside those that the original still has.
    """
    return lake.write(
        con,
        config.stream,
        rows=f"(select cast(null as bigint) as {LINE_NUMBER} where false)",
        batch_id=batch_id(config, file, None),
        origin=_origin(file, None) | {"same_as": original},
        extracted_at=extracted_at,
    )


def _origin(file: SourceFile, replaces: str | None) -> dict[str, Any]:
    return {
        "source_file": file.name,
        "sha256": file.sha256,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "replaces": replaces,
    }


def drop_relations(con: duckdb.DuckDBPyConnection) -> None:
    """Free what one file took, for the next."""
    for kind in ("view", "table"):
        query = f"select {kind}_name from duckdb_{kind}s() where not internal"
        for (name,) in con.execute(query).fetchall():
            con.execute(f"drop {kind} {identifier(name)}")


def _value(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    assert row is not None
    return row[0]


def _occurrences_sql(con: duckdb.DuckDBPyConnection) -> str:
    """A query for `records` with `_sdc_occurrence`."""
    con.execute(
        f"create or replace temp table repeated as select {ROW_HASH} from {RECORDS} group by all having count(*) > 1"
    )
    if not _value(con, "select count(*) from repeated"):
        return f"select *, cast(1 as bigint) as _sdc_occurrence from {RECORDS}"
    # Repeated content is rare, and numbering everything would sort everything.
    con.execute(
        f"create or replace temp table numbered as select {LINE_NUMBER},"
        f" row_number() over (partition by {ROW_HASH} order by {LINE_NUMBER}) as occurrence"
        f" from {RECORDS} semi join repeated using ({ROW_HASH})"
    )
    return (
        f"select {RECORDS}.*, coalesce(occurrence, 1) as _sdc_occurrence"
        f" from {RECORDS} left join numbered using ({LINE_NUMBER})"
    )


def _versions_sql(config: FileStreamConfig, columns: Sequence[str], records: str) -> str:
    """A query for the records of a query as versions: upserts, or deletes by the stream's soft-delete column."""
    deleted_at = "cast(null as timestamptz)"
    if config.deleted_at and config.deleted_at in columns:
        deleted_at = timestamp_sql(f"trim({identifier(config.deleted_at)})")
    return (
        "select *, case when _sdc_deleted_at is null then 'upsert' else 'delete' end as _sdc_operation"
        f" from (select *, {deleted_at} as _sdc_deleted_at from ({records}))"
    )


def _compare_rows(
    con: duckdb.DuckDBPyConnection, batches: Sequence[Batch], file: SourceFile, extracted_at: datetime
) -> int:
    """Make the rows by multiset difference to what `batches` hold of the file; return how many are withdrawn."""
    lake_rows = f"(from {_parquet([batch.file for batch in batches])} where _sdc_source_file = {literal(file.name)})"
    con.execute(
        f"create or replace temp table held as select {ROW_HASH}, _sdc_occurrence, max(_sdc_load_id) as _sdc_load_id"
        f" from {lake_rows} group by {ROW_HASH}, _sdc_occurrence"
        " having arg_max(_sdc_operation, _sdc_load_id) <> 'withdraw'"
    )
    con.execute(
        f"create or replace temp table withdrawn as from held anti join new_rows using ({ROW_HASH}, _sdc_occurrence)"
    )
    data = "".join(f"{identifier(name)}, " for name in _data_columns(batches))
    con.execute(
        f"create or replace temp table compared as from new_rows anti join held using ({ROW_HASH}, _sdc_occurrence)"
        f" union all by name select {data}{LINE_NUMBER}, {ROW_HASH}, _sdc_occurrence,"
        f" cast({literal(extracted_at.isoformat())} as timestamptz) as _sdc_deleted_at, 'withdraw' as _sdc_operation"
        f" from {lake_rows} semi join withdrawn using ({ROW_HASH}, _sdc_occurrence, _sdc_load_id)"
    )
    con.execute(f"create or replace temp view {_ROWS} as from compared")
    return _value(con, "select count(*) from withdrawn")


def _data_columns(batches: Sequence[Batch]) -> list[str]:
    # To SQL names that differ only by case are one.
    return list({name.lower(): name for batch in batches for name in batch.columns}.values())


def _compare_rejects(
    con: duckdb.DuckDBPyConnection, earlier: Sequence[Batch], replays: Sequence[Batch], file: SourceFile
) -> list[str]:
    """Make the quarantine of what does not wait there already; return the ids of what waits and left the file.

    What was replayed waits no longer, nor does what an earlier version of the file superseded.
    """
    known = [batch.quarantine_file for batch in earlier if batch.quarantine_file]
    if not known:
        con.execute(f"create or replace temp view {_QUARANTINE} as {_quarantine_sql(REJECTS, file)}")
        return []
    done = [each for batch in earlier for each in batch.origin.get("superseded", ())]
    done += [each for batch in replays for each in batch.origin["replays"]]
    number = "row_number() over (partition by reason, column_name, payload order by line_number)"
    con.execute(
        f"create or replace temp table waiting as select *, {number} as number from {_parquet(known)}"
        " where quarantine_id not in (select unnest($done))",
        {"done": done or [""]},
    )
    con.execute(f"create or replace temp table rejected as select *, {number} as number from {REJECTS}")
    same = (
        "rejected.reason = waiting.reason and rejected.column_name is not distinct from waiting.column_name"
        " and rejected.payload = waiting.payload and rejected.number = waiting.number"
    )
    con.execute(
        "create or replace temp table new_rejects as select * exclude (number)"
        f" from rejected anti join waiting on {same}"
    )
    con.execute(f"create or replace temp view {_QUARANTINE} as {_quarantine_sql('new_rejects', file)}")
    gone = con.execute(f"select quarantine_id from waiting anti join rejected on {same} order by all").fetchall()
    return [row[0] for row in gone]


def _quarantine_sql(relation: str, file: SourceFile) -> str:
    return (
        f"select reason, column_name, payload, {literal(file.name)} as source_file, line_number"
        f" from {relation} order by line_number"
    )


def _parquet(files: Sequence[Path]) -> str:
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise FileFault(f"its earlier version {missing[0]} is not in the lake; bring the lake's files back")
    # Compaction leaves many batches in one file.
    names = ", ".join(literal(str(file)) for file in dict.fromkeys(files))
    return f"read_parquet([{names}], union_by_name = true)"
