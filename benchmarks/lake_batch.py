"""Make a closed batch of a lake from a CSV file of the measured table: in a process of its own, which may grow.

    python -m benchmarks.lake_batch HOME CSV ROWS

Writes HOME/lake, and HOME/messages with what a tap would say of it.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import source
from ingestion.lake import Lake, Stream, connect, literal
from ingestion.lake.column_types import TIME

STREAM = Stream(source.SCHEMA, "orders")


def make(home: Path, csv: Path, name: str) -> None:
    """Write the batch, whose id is `name`, and the messages."""
    columns = ", ".join(f"{literal(column)}: {literal(kind)}" for column, kind in source.COLUMNS.items())
    with connect(home / "spill") as con:
        closed = Lake(home / "lake").write(
            con,
            STREAM,
            rows=f"(from read_csv({literal(str(csv))}, header = false, columns = {{{columns}}}))",
            batch_id=name,
            origin={},
            extracted_at=datetime.now(UTC),
        )
    kinds = {column: kind.upper().replace("TIMESTAMPTZ", TIME) for column, kind in source.COLUMNS.items()}
    properties = {column: {"type": ["string", "null"], "x-warehouse-type": kind} for column, kind in kinds.items()}
    encoding = {"format": "parquet", "compression": "zstd"}
    messages = [
        {"type": "SCHEMA", "stream": STREAM.id, "key_properties": [], "schema": {"properties": properties}},
        {"type": "BATCH", "stream": STREAM.id, "encoding": encoding, "manifest": [closed.file.as_uri()]},
    ]
    (home / "messages").write_text("".join(f"{json.dumps(message)}\n" for message in messages))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), source.table(int(sys.argv[3])))
