"""The one writer of Parquet batches."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa

from ingestion import lifeline
from ingestion.errors import UserError
from ingestion.lake.batch import METADATA_COLUMNS, METADATA_KEY, Batch, Stream
from ingestion.lake.row_groups import ROW_GROUP_ROWS, TEMPORARY, RowGroups, append_line, put
from ingestion.lake.rowhash import identifier, literal, row_hash_sql

MANIFEST = "_manifest.jsonl"
LOCK = "_lock"
QUARANTINE_COLUMNS = {
    "reason": "VARCHAR",
    "column_name": "VARCHAR",
    "payload": "VARCHAR",
    "source_file": "VARCHAR",
    "line_number": "BIGINT",
}
# Less than a row group, which a few wide rows fill too.
_READ_ROWS = ROW_GROUP_ROWS // 4


def connect(temp_directory: Path, *, memory_limit: str = "1GB", threads: int = 2) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB for preparing batches: bounded memory, spilling into `temp_directory`, times in UTC."""
    con = duckdb.connect()
    con.execute(f"set memory_limit = {literal(memory_limit)}")
    con.execute(f"set threads = {threads}")
    con.execute(f"set temp_directory = {literal(str(temp_directory))}")
    con.execute("set TimeZone = 'UTC'")
    con.execute("set enable_progress_bar = false")  # A tap's stdout is for messages.
    return con


@dataclass(frozen=True)
class Workplace:
    """A DuckDB and a folder for preparing one stream's batches."""

    con: duckdb.DuckDBPyConnection
    folder: Path

    @classmethod
    @contextlib.contextmanager
    def at(cls, folder: Path, memory_limit: str) -> Iterator[Self]:
        """The folder is made and, at the end, removed; first what a killed run left in it."""
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        try:
            with connect(folder, memory_limit=memory_limit) as con:
                yield cls(con, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot make this folder ({error.strerror}); set WAREHOUSE_HOME to a folder that can be written"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line; DuckDB repeats some of its messages as JSON, which nobody needs."""
    lines = str(error).partition('{"exception_type"')[0].strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


class Lake:
    """The Parquet batches below `root` and their manifests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._locked: set[Stream] = set()
        self._clean: set[Stream] = set()

    def next_load_id(self) -> int:
        """A load id that was never given before: microseconds since 1970, or one more than the last.

        The counter is on disk and locked while it moves, so processes share it and a clock set back does no harm.
        """
        make_folder(self.root)
        descriptor = os.open(self.root / "_load_id", os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "r+") as counter:
            fcntl.flock(counter, fcntl.LOCK_EX)
            last = int(counter.read().strip() or 0)
            load_id = max(time.time_ns() // 1000, last + 1)
            counter.seek(0)
            counter.write(f"{load_id:020d}\n")
            counter.flush()
            os.fsync(counter.fileno())
        return load_id

    @contextlib.contextmanager
    def lock(self, stream: Stream) -> Iterator[None]:
        """Be the stream's only writer; may nest within one Lake. Raises UserError while another is."""
        if stream in self._locked:
            yield
            return
        folder = self.root / stream.folder
        make_folder(folder)
        with (folder / LOCK).open("a") as file:
            try:
                lifeline.once_free(
                    lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
                    lambda error: isinstance(error, BlockingIOError),
                )
            except BlockingIOError as error:
                raise UserError(
                    f"stream {stream.id}: another process is writing its batches; wait until that run has ended"
                ) from error
            self._locked.add(stream)
            try:
                yield
            finally:
                self._locked.discard(stream)

    def manifest(self, stream: Stream) -> list[Batch]:
        """The stream's closed batches, oldest first. A last line torn by a crash does not count."""
        path = self.root / stream.folder / MANIFEST
        if not path.exists():
            return []
        batches = []
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                batches.append(Batch.from_json(line.decode(), self.root))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}: line {number} is not a batch; restore the file, it is the index of {stream.folder}"
                ) from error
        return batches

    def remove_orphans(self, stream: Stream) -> None:
        """Remove what a crashed writer left: temporary files, files without manifest line, a torn manifest line."""
        folder = self.root / stream.folder
        with self.lock(stream):
            self._repair_manifest(folder)
            known = {LOCK, MANIFEST}
            for batch in self.manifest(stream):
                known.add(batch.file.name)
                if batch.quarantine_file:
                    known.add(batch.quarantine_file.name)
            for path in folder.iterdir():
                if path.name not in known and (path.suffix == ".parquet" or path.name.startswith(TEMPORARY)):
                    path.unlink()

    def write(
        self,
        con: duckdb.DuckDBPyConnection,
        stream: Stream,
        *,
        rows: str,
        columns: Sequence[str] | None = None,
        quarantine: str | None = None,
        batch_id: str | Callable[[], str],
        origin: dict[str, Any] | Callable[[], dict[str, Any]],
        extracted_at: datetime,
        rows_dropped: int = 0,
        load_id: int | None = None,
        sync_started_at: int | None = None,
        through: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]] | None = None,
    ) -> Batch:
        """Close one batch: stamp the metadata, write the files, append to the manifest.

        `rows` is a relation of `con`, or a query in parentheses, with the data columns and those `_sdc_` columns that
        the caller stamps itself (nulls in `_sdc_extracted_at`, `_sdc_sequence` and `_sdc_operation` are stamped too).
        It is read once, in its order, and never as a whole in memory. `columns` are its columns, for a caller who knows
        them: finding out is as dear as a small batch. `quarantine` is likewise a relation with reason, column_name,
        payload, source_file, line_number; it is read when all rows are written. `sync_started_at` is in milliseconds
        since 1970. `con` should come from `connect`. `batch_id` and `origin` may be functions, which are asked when all
        rows are written.

        `through` may change the chunks of rows on their way to the file: take rows out, append `_sdc_` columns, which
        are stamped where it does not. What it raises ends the write.

        Raises UserError when the stream is being written elsewhere or the disk refuses, and duckdb.Error when `rows`
        cannot be read.
        """
        received_at = datetime.now(UTC)
        folder = self.root / stream.folder
        try:
            with self.lock(stream):
                if stream not in self._clean:
                    self.remove_orphans(stream)
                self._repair_manifest(folder)
                load_id = load_id or self.next_load_id()
                given = list(columns or _columns(con, rows))
                data = [name for name in given if name not in METADATA_COLUMNS]
                file = folder / f"{load_id}.parquet"
                # The hash of a timestamptz is that of its text. A result that is not fetched blocks the next query.
                con.execute("set TimeZone = 'UTC'").fetchall()
                stamps = _Stamps(load_id, extracted_at, received_at, sync_started_at)
                query = stamps.query(rows, given)
                with RowGroups(file) as groups, contextlib.closing(_read(con, query, groups)) as chunks:
                    for chunk in through(chunks) if through else chunks:
                        groups.add(stamps.complete(chunk, groups.schema))
                    rows_quarantined = _count(con, quarantine) if quarantine else 0
                    batch = Batch(
                        batch_id=batch_id() if callable(batch_id) else batch_id,
                        load_id=load_id,
                        stream=stream,
                        file=file,
                        quarantine_file=file.with_suffix(".quarantine.parquet") if rows_quarantined else None,
                        rows_extracted=groups.rows + rows_quarantined + rows_dropped,
                        rows_loaded=groups.rows,
                        rows_quarantined=rows_quarantined,
                        rows_dropped=rows_dropped,
                        columns=data,
                        origin=origin() if callable(origin) else origin,
                    )
                    if batch.quarantine_file:
                        copy_file(con, _quarantine_query(quarantine, load_id), batch.quarantine_file, batch)
                    groups.close({METADATA_KEY: batch.to_json()})
                append_line(folder / MANIFEST, batch.to_json())
                self._clean.add(stream)
        except (OSError, duckdb.IOException) as error:
            self._clean.discard(stream)
            raise UserError(
                f"stream {stream.id}: cannot write its batch below {self.root}: {first_line(error)};"
                " free space or mend the disk, then run again"
            ) from error
        return batch

    @staticmethod
    def _repair_manifest(folder: Path) -> None:
        """Cut off a line that a crash left without its end."""
        path = folder / MANIFEST
        if not path.exists() or _ends_with_newline(path):
            return
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        with path.open("r+b") as file:
            file.truncate(complete)
            os.fsync(file.fileno())


def _columns(con: duckdb.DuckDBPyConnection, relation: str) -> list[str]:
    return [row[0] for row in con.execute(f"describe select * from {relation}").fetchall()]


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    return con.execute(f"select count(*) from {relation}").fetchall()[0][0]


def _quarantine_query(quarantine: str | None, load_id: int) -> str:
    columns = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in QUARANTINE_COLUMNS.items())
    # The id is fixed here, so that a warehouse rebuilt from the lake has the same one.
    number = "row_number() over ()"
    return f"select '{load_id}-' || {number} as quarantine_id, {columns} from {quarantine}"


@functools.cache
def metadata_fields() -> list[pa.Field]:
    """The columns of every batch after its data columns."""
    types = {"TIMESTAMPTZ": pa.timestamp("us", "UTC"), "BIGINT": pa.int64(), "VARCHAR": pa.string()}
    return [pa.field(name, types[kind]) for name, kind in METADATA_COLUMNS.items()]


class _Stamps:
    """The writer's own values of the metadata columns, the same in all rows of a batch, and the hash of each row."""

    def __init__(
        self, load_id: int, extracted_at: datetime, received_at: datetime, sync_started_at: int | None
    ) -> None:
        self._values: dict[str, datetime | int | str | None] = {
            "_sdc_extracted_at": extracted_at,
            "_sdc_received_at": received_at,
            "_sdc_batched_at": datetime.now(UTC),
            "_sdc_sequence": load_id,
            "_sdc_sync_started_at": sync_started_at,
            "_sdc_load_id": load_id,
            "_sdc_operation": "upsert",
        }
        self._arrays: dict[str, pa.Array] = {}

    def query(self, rows: str, given: Sequence[str]) -> str:
        """A query for the data columns, and for those metadata columns that are not the same in all rows."""
        # What only the writer knows is never the caller's.
        own = {"_sdc_received_at", "_sdc_batched_at", "_sdc_load_id"}
        data = [name for name in given if name not in METADATA_COLUMNS]
        columns = [identifier(name) for name in data]
        for name, kind in METADATA_COLUMNS.items():
            if name in given and name not in own:
                value = self._values.get(name)
                own_value = f"cast({literal(str(value))} as {kind})"
                columns.append(
                    f"cast({name if value is None else f'coalesce({name}, {own_value})'} as {kind}) as {name}"
                )
            elif name == "_sdc_row_hash":
                # A hash is stamped for all rows or for none: its expression is the most of what there is to plan.
                columns.append(f"{row_hash_sql(data)} as {name}")
        return f"select {', '.join(columns)} from {rows}"

    def complete(self, chunk: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """The chunk with all columns of the schema."""
        has = set(chunk.schema.names)
        columns = [chunk[field.name] if field.name in has else self._array(field, len(chunk)) for field in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _array(self, field: pa.Field, rows: int) -> pa.Array:
        array = self._arrays.get(field.name)
        if array is None or len(array) < rows:
            value = self._values.get(field.name)
            array = pa.nulls(rows, field.type) if value is None else pa.repeat(pa.scalar(value, field.type), rows)
            self._arrays[field.name] = array
        return array.slice(0, rows)


def _read(con: duckdb.DuckDBPyConnection, query: str, groups: RowGroups) -> Iterator[pa.RecordBatch]:
    """The chunks of a query's rows, to whose columns `groups` adds the metadata. Raises duckdb.Error."""
    reader = con.sql(query).to_arrow_reader(_READ_ROWS)
    data = [field for field in reader.schema if field.name not in METADATA_COLUMNS]
    groups.schema = pa.schema([*data, *metadata_fields()])
    try:
        yield from reader
    except (OSError, pa.ArrowException) as error:
        # Arrow makes an OSError of whatever stops the query.
        kind = duckdb.IOException if str(error).startswith("IO Error") else duckdb.Error
        raise kind(str(error)) from error
    finally:
        reader.close()


def copy_file(
    con: duckdb.DuckDBPyConnection, query: str, file: Path, batch: Batch, instead_of: Path | None = None
) -> None:
    """Write a query's rows to a file that appears complete or not at all, as readable as one that it stands in for."""
    temporary = file.with_name(f"{TEMPORARY}{file.name}")
    con.execute(
        f"copy ({query}) to {literal(str(temporary))} (format parquet, compression zstd,"
        f" row_group_size {ROW_GROUP_ROWS}, kv_metadata {{{literal(METADATA_KEY)}: {literal(batch.to_json())}}})"
    )
    put(temporary, file, instead_of)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_batches(file: Path) -> list[Batch]:
    """The batches that a Parquet file of a lake says it holds; none for a Parquet file from elsewhere.

    Raises OSError or duckdb.Error when the file is missing or no Parquet file.
    """
    with duckdb.connect() as con:
        rows = con.execute(
            "select decode(value) from parquet_kv_metadata($file) where decode(key) = $key",
            {"file": str(file), "key": METADATA_KEY},
        ).fetchall()
    # <root>/raw/<source>/<name>/<load_id>.parquet
    root = file.resolve().parents[3] if rows else file
    return [Batch.from_json(line, root) for (text,) in rows for line in text.split("\n")]


def read_batch(file: Path) -> Batch | None:
    """The newest of `read_batches`, or None."""
    return next(reversed(read_batches(file)), None)
