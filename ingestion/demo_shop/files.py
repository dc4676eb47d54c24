"""The shop's source files: where they are, how they are written."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCRATCH = ".writing"
"""Folder below the data folder for files that are not finished; no stream's glob reaches it."""


@dataclass(frozen=True)
class FileStream:
    """One stream's files: their endings (`history` for the monthly ones, `daily` for those after), and a CSV header."""

    name: str
    history: str
    daily: str
    header: str | None = None

    @property
    def entity(self) -> str:
        """What the stream holds, its name without the system's; also its folder."""
        return self.name.partition("-")[2]


STREAMS = (
    FileStream(
        "shop-orders", "csv.gz", "csv",
        "order_id,user_id,status,ordered_at,cancelled_at,shipping_cost,currency,updated_at,deleted_at",
    ),
    FileStream(
        "shop-order_items", "csv.gz", "csv",
        "order_line_id,order_id,product_id,quantity,unit_price,discount,created_at,updated_at,deleted_at",
    ),
    FileStream(
        "shop-refunds", "csv.gz", "csv",
        "refund_id,order_line_id,order_id,amount,reason,refunded_at,updated_at,deleted_at",
    ),
    FileStream("crm-users", "jsonl.gz", "jsonl"),
    FileStream("catalog-products", "jsonl.zst", "jsonl"),
    FileStream("web-events", "parquet", "parquet"),
    FileStream("stock-stock_levels", "csv.zst", "csv", "product_id,quantity_on_hand,recorded_at"),
)  # fmt: skip
_OWN_FILE = re.compile(r"\d{4}-\d{2}(-\d{2})?\.(csv|jsonl|parquet)(\.gz|\.zst)?")


def own_files(data: Path) -> list[Path]:
    """The files below `data` that are named like the demo shop's, in order."""
    return sorted(
        path
        for stream in STREAMS
        for path in (data / stream.entity).glob("*")
        if path.is_file() and _OWN_FILE.fullmatch(path.name)
    )


class TextFile:
    """A CSV or JSONL file in the making; compressed with Arrow's own codecs, so that no system library shows in it."""

    def __init__(self, path: Path, header: str | None) -> None:
        self._file = pa.OSFile(str(path), "wb")
        # A gzip file has one member per part, a zstd file is one frame: each reads as one file everywhere.
        self._gzip = pa.Codec("gzip", compression_level=3) if path.suffix == ".gz" else None
        self._zstd = pa.CompressedOutputStream(self._file, "zstd") if path.suffix == ".zst" else None
        self._head = f"{header}\n" if header else ""

    def write(self, rows: pa.Array, broken: list[str]) -> None:
        """Append lines, the broken records in their midst."""
        rows = pc.binary_join_element_wise(rows, "", "\n")
        text = memoryview(rows.buffers()[2] or b"")
        offsets = np.frombuffer(rows.buffers()[1] or bytes(4), np.int32)
        middle, end = int(offsets[len(rows) // 2]), int(offsets[len(rows)])
        extra = "".join(f"{line}\n" for line in broken)
        data = b"".join((self._head.encode(), text[:middle], extra.encode(), text[middle:end]))
        self._head = ""
        (self._zstd or self._file).write(data if self._gzip is None else self._gzip.compress(data))

    def close(self) -> None:
        """Finish the file."""
        if self._zstd is not None:
            self._zstd.close()
        self._file.close()


class ParquetFile:
    """A Parquet file in the making: one row group per part."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(str(path), schema, compression="zstd")

    def write(self, rows: pa.Table, broken: list[str]) -> None:
        """Append a table; the format has no broken records."""
        self._writer.write_table(rows)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class Period:
    """The files of one month or day: all written beside their place, then all moved to it.

    A stream without any row in the period gets no file.
    """

    def __init__(self, data: Path, label: str, *, is_history: bool) -> None:
        self._data = data
        self._label = label
        self._is_history = is_history
        self._open: dict[Path, TextFile | ParquetFile] = {}
        self._by_stream: dict[str, TextFile | ParquetFile] = {}

    def write(self, stream: FileStream, rows: pa.Array | pa.Table, broken: list[str]) -> None:
        """Append one part of one stream."""
        if len(rows) == 0 and not broken:
            return
        if stream.name not in self._by_stream:
            ending = stream.history if self._is_history else stream.daily
            relative = Path(stream.entity) / f"{self._label}.{ending}"
            path = self._data / SCRATCH / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            file = ParquetFile(path, rows.schema) if ending == "parquet" else TextFile(path, stream.header)
            self._by_stream[stream.name] = self._open[relative] = file
        self._by_stream[stream.name].write(rows, broken)

    def publish(self) -> None:
        """Close all files, make them durable, and move them to their places."""
        for relative, file in self._open.items():
            file.close()
            with (self._data / SCRATCH / relative).open("rb") as written:
                os.fsync(written.fileno())
        for relative in self._open:
            (self._data / relative).parent.mkdir(parents=True, exist_ok=True)
            (self._data / SCRATCH / relative).replace(self._data / relative)
