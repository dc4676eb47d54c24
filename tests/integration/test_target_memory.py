"""What target-warehouse holds in memory while it loads."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from ingestion.errors import UserError
from ingestion.lake import Batch, Lake, Stream
from ingestion.lake.arrow_writer import ArrowWriter
from ingestion.target.duckdb import DuckDBEngine

ROWS = pa.schema([("id", pa.int64()), ("payload", pa.binary())])
STREAM = Stream("shop", "documents")


class _Engine(DuckDBEngine):
    """An engine that says how much DuckDB holds, in MB."""

    @property
    def held(self) -> float:
        query = "select sum(memory_usage_bytes) / 1e6 from duckdb_memory()"
        return float(self._con.execute(query).fetchall()[0][0])

    @property
    def limit(self) -> str:
        return self._con.execute("select current_setting('memory_limit')").fetchall()[0][0]


@pytest.fixture
def engine(tmp_path: Path) -> _Engine:
    return _Engine(tmp_path / "warehouse.duckdb", "demo_shop", memory_limit="256MB", threads=2)


def batch(root: Path, megabytes: int) -> Batch:
    """A batch of rows that cannot be compressed, 200 bytes each."""
    (root / STREAM.folder).mkdir(parents=True, exist_ok=True)
    writer = ArrowWriter(Lake(root), STREAM)
    count = megabytes * 5000
    rows = pa.RecordBatch.from_arrays(
        [pa.array(range(count), pa.int64()), pa.array([secrets.token_bytes(200) for _ in range(count)])], schema=ROWS
    )
    writer.add(rows, extracted_at=datetime.now(UTC))
    return writer.close(ROWS, {})


def test_what_was_loaded_does_not_stay_in_memory(engine: _Engine, tmp_path: Path) -> None:
    for _ in range(2):
        engine.load(batch(tmp_path / "lake", 20), "batch")

    assert engine.held <= 8
    assert engine.limit == "244.1 MiB"  # 256MB, as it was set


def test_a_file_without_all_of_its_rows_is_not_loaded(engine: _Engine, tmp_path: Path) -> None:
    whole, other = batch(tmp_path / "lake", 1), batch(tmp_path / "lake", 2)
    other.file.rename(whole.file)

    with pytest.raises(UserError, match="is damaged: it should have 5000 rows"):
        engine.load(whole, "batch")

    assert engine.columns(STREAM) == {}
