"""The lake: Parquet batches on disk, the wire between tap and target and the archive of raw.

`Lake.write` is the only code that writes a batch; taps and the target both go through it (docs/contracts.md, "Lake").
"""

from ingestion.lake.batch import METADATA_COLUMNS, UNFINISHED, Batch, Stream
from ingestion.lake.rowhash import identifier, literal, row_hash, row_hash_sql
from ingestion.lake.writer import Lake, Workplace, connect, first_line, make_folder, read_batch, read_batches

__all__ = [
    "METADATA_COLUMNS",
    "UNFINISHED",
    "Batch",
    "Lake",
    "Stream",
    "Workplace",
    "connect",
    "first_line",
    "identifier",
    "literal",
    "make_folder",
    "read_batch",
    "read_batches",
    "row_hash",
    "row_hash_sql",
]
