"""What target-warehouse does, whatever the engine: buffer, check, write to the lake, load, count."""

from __future__ import annotations

import gzip
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from singer_sdk.exceptions import InvalidRecord, MissingKeyPropertiesError
from singer_sdk.singerlib.json import deserialize_json, serialize_json

from ingestion import settings
from ingestion.erased import Erased
from ingestion.errors import UserError
from ingestion.lake import Batch, Lake, Stream, connect, first_line, identifier, read_batches, row_hash
from ingestion.lake.column_types import json_value
from ingestion.lake.definition import write_definition
from ingestion.target.records import BadRecord, Limits, RecordSchema, Row

# A batch also closes when its text reaches this size, so that wide records stay in bounded memory.
BUFFER_CHARACTERS = 64_000_000
# Metadata of a record that the loader stamps; the lake writer stamps the rest.
STAMPED = {
    "_sdc_extracted_at": "TIMESTAMPTZ",
    "_sdc_deleted_at": "TIMESTAMPTZ",
    "_sdc_table_version": "BIGINT",
    "_sdc_sequence": "BIGINT",
    "_sdc_operation": "VARCHAR",
    "_sdc_row_hash": "VARCHAR",
    "_sdc_source_file": "VARCHAR",
    "_sdc_line_number": "BIGINT",
    "_sdc_occurrence": "BIGINT",
}

Version = tuple[str, str]  # (operation, row hash)


@dataclass(frozen=True)
class Options:
    """The target's policies; docs of each are in `TargetWarehouse.config_jsonschema`."""

    on_bad_record: str = "quarantine"
    on_type_change: str = "quarantine"
    batch_size_rows: int = 50_000
    max_quarantine_share: float = 0.05
    min_quarantined_rows: int = 10


@dataclass
class Counts:
    """Rows of one stream in one run; extracted = loaded + quarantined + dropped."""

    extracted: int = 0
    loaded: int = 0
    quarantined: int = 0
    dropped: int = 0

    def add(self, batch: Batch) -> None:
        """Count a committed batch."""
        self.extracted += batch.rows_extracted
        self.loaded += batch.rows_loaded
        self.quarantined += batch.rows_quarantined
        self.dropped += batch.rows_dropped


@dataclass(frozen=True)
class Sync:
    """One row of ops.syncs."""

    sync_id: str
    stream: Stream
    started_at: datetime
    finished_at: datetime
    counts: Counts
    status: str
    run_id: str | None = None


@dataclass(frozen=True)
class Quarantined:
    """One row of ops.quarantine."""

    quarantine_id: str
    load_id: int
    payload: str
    source_file: str | None
    line_number: int | None

    @property
    def place(self) -> tuple[int, int, str]:
        """When it came, as something that sorts: ids end with the record's number in its load, and 10 comes after 9."""
        return self.load_id, len(self.quarantine_id), self.quarantine_id


class Engine(Protocol):
    """A warehouse that holds raw and ops. Each method is one transaction; types are DuckDB's names."""

    limits: Limits

    def columns(self, stream: Stream) -> dict[str, str]:
        """Data columns of the raw table with their types; empty when there is none."""

    def batch_ids(self, stream: Stream) -> set[str]:
        """The batches of the stream that the ledger has."""

    def has_load(self, stream: Stream, load_id: int) -> bool:
        """Whether the ledger has this load of the stream."""

    def has_source_file(self, stream: Stream, source_file: str) -> bool:
        """Whether the ledger has a batch of this file."""

    def has_successor(self, stream: Stream, follows: str | None) -> bool:
        """Whether the ledger has a batch of a database stream that follows this one; None: that is its first."""

    def load(self, batch: Batch, kind: str, replayed: Sequence[str] = ()) -> bool:
        """Commit a batch: columns, rows, quarantine, ledger, and which quarantined records it replays.

        False when the ledger has it already. Raises UserError for a column whose type does not widen.
        """

    def current_versions(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], Version]:
        """The version of each given key that raw received last."""

    def newest_loads(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], int]:
        """The latest load of each given key that raw has, of those that replayed nothing."""

    def occurrences(self, stream: Stream, rows: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The highest `_sdc_occurrence` of each given (source file, row hash)."""

    def record_stream(self, stream: Stream, keys: Sequence[str], schema: Mapping[str, Any]) -> None:
        """Note the stream's current keys and schema in ops.streams."""

    def make_table(self, stream: Stream, columns: Mapping[str, str]) -> None:
        """Make the raw table if there is none, so that a stream without rows can be read too."""

    def streams(self) -> dict[Stream, tuple[list[str], dict[str, Any]]]:
        """Keys and schema of each stream of ops.streams."""

    def quarantined(self, stream: Stream) -> Iterator[list[Quarantined]]:
        """The records that wait in quarantine, in chunks."""

    def replayed(self, stream: Stream, after: tuple[int, int, str]) -> Iterator[list[Quarantined]]:
        """The records that came after this `Quarantined.place` and were replayed since, in chunks."""

    def record_syncs(self, syncs: Iterable[Sync]) -> None:
        """Append to ops.syncs."""

    def close(self) -> None:
        """Release the warehouse."""


@dataclass(frozen=True)
class Context:
    """What the loaders of a run share. `started_at_ms` is in milliseconds since 1970; what is `erased` stays away."""

    engine: Engine
    lake: Lake
    options: Options
    started_at_ms: int
    erased: Erased | None

    @cached_property
    def scratch(self) -> duckdb.DuckDBPyConnection:
        """Where batches of records are prepared; most runs bring batches of the lake, and need none."""
        return connect(self.lake.root / "_spill")

    def close(self) -> None:
        """Release the warehouse."""
        if "scratch" in vars(self):
            self.scratch.close()
        self.engine.close()


@dataclass
class Pending:
    """Records that wait for their batch to close."""

    rows: list[Row] = field(default_factory=list)
    bad: list[tuple[str, str | None, str]] = field(default_factory=list)
    characters: int = 0

    def __len__(self) -> int:
        return len(self.rows) + len(self.bad)


class Loader:
    """Loads one stream of a run."""

    def __init__(self, context: Context, stream: Stream) -> None:
        self.context = context
        self.stream = stream
        self.counts = Counts()
        self.started_at = datetime.now(UTC)
        self._pending = Pending()
        self._raw_schema: dict[str, Any] = {"properties": {}}
        self._keys: list[str] = []
        self._schema: RecordSchema | None = None
        self._known = context.engine.batch_ids(stream)
        self._loaded_files: set[str] = set()
        self._recover()

    def _recover(self) -> None:
        """Load batches that this target closed but did not commit before it was stopped."""
        for batch in self.context.lake.manifest(self.stream):
            if "kind" in batch.origin and batch.batch_id not in self._known:
                self.commit(batch, batch.origin["kind"])

    def set_schema(self, schema: dict[str, Any], keys: Sequence[str]) -> None:
        """Take up a SCHEMA message; what was received under the one before is loaded first."""
        self.flush()
        self._raw_schema, self._keys = schema, list(keys)
        self._schema = None
        if self.schema.conflicts and self.context.options.on_type_change == "fail":
            column, conflict = next(iter(self.schema.conflicts.items()))
            raise UserError(
                f"stream {self.stream.id}: column {column}: {conflict}; change the column's type in raw or the source, "
                "or set on_type_change to quarantine"
            )
        write_definition(self.context.lake, self.stream, self._keys, schema)
        self.context.engine.record_stream(self.stream, self._keys, schema)

    @property
    def schema(self) -> RecordSchema:
        """The stream's schema beside what raw has now."""
        if self._schema is None:
            columns = self.context.engine.columns(self.stream)
            self._schema = RecordSchema(self.stream, self._raw_schema, self._keys, columns, self.context.engine.limits)
        return self._schema

    @property
    def pending(self) -> int:
        """Records received and not loaded yet."""
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether the batch should close."""
        return self.pending >= self.context.options.batch_size_rows or self._pending.characters >= BUFFER_CHARACTERS

    def add(self, record: dict[str, Any]) -> None:
        """Take one record, which may carry `_sdc_` fields.

        A bad one goes to quarantine, or raises MissingKeyPropertiesError or InvalidRecord under `on_bad_record: fail`.
        """
        try:
            row = self.row(record)
        except BadRecord as error:
            if self.context.options.on_bad_record == "fail":
                where = f"stream {self.stream.id}, column {error.column}: {error.reason}"
                raise MissingKeyPropertiesError(where) if error.missing_key else InvalidRecord(where, record) from error
            payload = {
                name: value for name, value in record.items() if value is not None or not name.startswith("_sdc_")
            }
            text = serialize_json(payload)
            if self.context.erased:
                text = self.context.erased.payload(self.stream.id, text)
            self._pending.bad.append((error.reason, error.column, text))
            self._pending.characters += len(text)
            return
        self._pending.rows.append(row)
        self._pending.characters += sum(len(value) for value in row.values.values() if value)

    def row(self, record: dict[str, Any]) -> Row:
        """Check and convert a record. What is personal of an erased person is no more in its row. Raises BadRecord."""
        row = self.schema.row(record)
        erased = self.context.erased
        values = erased.record(self.stream.id, row.values) if erased else row.values
        return row if values is row.values else replace(row, values=dict(values), hash=row_hash(values))

    def flush(self, *, batch_id: str | None = None, kind: str = "record") -> None:
        """Load what is pending as one batch."""
        if not self.pending:
            return
        pending, self._pending = self._pending, Pending()
        batch_id = batch_id or uuid.uuid4().hex
        if batch_id in self._known:
            return
        rows = self.without_known_versions(pending.rows)
        batch = self.write(
            rows,
            pending.bad,
            batch_id=batch_id,
            dropped=len(pending.rows) - len(rows),
            origin={"kind": kind},
        )
        self.commit(batch, kind)

    def without_known_versions(self, rows: list[Row]) -> list[Row]:
        """Drop keyed rows that equal their key's current version: look-back reads and repeated runs add nothing."""
        if not self._keys:
            return rows
        current = self.context.engine.current_versions(self.stream, self._keys, {row.key for row in rows})
        kept = []
        for row in rows:
            version = (row.operation, row.hash)
            if current.get(row.key) != version:
                current[row.key] = version
                kept.append(row)
        return kept

    def write(
        self,
        rows: Sequence[Row],
        bad: Sequence[tuple[str, str | None, str]],
        *,
        batch_id: str,
        origin: dict[str, Any],
        dropped: int = 0,
        places: Sequence[tuple[str | None, int | None, int | None]] = (),
    ) -> Batch:
        """Close a batch of the lake.

        `places` are source file, line number and occurrence of each row, for replayed records of files.
        """
        con, lake = self.context.scratch, self.context.lake
        load_id = lake.next_load_id()
        columns = self.schema.types
        table = {name: pa.array([row.values.get(name) for row in rows], pa.string()) for name in columns}
        table |= {
            "_sdc_extracted_at": pa.array([row.extracted_at for row in rows], pa.string()),
            "_sdc_deleted_at": pa.array([row.deleted_at for row in rows], pa.string()),
            "_sdc_table_version": pa.array([row.version for row in rows], pa.int64()),
            # Rows of files are ordered by load alone.
            "_sdc_sequence": pa.array([load_id + (0 if places else n) for n in range(len(rows))], pa.int64()),
            "_sdc_operation": pa.array([row.operation for row in rows], pa.string()),
            "_sdc_row_hash": pa.array([row.hash for row in rows], pa.string()),
        }
        if places:
            files, lines, occurrences = zip(*places, strict=True)
            table |= {
                "_sdc_source_file": pa.array(files, pa.string()),
                "_sdc_line_number": pa.array(lines, pa.int64()),
                "_sdc_occurrence": pa.array(occurrences, pa.int64()),
            }
        reasons, names, payloads = zip(*bad, strict=True) if bad else ((), (), ())
        quarantine = {
            "reason": pa.array(reasons, pa.string()),
            "column_name": pa.array(names, pa.string()),
            "payload": pa.array(payloads, pa.string()),
            "source_file": pa.nulls(len(bad), pa.string()),
            "line_number": pa.nulls(len(bad), pa.int64()),
        }
        types = columns | STAMPED
        casts = ", ".join(f"cast({identifier(name)} as {types[name]}) as {identifier(name)}" for name in table)
        con.register("incoming_text", pa.table(table))
        con.register("incoming_bad", pa.table(quarantine))
        con.execute(f"create or replace temp view incoming as select {casts} from incoming_text")
        try:
            return lake.write(
                con,
                self.stream,
                rows="incoming",
                quarantine="incoming_bad",
                batch_id=batch_id,
                origin=origin,
                extracted_at=datetime.now(UTC),
                rows_dropped=dropped,
                load_id=load_id,
                sync_started_at=self.context.started_at_ms,
            )
        finally:
            con.unregister("incoming_text")
            con.unregister("incoming_bad")

    def commit(self, batch: Batch, kind: str) -> None:
        """Load a closed batch, unless the ledger has it."""
        if self.context.engine.load(batch, kind, batch.origin.get("replays", ())):
            self.counts.add(batch)
        self._known.add(batch.batch_id)
        self._schema = None  # Raw has new columns and types now.

    def load_file(self, url: str, file_format: str, compression: str | None) -> None:
        """Load a file of a BATCH message: a batch of the lake as it is, any other file record by record."""
        self.flush()
        if url in self._loaded_files:
            return  # A file of many batches is named once for each of them.
        path = _local_path(url, self.stream)
        if not path.exists() and path.stem.isdecimal() and self.context.engine.has_load(self.stream, int(path.stem)):
            return  # Raw has it; who needs the lake's copy will miss it.
        try:
            batches = read_batches(path) if file_format == "parquet" else []
        except (OSError, duckdb.Error) as error:
            reason = first_line(error)
            raise UserError(f"stream {self.stream.id}: batch file {path}: {reason}; run the tap again") from error
        if not batches:
            self._load_foreign(path, file_format, compression)
        for batch in batches:
            self._load_batch(batch, path)
        if batches:
            self._loaded_files.add(url)

    def _load_batch(self, batch: Batch, path: Path) -> None:
        """Load one batch of the lake, as it is, from the file that a BATCH message named."""
        if batch.stream != self.stream or batch.file.parent != (self.context.lake.root / self.stream.folder).resolve():
            raise UserError(
                f"stream {self.stream.id}: {path} is a batch of {batch.stream.id} in another lake or stream; "
                f"this warehouse's lake is {self.context.lake.root}"
            )
        if batch.batch_id in self._known:
            return
        source_file = batch.origin.get("source_file")
        is_first = source_file is not None and batch.origin.get("replaces") is None
        if is_first and self.context.engine.has_source_file(self.stream, source_file):
            raise UserError(
                f"stream {self.stream.id}: {source_file} comes as new, but raw has an earlier version of it: the lake"
                f" at {self.context.lake.root} lost it; bring the lake back, or start with a new WAREHOUSE_HOME"
            )
        if "follows" in batch.origin:
            self._check_chain(batch)
        self.commit(batch, batch.origin.get("kind", "batch"))

    def _check_chain(self, batch: Batch) -> None:
        """Refuse a batch of a database stream that does not come right after raw's last one."""
        follows = batch.origin["follows"]
        if follows is not None and follows not in self._known:
            raise UserError(
                f"stream {self.stream.id}: {batch.file.name} follows a batch that this warehouse does not have: lake"
                " and warehouse are not of one piece; run `warehouse-lake rebuild`, or start with a new WAREHOUSE_HOME"
            )
        if self.context.engine.has_successor(self.stream, follows):
            raise UserError(
                f"stream {self.stream.id}: {batch.file.name} comes where raw has another batch already: the lake at"
                f" {self.context.lake.root} was lost or replaced; bring it back, or start with a new WAREHOUSE_HOME"
            )

    def _load_foreign(self, path: Path, file_format: str, compression: str | None) -> None:
        """Send a foreign tap's batch file through the lake writer, in parts whose ids make a repeat harmless."""
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            part = 0
            for record in _foreign_records(path, file_format, compression):
                self.add(record)
                if self.is_full:
                    self._flush_part(path, content, part)
                    part += 1
            self._flush_part(path, content, part)
        except (OSError, EOFError, ValueError, pa.ArrowException) as error:
            reason = first_line(error)
            raise UserError(f"stream {self.stream.id}: batch file {path}: {reason}; run the tap again") from error

    def _flush_part(self, path: Path, content: str, part: int) -> None:
        identity = json.dumps([self.stream.id, str(path), content, part, self.context.options.batch_size_rows])
        self.flush(batch_id=hashlib.sha256(identity.encode()).hexdigest(), kind="batch")

    def sync(self, sync_id: str, status: str) -> Sync:
        """This stream's row of ops.syncs."""
        return Sync(sync_id, self.stream, self.started_at, datetime.now(UTC), self.counts, status, settings.run_id())


class Run:
    """One run of the target: a loader per stream, and the end of it."""

    def __init__(self, engine: Engine, lake: Lake, options: Options, started_at_ms: int, erased: Erased | None) -> None:
        self.engine = engine
        self.lake = lake
        self.options = options
        self.loaders: dict[Stream, Loader] = {}
        self._context = Context(engine, lake, options, started_at_ms, erased)
        self._sync_id = uuid.uuid4().hex

    def loader(self, stream_id: str) -> Loader:
        """The stream's loader, made when first asked for."""
        stream = Stream.parse(stream_id)
        if stream not in self.loaders:
            self.loaders[stream] = Loader(self._context, stream)
        return self.loaders[stream]

    @property
    def pending(self) -> int:
        """Records of all streams that are not loaded yet."""
        return sum(loader.pending for loader in self.loaders.values())

    def finish(self, unfinished: Iterable[str] = ()) -> None:
        """Note the syncs and close the run after everything is loaded; every stream has a table then.

        `unfinished` names the streams that the tap did not send in full: their syncs failed. Raises UserError when too
        much of a stream was quarantined.
        """
        for loader in self.loaders.values():
            self.engine.make_table(loader.stream, loader.schema.types)
        excessive = [loader for loader in self.loaders.values() if self._is_excessive(loader.counts)]
        half = {Stream.parse(each) for each in unfinished}
        self._end([*excessive, *(loader for stream, loader in self.loaders.items() if stream in half)])
        if excessive:
            parts = [f"{item.stream.id} {item.counts.quarantined} of {item.counts.extracted}" for item in excessive]
            raise UserError(
                f"too many rows quarantined: {', '.join(parts)} "
                f"(max_quarantine_share {self.options.max_quarantine_share:g}); "
                "the rest is loaded; see ops.quarantine, then correct the file or the source and run again, or mend the"
                " rule or the column's type and run warehouse-replay"
            )

    def fail(self) -> None:
        """Note failed syncs and close the run; what is pending is given up."""
        self._end(list(self.loaders.values()))

    def _end(self, failed: list[Loader]) -> None:
        try:
            self.engine.record_syncs(
                loader.sync(self._sync_id, "failed" if loader in failed else "ok") for loader in self.loaders.values()
            )
        finally:
            self.close()

    def close(self) -> None:
        """Release the warehouse."""
        self._context.close()

    def _is_excessive(self, counts: Counts) -> bool:
        allowed = max(self.options.max_quarantine_share * counts.extracted, self.options.min_quarantined_rows)
        return counts.quarantined > allowed


def _local_path(url: str, stream: Stream) -> Path:
    parsed = urlparse(url)
    if parsed.scheme not in {"", "file"}:
        raise UserError(f"stream {stream.id}: batch file {url}: only local files (file://) can be loaded")
    return Path(unquote(parsed.path)) if parsed.scheme else Path(url)


def _foreign_records(path: Path, file_format: str, compression: str | None) -> Iterator[dict[str, Any]]:
    if file_format == "parquet":
        with pq.ParquetFile(path) as file:
            for chunk in file.iter_batches(10_000):
                for record in chunk.to_pylist():
                    yield json_value(record)
    elif file_format == "jsonl":
        with gzip.open(path, "rt", encoding="utf-8") if compression == "gzip" else path.open(encoding="utf-8") as lines:
            for line in lines:
                yield deserialize_json(line)
    else:
        raise ValueError(f"format {file_format} is neither parquet nor jsonl")
