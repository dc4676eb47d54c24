"""Fewer, larger files: the batches of many small files move into one, row for row.

Every step leaves a lake that is whole: the new file appears complete, then the manifest is replaced at once, then the
old files, which nothing names any more, are removed as orphans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb

from ingestion.errors import UserError
from ingestion.lake.batch import METADATA_COLUMNS, METADATA_KEY, Batch, Stream
from ingestion.lake.definition import replace_file
from ingestion.lake.row_groups import ROW_GROUP_ROWS, TEMPORARY, put
from ingestion.lake.rowhash import identifier, literal
from ingestion.lake.writer import MANIFEST, Lake

# A file's footer has a line for each of its batches; this keeps it small.
MOST_BATCHES = 1_000


@dataclass
class File:
    """A file of rows with its batches, oldest first."""

    path: Path
    batches: list[Batch] = field(default_factory=list)


def files_of(batches: Iterable[Batch]) -> list[File]:
    """The files of a manifest, in the order in which it names them first."""
    files: dict[Path, File] = {}
    for batch in batches:
        files.setdefault(batch.file, File(batch.file)).batches.append(batch)
    return list(files.values())


def compact(
    lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream, committed: Set[str], *, file_bytes: int
) -> tuple[int, int]:
    """Merge neighbouring files smaller than half of `file_bytes` into files of about that size.

    Only batches in `committed` (batch ids) are touched. Returns how many files were merged, into how many. `con` should
    come from `connect`; memory is that of a few row groups. Raises UserError where a file is not what its batches say.
    """
    with lake.lock(stream):
        lake.remove_orphans(stream)
        batches = lake.manifest(stream)
        merged = 0
        moved: dict[Path, Path] = {}
        for group in _groups(con, files_of(batches), committed, file_bytes):
            together = [batch for file in group for batch in file.batches]
            target = new_file(lake, together)
            query = f"select {_columns(con, group)} from {read(file.path for file in group)}"
            narrowest = min((file.path for file in group), key=lambda path: path.stat().st_mode)
            write_file(con, query, target, [replace(batch, file=target) for batch in together], narrowest)
            moved |= {file.path: target for file in group}
            merged += 1
        if moved:
            replace_manifest(
                lake, stream, [replace(batch, file=moved.get(batch.file, batch.file)) for batch in batches]
            )
    return len(moved), merged


def _groups(
    con: duckdb.DuckDBPyConnection, files: Sequence[File], committed: Set[str], file_bytes: int
) -> Iterator[list[File]]:
    """Neighbours to merge. Their columns have the same type and spelling wherever they occur, so no value changes."""
    group: list[File] = []
    types: dict[str, tuple[str, str]] = {}
    size = 0
    for file in files:
        if not file.path.exists():
            raise UserError(f"{file.path} is missing; `warehouse-lake check` names what the lake lacks")
        file_size = file.path.stat().st_size
        fits = file_size * 2 < file_bytes and all(batch.batch_id in committed for batch in file.batches)
        columns = _types(con, file.path) if fits else {}
        count = sum(len(each.batches) for each in group) + len(file.batches)
        agrees = all(types.get(name, column) == column for name, column in columns.items())
        if group and not (fits and agrees and size + file_size <= file_bytes and count <= MOST_BATCHES):
            if len(group) > 1:
                yield group
            group, types, size = [], {}, 0
        if fits:
            group.append(file)
            types |= columns
            size += file_size
    if len(group) > 1:
        yield group


def _types(con: duckdb.DuckDBPyConnection, file: Path) -> dict[str, tuple[str, str]]:
    """Spelling and type of each column, by lower-case name."""
    rows = con.execute(f"describe from {read([file])}").fetchall()
    return {name.lower(): (name, kind) for name, kind, *_ in rows}


def _columns(con: duckdb.DuckDBPyConnection, group: Sequence[File]) -> str:
    names = [row[0] for row in con.execute(f"describe from {read(file.path for file in group)}").fetchall()]
    ordered = [*(name for name in names if name not in METADATA_COLUMNS), *METADATA_COLUMNS]
    return ", ".join(identifier(name) for name in ordered)


def read(files: Iterable[Path], options: str = "") -> str:
    """A table function for the rows of files, whose columns may differ."""
    return f"read_parquet([{', '.join(literal(str(file)) for file in files)}], union_by_name = true{options})"


def new_file(lake: Lake, batches: Sequence[Batch]) -> Path:
    """A name that no file of the stream has, for the rows of these batches."""
    folder = lake.root / batches[0].stream.folder
    number = 1
    while (path := folder / f"{batches[0].load_id}-{batches[-1].load_id}.{number}.parquet").exists():
        number += 1
    return path


def write_file(
    con: duckdb.DuckDBPyConnection, query: str, file: Path, batches: Sequence[Batch], instead_of: Path
) -> None:
    """Write a file for several batches, which appears complete and with the rows of each of them, or not at all.

    It may be read by those who may read the one that it stands in for.
    """
    temporary = file.with_name(f"{TEMPORARY}{file.name}")
    metadata = "\n".join(batch.to_json() for batch in batches)
    con.execute(
        f"copy ({query}) to {literal(str(temporary))} (format parquet, compression zstd,"
        f" row_group_size {ROW_GROUP_ROWS}, kv_metadata {{{literal(METADATA_KEY)}: {literal(metadata)}}})"
    )
    counts = dict(con.execute(f"select _sdc_load_id, count(*) from {read([temporary])} group by all").fetchall())
    for batch in batches:
        if counts.pop(batch.load_id, 0) != batch.rows_loaded:
            raise UserError(
                f"stream {batch.stream.id}: load {batch.load_id} has not the {batch.rows_loaded} rows that its manifest"
                " says; `warehouse-lake check` names what is damaged; nothing was changed"
            )
    put(temporary, file, instead_of)


def replace_manifest(lake: Lake, stream: Stream, batches: Sequence[Batch]) -> None:
    """Have the manifest say this, at once; then remove the files that it names no more."""
    manifest = lake.root / stream.folder / MANIFEST
    replace_file(manifest, "".join(f"{batch.to_json()}\n" for batch in batches), keep_mode=True)
    lake.remove_orphans(stream)
