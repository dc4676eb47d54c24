"""What a batch of the lake is: its stream, its counts and where its files are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingestion.errors import UserError

# Columns of every raw table after its data columns, in this order, with DuckDB's types.
METADATA_COLUMNS: dict[str, str] = {
    "_sdc_extracted_at": "TIMESTAMPTZ",
    "_sdc_received_at": "TIMESTAMPTZ",
    "_sdc_batched_at": "TIMESTAMPTZ",
    "_sdc_deleted_at": "TIMESTAMPTZ",
    "_sdc_sequence": "BIGINT",
    "_sdc_table_version": "BIGINT",
    "_sdc_sync_started_at": "BIGINT",
    "_sdc_load_id": "BIGINT",
    "_sdc_operation": "VARCHAR",
    "_sdc_row_hash": "VARCHAR",
    "_sdc_source_file": "VARCHAR",
    "_sdc_line_number": "BIGINT",
    "_sdc_occurrence": "BIGINT",
}

DEFAULT_SOURCE = "files"
# In a STATE: the streams that our taps have begun and not sent in full (docs/contracts.md, "Database streams").
UNFINISHED = "unfinished"
METADATA_KEY = "warehouse.batch"


@dataclass(frozen=True, order=True)
class Stream:
    """A Singer stream: the system it comes from and its name there."""

    source: str
    name: str

    @classmethod
    def parse(cls, stream_id: str) -> Stream:
        """Split `shop-orders` at its first dash; a name without a dash belongs to the source `files`.

        Raises UserError for a name that cannot be a folder and a table.
        """
        source, dash, name = stream_id.partition("-")
        if not dash:
            source, name = DEFAULT_SOURCE, stream_id
        for part in (source, name):
            if not part.strip() or part in {".", ".."} or any(c in part for c in "/\\\0\n"):
                raise UserError(f"stream {stream_id!r}: not a usable name; write <source>-<name>, without slashes")
        return cls(source, name)

    @property
    def id(self) -> str:
        """The Singer stream name, always with its source."""
        return f"{self.source}-{self.name}"

    @property
    def schema(self) -> str:
        """The warehouse schema that holds its raw table."""
        return f"raw_{self.source}"

    @property
    def folder(self) -> Path:
        """The folder of its batches, relative to the lake's root."""
        return Path("raw") / self.source / self.name


@dataclass(frozen=True)
class Batch:
    """One closed batch. Its file paths are absolute; in JSON relative to the lake's root, so that a lake can move."""

    batch_id: str
    load_id: int
    stream: Stream
    file: Path
    quarantine_file: Path | None
    rows_extracted: int
    rows_loaded: int
    rows_quarantined: int
    rows_dropped: int
    columns: list[str]
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def shares_file(self) -> bool:
        """Whether its rows are in a file that compaction or retention wrote: those with its `_sdc_load_id`."""
        return self.file.stem != str(self.load_id)

    def to_json(self) -> str:
        """The manifest line, without its newline."""
        folder = self.stream.folder
        quarantine = self.quarantine_file and str(folder / self.quarantine_file.name)
        return json.dumps(
            {
                "batch_id": self.batch_id,
                "load_id": self.load_id,
                "file": str(folder / self.file.name),
                "quarantine_file": quarantine,
                "rows_extracted": self.rows_extracted,
                "rows_loaded": self.rows_loaded,
                "rows_quarantined": self.rows_quarantined,
                "rows_dropped": self.rows_dropped,
                "columns": self.columns,
                "origin": self.origin,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str, root: Path) -> Batch:
        """Parse a manifest line (or a Parquet file's metadata) of the lake at `root`.

        Raises ValueError, KeyError or TypeError when it is not one.
        """
        fields = json.loads(text)
        file = Path(fields["file"])
        if len(file.parts) != 4:
            raise ValueError(f"not a file of the lake: {file}")
        quarantine = fields["quarantine_file"]
        return cls(
            batch_id=fields["batch_id"],
            load_id=fields["load_id"],
            stream=Stream(file.parts[1], file.parts[2]),
            file=root / file,
            quarantine_file=root / quarantine if quarantine else None,
            rows_extracted=fields["rows_extracted"],
            rows_loaded=fields["rows_loaded"],
            rows_quarantined=fields["rows_quarantined"],
            rows_dropped=fields["rows_dropped"],
            columns=fields["columns"],
            origin=fields["origin"],
        )
