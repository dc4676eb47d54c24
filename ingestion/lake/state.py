"""Singer state from the ledger: what of the manifest is committed, and for databases where to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingestion.errors import UserError
from ingestion.lake.batch import Batch
from ingestion.lake.checking import Ledger, Load
from ingestion.lake.definition import streams
from ingestion.lake.writer import Lake

# What a batch's origin has, of each kind of tap that remembers by the lake.
ORIGINS = {"tap-files": "source_file", "tap-postgres": "position"}


def singer_state(lake: Lake, ledger: Ledger, tap: str) -> dict[str, Any]:
    """The tap's state in Meltano's form. Raises UserError when the lake has no stream of it that is loaded."""
    bookmarks = {}
    for stream in streams(lake):
        batches = lake.manifest(stream)
        if any(ORIGINS[tap] in batch.origin for batch in batches):
            bookmark = _bookmark(batches, ledger.get(stream, {}))
            if bookmark:
                bookmarks[stream.id] = bookmark
    if not bookmarks:
        raise UserError(f"{tap}: the ledger has no load of it; its next run needs no state")
    return {"singer_state": {"bookmarks": bookmarks}}


def _bookmark(batches: list[Batch], loads: Mapping[str, Load]) -> dict[str, Any]:
    """The last load up to which all of the manifest is in the ledger, with the last position until there."""
    bookmark: dict[str, Any] = {}
    for batch in batches:
        if batch.batch_id not in loads:
            break
        bookmark |= {**batch.origin.get("position", {}), "load_id": batch.load_id}
    return bookmark
