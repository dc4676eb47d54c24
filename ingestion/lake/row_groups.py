"""Parquet files of the lake: they grow a row group at a time, and are in their place whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

TEMPORARY = ".tmp-"
# A row group is what writers hold in memory and readers skip. This is DuckDB's own: it loads whole ones twice as fast
# as those that end elsewhere.
ROW_GROUP_ROWS = 122_880
ROW_GROUP_BYTES = 48 * 1024 * 1024
_SAMPLE_ROWS = 20_000


class RowGroups:
    """A Parquet file that grows by record batches; in a `with` block it is removed unless it was closed."""

    def __init__(self, file: Path, schema: pa.Schema | None = None) -> None:
        """`schema` may also be set later, before the first rows and before the end."""
        self.file = file
        self.schema = schema if schema is not None else pa.schema([])
        self.rows = 0
        self._temporary = file.with_name(f"{TEMPORARY}{file.name}")
        self._writer: pq.ParquetWriter | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._written: Future[None] | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def add(self, rows: pa.RecordBatch) -> None:
        """Append rows, of their columns those of the schema; full row groups are written by a thread.

        Raises OSError when the disk refused an earlier row group.
        """
        self.rows += rows.num_rows
        rows = rows.select(self.schema.names)
        while rows.num_rows > (room := ROW_GROUP_ROWS - self._waiting_rows):
            self._wait(rows.slice(0, room))
            self._flush()
            rows = rows.slice(room)
        self._wait(rows)
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _wait(self, rows: pa.RecordBatch) -> None:
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += rows.nbytes

    def _flush(self) -> None:
        """Have a thread write what waits, once it has written what it was given before."""
        self._finish()
        rows = self._take()
        self._pool = self._pool or ThreadPoolExecutor(1, "row-groups")
        self._written = self._pool.submit(self._write, rows)

    def _finish(self) -> None:
        """Wait for the thread. Raises what it raised."""
        written, self._written = self._written, None
        if written:
            written.result()

    def _take(self) -> pa.Table:
        rows = pa.Table.from_batches(self._waiting, self.schema)
        self._waiting.clear()
        self._waiting_rows = self._waiting_bytes = 0
        return rows

    def _write(self, rows: pa.Table) -> None:
        self._writer = self._writer or self._open(rows.slice(0, _SAMPLE_ROWS))
        if rows.num_rows:
            self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)

    def _open(self, sample: pa.Table) -> pq.ParquetWriter:
        """The file, with each column encoded as its first rows suggest."""
        dictionary: list[str] = []
        ranges: list[str] = []
        others: dict[str, str] = {}
        for name, column in zip(sample.schema.names, sample.columns, strict=True):
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            # The least and greatest of texts in no order tell readers nothing to skip, and cost as much as compressing.
            if not is_text or _is_sorted(column):
                ranges.append(name)
            if pa.types.is_nested(column.type) or pa.types.is_boolean(column.type):
                continue
            # A dictionary of values that hardly repeat costs more than it saves.
            if pc.count_distinct(column).as_py() * 4 <= sample.num_rows + 4:
                dictionary.append(name)
            elif pa.types.is_integer(column.type) or pa.types.is_temporal(column.type):
                others[name] = "DELTA_BINARY_PACKED"
            elif name == "_sdc_row_hash":
                # Of one length each, and apart from it they compress better and quicker.
                others[name] = "DELTA_LENGTH_BYTE_ARRAY"
        return pq.ParquetWriter(
            self._temporary,
            self.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=dictionary,
            column_encoding=others,
            write_statistics=ranges,
            store_decimal_as_integer=True,
        )

    def close(self, metadata: Mapping[str, str] | None = None) -> None:
        """Write what waits and the footer, and put the file in its place, on the disk. Raises OSError."""
        self._finish()
        self._write(self._take())
        assert self._writer
        if metadata:
            self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()
        put(self._temporary, self.file)
        self._writer = None
        self._stop()

    def abandon(self) -> None:
        """Close and remove the file, if it is not in its place."""
        self._waiting.clear()
        self._stop()
        if self._writer:
            self._writer.close()
            self._temporary.unlink(missing_ok=True)
            self._writer = None

    def _stop(self) -> None:
        """End the thread, when it has written what it was given."""
        if self._pool:
            self._pool.shutdown()
            self._pool = self._written = None


def _is_sorted(column: pa.ChunkedArray) -> bool:
    """Whether no value is less than the one before it; nulls are no values."""
    values = column.drop_null()
    # Without `min_count`, none to compare would be neither true nor false.
    return pc.all(pc.less_equal(values.slice(0, max(len(values) - 1, 0)), values.slice(1)), min_count=0).as_py()


def put(temporary: Path, file: Path, instead_of: Path | None = None) -> None:
    """Have a file on the disk, under its name; for the same eyes alone as one that it stands in for."""
    if instead_of:
        shutil.copymode(instead_of, temporary)
    sync(temporary)
    temporary.rename(file)
    sync(file.parent)


def append_line(path: Path, line: str) -> None:
    """Have one more line at the end of a file on the disk, which may be new."""
    new = not path.exists()
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync(path.parent)


def sync(path: Path) -> None:
    """Have a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
