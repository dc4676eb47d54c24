"""One tap-files with its own folder, list of streams and lake, for tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import duckdb
import yaml

from ingestion.lake import METADATA_COLUMNS, Batch, Lake, Stream
from ingestion.taps.files import TapFiles


@dataclass
class Run:
    """What one run of the tap said."""

    messages: list[dict[str, Any]]
    faults: list[str]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def files(self) -> list[Path]:
        return [Path(urlparse(uri).path) for message in self.of_type("BATCH") for uri in message["manifest"]]

    @property
    def state(self) -> dict[str, Any]:
        return self.of_type("STATE")[-1]["value"]


class Shop:
    """A data folder with one stream (unless `streams` says otherwise) and the lake it goes to."""

    def __init__(self, root: Path, streams: list[dict[str, Any]] | None = None, **stream: Any) -> None:
        self.data = root / "data"
        self.lake = Lake(root / "lake")
        self.data.mkdir(parents=True)
        self.streams_file = root / "streams.yml"
        single = {"name": "files-lines", "path": "*", "format": "csv", **stream}
        self.stream = Stream.parse(single["name"])
        self.streams_file.write_text(yaml.safe_dump({"streams": streams or [single]}))
        self._clock = 1_700_000_000

    @property
    def config(self) -> dict[str, Any]:
        return {
            "streams_file": str(self.streams_file),
            "data_path": str(self.data),
            "lake_path": str(self.lake.root),
        }

    def put(self, name: str, content: bytes | str) -> Path:
        """Write a file; every time with a later modification time, as a clock would."""
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self._clock += 1
        os.utime(path, (self._clock, self._clock))
        return path

    def run(self, state: dict[str, Any] | None = None, catalog: dict[str, Any] | None = None, **config: Any) -> Run:
        tap = TapFiles(config=self.config | config, state=state, catalog=catalog)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            tap.sync_all()
        return Run([json.loads(line) for line in output.getvalue().splitlines()], tap.faults)

    @property
    def batches(self) -> list[Batch]:
        return self.lake.manifest(self.stream)

    def rows(self) -> list[dict[str, Any]]:
        """Every row of the lake, in order of load and line."""
        files = list({str(batch.file): None for batch in self.batches})
        if not files:
            return []
        con = duckdb.connect()
        con.execute("set TimeZone = 'UTC'")
        result = con.execute(
            "from read_parquet($files, union_by_name = true)"
            " order by _sdc_load_id, _sdc_operation = 'withdraw', _sdc_line_number",
            {"files": files},
        )
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def data_rows(self) -> list[dict[str, Any]]:
        return [data_of(row) for row in self.rows()]

    def quarantine(self) -> list[dict[str, Any]]:
        files = [str(batch.quarantine_file) for batch in self.batches if batch.quarantine_file]
        if not files:
            return []
        result = duckdb.connect().execute(
            "from read_parquet($files, filename = true) order by filename, line_number", {"files": files}
        )
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def current(self, source_file: str) -> Counter[tuple[tuple[str, str], ...]]:
        """The rows that the lake says the file has now: of each identified row the latest load's word."""
        latest: dict[tuple[str, int], dict[str, Any]] = {}
        for row in self.rows():
            if row["_sdc_source_file"] == source_file:
                latest[row["_sdc_row_hash"], row["_sdc_occurrence"]] = row
        return Counter(content_of(data_of(row)) for row in latest.values() if row["_sdc_operation"] != "withdraw")

    def waiting(self, source_file: str) -> Counter[str]:
        """The reasons of what waits in quarantine for this file: all but what later versions superseded."""
        superseded = {each for batch in self.batches for each in batch.origin.get("superseded", ())}
        return Counter(
            row["reason"]
            for row in self.quarantine()
            if row["source_file"] == source_file and row["quarantine_id"] not in superseded
        )

    def assert_counted(self) -> None:
        """Every batch accounts for every record, and its files hold what it says."""
        for batch in self.batches:
            assert batch.rows_extracted == batch.rows_loaded + batch.rows_quarantined + batch.rows_dropped
        rows, quarantine = self.rows(), self.quarantine()
        assert len(rows) == sum(batch.rows_loaded for batch in self.batches)
        assert len(quarantine) == sum(batch.rows_quarantined for batch in self.batches)


def data_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in METADATA_COLUMNS}


def content_of(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in row.items() if value is not None))
