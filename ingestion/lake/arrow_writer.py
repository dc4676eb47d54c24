"""Closes batches from Arrow record batches, in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from ingestion.lake.batch import METADATA_KEY, Batch, Stream
from ingestion.lake.row_groups import ROW_GROUP_ROWS, RowGroups, append_line
from ingestion.lake.writer import MANIFEST, Lake, metadata_fields

BATCH_ROWS = 4 * ROW_GROUP_ROWS
BATCH_BYTES = 96 * 1024 * 1024
# A target holds the rows of a batch that fill no row group until it commits, several times over: less of wide rows.
WIDE_ROW_BYTES = 2048
WIDE_BATCH_BYTES = 32 * 1024 * 1024


def batch_id(stream: Stream, load_id: int) -> str:
    """The id of a batch of a database stream."""
    return hashlib.sha256(f"{stream.id}\n{load_id}".encode()).hexdigest()


class ArrowWriter:
    """Writes a stream's batches, one after the other; the caller holds the stream's lock.

    A batch opens with the first rows and is on disk when `close` returns. `origin` of each holds what `close` is given,
    and `follows`: the batch id of the stream's batch before it, or null.
    """

    def __init__(
        self,
        lake: Lake,
        stream: Stream,
        *,
        sync_started_at: int | None = None,
        batch_rows: int = BATCH_ROWS,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        """`sync_started_at` is in milliseconds since 1970."""
        self._lake = lake
        self._stream = stream
        self._sync_started_at = sync_started_at
        self._limits = batch_rows, batch_bytes
        manifest = lake.manifest(stream)
        self.last: Batch | None = manifest[-1] if manifest else None
        self._reset()

    def _reset(self) -> None:
        self._load_id: int | None = None
        self._file: RowGroups | None = None
        self._bad: RowGroups | None = None
        self._columns: list[str] = []
        self.rows = self.unfit = self.dropped = self._bytes = 0

    @property
    def load_id(self) -> int:
        """The load id of the open batch."""
        if self._load_id is None:
            self._load_id = self._lake.next_load_id()
        return self._load_id

    @property
    def is_open(self) -> bool:
        """Whether there are rows or quarantined ones that no closed batch has."""
        return bool(self.rows or self.unfit)

    @property
    def is_full(self) -> bool:
        """Whether the batch should close."""
        is_wide = self._bytes > WIDE_ROW_BYTES * (self.rows + self.unfit)
        return self.room <= 0 or self._bytes >= (min(WIDE_BATCH_BYTES, self._limits[1]) if is_wide else self._limits[1])

    @property
    def room(self) -> int:
        """Rows that the open batch still takes."""
        return self._limits[0] - self.rows - self.unfit

    def add(
        self,
        rows: pa.RecordBatch,
        *,
        extracted_at: datetime,
        operation: str | pa.Array = "upsert",
        sequence: int | pa.Array | None = None,
        deleted_at: datetime | pa.Array | None = None,
    ) -> None:
        """Append rows in the lake's types, all with the same columns; `sequence` is the load id where not given."""
        now = datetime.now(UTC)
        given: dict[str, Any] = {
            "_sdc_extracted_at": extracted_at,
            "_sdc_received_at": now,
            "_sdc_batched_at": now,
            "_sdc_deleted_at": deleted_at,
            "_sdc_sequence": self.load_id if sequence is None else sequence,
            "_sdc_sync_started_at": self._sync_started_at,
            "_sdc_load_id": self.load_id,
            "_sdc_operation": operation,
        }
        arrays = list(rows.columns)
        for field in metadata_fields():
            value = given.get(field.name)
            if value is None:
                arrays.append(pa.nulls(rows.num_rows, field.type))
            elif isinstance(value, pa.Array):
                arrays.append(value.cast(field.type))
            else:
                arrays.append(pa.repeat(pa.scalar(value, field.type), rows.num_rows))
        file = self._file = self._file or self._open(rows.schema)
        file.add(pa.RecordBatch.from_arrays(arrays, schema=file.schema))
        self.rows += rows.num_rows
        self._bytes += rows.nbytes

    def _open(self, columns: pa.Schema) -> RowGroups:
        self._columns = columns.names
        return RowGroups(self._path(".parquet"), pa.schema([*columns, *metadata_fields()]))

    def quarantine(self, rows: Sequence[tuple[str, str | None, str]]) -> None:
        """Append rows that cannot be loaded: reason, column and payload of each."""
        if not rows:
            return
        reasons, columns, payloads = zip(*rows, strict=True)
        count = len(rows)
        arrays = [
            pa.array([f"{self.load_id}-{self.unfit + number}" for number in range(1, count + 1)], pa.string()),
            pa.array(reasons, pa.string()),
            pa.array(columns, pa.string()),
            pa.array(payloads, pa.string()),
            pa.nulls(count, pa.string()),
            pa.nulls(count, pa.int64()),
        ]
        table = pa.RecordBatch.from_arrays(arrays, schema=_quarantine_schema())
        self._bad = self._bad or RowGroups(self._path(".quarantine.parquet"), _quarantine_schema())
        self._bad.add(table)
        self.unfit += count
        self._bytes += table.nbytes

    def drop(self, count: int) -> None:
        """Count rows that were read and are in the lake already."""
        self.dropped += count

    def close(self, empty: pa.Schema, origin: Mapping[str, Any]) -> Batch:
        """Close the batch; `empty` are the columns of one without rows. Raises OSError when the disk refuses."""
        load_id = self.load_id
        file = self._file = self._file or self._open(empty)
        batch = Batch(
            batch_id=batch_id(self._stream, load_id),
            load_id=load_id,
            stream=self._stream,
            file=file.file,
            quarantine_file=self._bad.file if self._bad else None,
            rows_extracted=self.rows + self.unfit + self.dropped,
            rows_loaded=self.rows,
            rows_quarantined=self.unfit,
            rows_dropped=self.dropped,
            columns=self._columns,
            origin={**origin, "follows": self.last.batch_id if self.last else None},
        )
        metadata = {METADATA_KEY: batch.to_json()}
        if self._bad:
            self._bad.close(metadata)
        file.close(metadata)
        append_line(file.file.with_name(MANIFEST), batch.to_json())
        self.last = batch
        self._reset()
        return batch

    def abandon(self) -> None:
        """Give up the open batch."""
        for file in (self._file, self._bad):
            if file is not None:
                file.abandon()
        self._reset()

    def _path(self, ending: str) -> Path:
        return self._lake.root / self._stream.folder / f"{self.load_id}{ending}"


@cache
def _quarantine_schema() -> pa.Schema:
    texts = ("quarantine_id", "reason", "column_name", "payload", "source_file")
    return pa.schema([*((name, pa.string()) for name in texts), ("line_number", pa.int64())])
