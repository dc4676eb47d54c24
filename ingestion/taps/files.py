"""`tap-files`: CSV, JSONL and Parquet files of a folder, by a shop's list of streams (docs/contracts.md, "Streams")."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from singer_sdk import typing as th
from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig

from ingestion import settings
from ingestion.errors import UserError
from ingestion.lake import Batch, Lake, Workplace, identifier
from ingestion.taps.file_config import FileStreamConfig, load_streams
from ingestion.taps.file_reading import (
    LINE_NUMBER,
    RECORDS,
    REJECTS,
    FileFault,
    header_columns,
    read_file,
    sha256_of,
    view_file,
)
from ingestion.taps.file_versions import (
    History,
    SourceFile,
    drop_relations,
    erase_records,
    erase_rejects,
    quarantine_broken,
    write_at_once,
    write_batch,
    write_copy,
)
from ingestion.taps.lake_tap import BOOKMARK, LAKE_PATH, LakeStream, LakeTap

WORK = ".tmp-tap-files"
_FETCH_ROWS = 10_000


class FileStream(LakeStream):
    """All files of one pattern; every file is a batch, taken up whole or not at all."""

    def __init__(self, tap: TapFiles, file_config: FileStreamConfig) -> None:
        self.file_config = file_config
        self._files_tap = tap
        super().__init__(tap, file_config.stream, name=file_config.name)
        self.primary_keys = list(file_config.keys)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """Text for every column that the stream's list, its files or its batches in the lake show."""
        config = self.file_config
        lake = self._files_tap.lake
        batches = lake.manifest(self.lake_stream) if lake else []
        # The first spelling counts.
        spelling: dict[str, str] = {}
        for name in (*config.required_columns, *(name for batch in batches for name in batch.columns)):
            spelling.setdefault(name.lower(), name)
        history = History.of(batches)
        for path, name in self._known_first(history):
            try:
                if _is_as_it_was(_source_file(path, name), history.latest(name)):
                    continue
                # RECORD messages carry only columns of the schema, so there it must be complete.
                limit, whole = self.config["max_line_bytes"], lake is None
                for column in header_columns(path, config, max_line_bytes=limit, spelling=spelling, whole=whole):
                    spelling.setdefault(column.lower(), column)
            except FileFault as fault:
                self.logger.debug("%s: %s", path, fault)  # Reading the file will report it.
        names = spelling.values()
        return {
            "type": "object",
            "properties": {name: {"type": ["string"] if name in config.keys else ["string", "null"]} for name in names},
        }

    @cached_property
    def _spelling(self) -> dict[str, str]:
        """How this stream writes its columns, by their names in lower case; grows with the files taken up."""
        return {name.lower(): name for name in self.schema["properties"]}

    def _known_first(self, history: History) -> list[tuple[Path, str]]:
        """The files, those known before the new ones: a new file may hold what a changed one no longer has."""
        data = self._files_tap.data_path
        files = [(path, path.relative_to(data).as_posix()) for path in self.file_config.files(data)]
        return sorted(files, key=lambda file: file[1] not in history.by_file)

    def _write_schema_message(self) -> None:
        # A stream that never had a file has no columns yet, and a target nothing to make a table of.
        if self.schema["properties"]:
            super()._write_schema_message()

    # BATCH messages

    def get_batches(
        self, batch_config: BatchConfig, context: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[BaseBatchFileEncoding, list[str]]]:
        """What the lake has beyond the state's load id, then a batch for each new or changed file."""
        self._write_starting_replication_value(context)
        lake = self._files_tap.lake
        assert lake is not None
        try:
            with (
                lake.lock(self.lake_stream),
                Workplace.at(lake.root / WORK / self.name, self.config["memory_limit"]) as workplace,
            ):
                self._prepare(workplace)
                lake.remove_orphans(self.lake_stream)
                for batch in self._batches(lake, workplace):
                    # The SDK writes the state right after the batch's message.
                    self.stream_state[BOOKMARK] = batch.load_id
                    yield batch_config.encoding, [batch.file.as_uri()]
        except UserError as error:
            self.fault(error)

    def _prepare(self, workplace: Workplace) -> None:
        """Make the workplace able to tell whose rows are of erased persons."""
        self.lake_tap.look_again_who_is_erased()
        if self.lake_tap.erased:
            self.lake_tap.erased.install(workplace.con)

    def _batches(self, lake: Lake, workplace: Workplace) -> Iterator[Batch]:
        manifest = lake.manifest(self.lake_stream)
        yield from self.beyond_state(manifest)
        history = History.of(manifest)
        counts = Counter[str]()
        contents = _Contents()
        for versions in history.by_file.values():
            contents.add(versions[-1])
        files = self._known_first(history)
        if not files:
            self.logger.warning("%s: no file matches %s", self.name, self.file_config.path)
        for path, name in files:
            earlier = history.latest(name)
            try:
                batch = self._take_up(lake, workplace, path, name, history, contents)
            except FileFault as fault:
                counts["faulty"] += 1
                self.fault(f"stream {self.name}: {name}: {fault}")
                continue
            if isinstance(batch, str):
                counts[batch] += 1
                continue
            history.add(batch)
            if "same_as" in batch.origin:
                counts["skipped as identical to others"] += 1
            else:
                counts["taken up"] += 1
                if earlier:
                    contents.remove(earlier)
                contents.add(batch)
            yield batch
        if counts:
            summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            self.logger.info("%s: %s files: %s", self.name, counts.total(), summary)

    def _take_up(
        self,
        lake: Lake,
        workplace: Workplace,
        path: Path,
        name: str,
        history: History,
        contents: _Contents,
    ) -> Batch | str:
        """Write the file's batch, or say why there is none."""
        file = _source_file(path, name)
        earlier = history.latest(name)
        if _is_as_it_was(file, earlier):
            return "unchanged"
        extracted_at = datetime.now(UTC)
        if earlier or contents.may_have(file):
            file = replace(file, sha256=_sha256(path))
            if earlier and file.sha256 == earlier.origin["sha256"]:
                return "unchanged"
            if not earlier and (original := contents.name_of(file)):
                self.logger.info("%s: skipped, the same content as %s", name, original)
                return write_copy(workplace.con, lake, self.file_config, file, original, extracted_at)
        with _hashing(path, file) as sha256:
            batch = None if earlier else self._write_at_once(lake, workplace, path, file, extracted_at, sha256)
            if batch is None:
                file = replace(file, sha256=sha256.result())
                columns = self._read(workplace, path, file)
                batch = write_batch(workplace.con, lake, self.file_config, history, file, columns, extracted_at)
                drop_relations(workplace.con)
        self.logger.info(
            "%s: %s rows extracted, %s loaded, %s quarantined, %s dropped as identical",
            name,
            batch.rows_extracted,
            batch.rows_loaded,
            batch.rows_quarantined,
            batch.rows_dropped,
        )
        return batch

    def _write_at_once(
        self,
        lake: Lake,
        workplace: Workplace,
        path: Path,
        file: SourceFile,
        extracted_at: datetime,
        sha256: Future[str],
    ) -> Batch | None:
        """Write the batch of a new file in one pass, if that can be; its content is hashed beside."""
        _check_readable(path)
        with view_file(
            workplace.con,
            path,
            self.file_config,
            workplace.folder,
            max_line_bytes=self.config["max_line_bytes"],
            spelling=self._spelling,
            deselected=self._deselected,
        ) as view:
            if view is None:
                return None
            _check_unchanged(path, file)
            batch = write_at_once(
                workplace.con,
                lake,
                self.file_config,
                file,
                view,
                workplace.folder,
                extracted_at,
                sha256,
                lambda: _check_unchanged(path, file),
                self.lake_tap.erased,
            )
            if batch:
                self._remember(view.columns)
            return batch

    @property
    def _deselected(self) -> frozenset[str]:
        return frozenset(
            breadcrumb[1]
            for breadcrumb, selected in self.mask.items()
            if len(breadcrumb) == 2 and not selected and breadcrumb[1] not in self.file_config.keys
        )

    def _remember(self, columns: Iterable[str]) -> None:
        for name in columns:
            self._spelling.setdefault(name.lower(), name)

    def _read(self, workplace: Workplace, path: Path, file: SourceFile) -> list[str]:
        """Read and check the file's records; return its columns."""
        columns = read_file(
            workplace.con,
            path,
            self.file_config,
            workplace.folder,
            max_line_bytes=self.config["max_line_bytes"],
            spelling=self._spelling,
            deselected=self._deselected,
        )
        _check_unchanged(path, file)
        if erased := self.lake_tap.erased:
            erase_records(workplace.con, self.file_config, columns, erased)
        quarantine_broken(workplace.con, self.file_config, columns)
        if erased:
            erase_rejects(workplace.con, self.file_config, erased)
        self._remember(columns)
        return columns

    # RECORD messages

    def get_records(self, context: Mapping[str, Any] | None) -> Iterable[dict[str, Any]]:
        """Every record of every file as text; a malformed one stops the stream, having no quarantine here."""
        contents: dict[str, str] = {}
        with (
            tempfile.TemporaryDirectory(prefix="tap-files-") as folder,
            Workplace.at(Path(folder) / WORK, self.config["memory_limit"]) as workplace,
        ):
            self._prepare(workplace)
            for path, name in self._known_first(History()):
                try:
                    file = _source_file(path, name)
                    sha256 = _sha256(path)
                    if sha256 in contents:
                        self.logger.info("%s: skipped, the same content as %s", name, contents[sha256])
                        continue
                    yield from self._file_records(workplace, path, file)
                    contents[sha256] = name
                except FileFault as fault:
                    self.fault(f"stream {self.name}: {name}: {fault}")

    def _file_records(self, workplace: Workplace, path: Path, file: SourceFile) -> Iterator[dict[str, Any]]:
        columns = self._read(workplace, path, file)
        query = f"select count(*), arg_min(reason, line_number), min(line_number) from {REJECTS}"
        count, reason, number = workplace.con.execute(query).fetchall()[0]
        if count:
            raise FileFault(
                f"{count} malformed records, the first is record {number}: {reason};"
                " mend the file, or use wire: lake, which quarantines them"
            )
        names = ", ".join(identifier(column) for column in columns) or "null"
        records = workplace.con.execute(f"select {names} from {RECORDS} order by {LINE_NUMBER}")
        while rows := records.fetchmany(_FETCH_ROWS):
            for row in rows:
                yield dict(zip(columns, row, strict=False))


class _Contents:
    """The contents of files that are originals: a copy's content is its original's, and gone when that changes."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._sizes: set[int] = set()

    def add(self, batch: Batch) -> None:
        """Count what a file's newest batch holds, unless it is a copy."""
        if "same_as" not in batch.origin:
            self._names[batch.origin["sha256"]] = batch.origin["source_file"]
            self._sizes.add(batch.origin["size"])

    def remove(self, batch: Batch) -> None:
        """Forget the content of a batch that has a successor."""
        if "same_as" not in batch.origin:
            self._names.pop(batch.origin["sha256"], None)

    def may_have(self, file: SourceFile) -> bool:
        """Whether another file may have this one's content, which may not be known yet."""
        return file.size in self._sizes

    def name_of(self, file: SourceFile) -> str | None:
        """The file with the same content."""
        return self._names.get(file.sha256)


def _source_file(path: Path, name: str) -> SourceFile:
    try:
        status = path.stat()
    except OSError as error:
        raise FileFault("the file vanished before it could be read; put it back or leave it away") from error
    return SourceFile(name, "", status.st_size, status.st_mtime_ns)


def _is_as_it_was(file: SourceFile, earlier: Batch | None) -> bool:
    """Whether a file looks as when its latest batch was written, by size and time."""
    return earlier is not None and (file.size, file.mtime_ns) == (earlier.origin["size"], earlier.origin["mtime_ns"])


@contextlib.contextmanager
def _hashing(path: Path, file: SourceFile) -> Iterator[Future[str]]:
    """The content hash of a file, which a thread takes unless it is known; it is given up when the block ends."""
    given_up = threading.Event()
    with ThreadPoolExecutor(1, "sha256") as pool:
        try:
            yield pool.submit(lambda: file.sha256 or _sha256(path, given_up))
        finally:
            given_up.set()


def _sha256(path: Path, given_up: threading.Event | None = None) -> str:
    with _readable():
        return sha256_of(path, given_up)


def _check_readable(path: Path) -> None:
    with _readable(), path.open("rb"):
        pass


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileFault(f"not readable: {error.strerror}; put it back, or let this user read it") from error


def _check_unchanged(path: Path, before: SourceFile) -> None:
    now = _source_file(path, before.name)
    if (now.size, now.mtime_ns) != (before.size, before.mtime_ns):
        raise FileFault("the file changed while it was being read; run again when its writer has finished")


class TapFiles(LakeTap):
    """Extracts CSV, JSONL and Parquet files, compressed or not."""

    name = "tap-files"
    config_jsonschema = th.PropertiesList(
        th.Property(
            "streams_file",
            th.StringType,
            description="The list of streams. Default: ingestion/shops/<WAREHOUSE_SHOP>.yml",
        ),
        th.Property("data_path", th.StringType, description="The folder with the files. Default: WAREHOUSE_DATA"),
        LAKE_PATH,
        th.Property(
            "wire",
            th.StringType,
            default="lake",
            allowed_values=["lake", "records"],
            description="lake: BATCH messages that name Parquet files of the lake, with quarantine and changed files."
            " records: RECORD messages of every file in full, for other targets; a malformed record is an error.",
        ),
        th.Property(
            "max_line_bytes",
            th.IntegerType,
            default=2_000_000,
            description="A longer line is quarantined, with its start, length and hash",
        ),
        th.Property(
            "memory_limit", th.StringType, default="256MB", description="DuckDB's memory while it reads a file"
        ),
    ).to_dict()

    @cached_property
    def data_path(self) -> Path:
        """The folder with the files. Raises UserError when there is none."""
        path = self.path("data_path", settings.load().data)
        if not path.is_dir():
            raise UserError(
                f"{path}: no such data folder; make it and put the shop's files there, or set WAREHOUSE_DATA"
            )
        return path

    def discover_streams(self) -> list[FileStream]:
        """The streams of the list. Raises UserError when the list or the data folder is missing or wrong."""
        _ = self.data_path
        configs = load_streams(self.path("streams_file", settings.load().streams_file))
        return [FileStream(self, config) for config in configs]

    def sync_all(self) -> None:
        """Send all streams. Raises UserError when there is nothing at all: no file now, and nothing loaded before."""
        configs = [stream.file_config for stream in self.streams.values() if isinstance(stream, FileStream)]
        lake = self.lake
        if not any(config.files(self.data_path) or (lake and lake.manifest(config.stream)) for config in configs):
            patterns = ", ".join(config.path for config in configs)
            raise UserError(
                f"{self.data_path}: no file matches any stream of the shop ({patterns}); put the shop's files there,"
                " or set WAREHOUSE_DATA to the folder that has them"
            )
        super().sync_all()
