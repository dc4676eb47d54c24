"""Remove versions that were superseded long ago (docs/contracts.md, "Lake").

What is superseded is said by the lake's own order alone: which of a file's rows it still has, and which version of a
database's key came last. Streams whose order only the shop's staging knows lose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

import duckdb

from ingestion.lake.batch import METADATA_COLUMNS, Batch, Stream
from ingestion.lake.compaction import File, files_of, new_file, read, replace_manifest, write_file
from ingestion.lake.definition import read_definition
from ingestion.lake.rowhash import identifier, literal, row_hash_sql
from ingestion.lake.writer import Lake

_PLACE = ", filename = '_file', file_row_number = true"


def retain(
    lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream, committed: Set[str], *, before: int
) -> tuple[int, int] | str:
    """Remove what committed loads older than `before` (a load id) superseded.

    Returns how many rows of how many files went, or why none of the stream can go. Manifest lines stay, with the rows
    counted as dropped; `origin.rows_removed` says how many. `con` should come from `connect`.
    """
    with lake.lock(stream):
        lake.remove_orphans(stream)
        batches = lake.manifest(stream)
        files = [
            file
            for file in files_of(batches)
            if any(batch.rows_loaded for batch in file.batches)
            and all(batch.batch_id in committed for batch in file.batches)
        ]
        definition = read_definition(lake, stream)
        if not files:
            return (0, 0)
        if definition is None:
            return "its keys are not known yet; run the job once, then again"
        columns = list({name.lower(): name for batch in batches for name in batch.columns}.values())
        con.execute(f"create or replace temp view lake_rows as from {read((file.path for file in files), _PLACE)}")
        if any("source_file" in batch.origin for batch in batches):
            query = _withdrawn_sql(con, definition.keys, before)
        elif any("position" in batch.origin for batch in batches):
            query = _replaced_sql(definition.keys, before) if definition.keys else _cancelled_sql(columns, before)
        else:
            return "the order of its versions is the source's own, which the lake does not know"
        con.execute(f"create or replace temp table removed as {query}")
        counts = con.execute("select _file, _sdc_load_id, count(*) from removed group by all").fetchall()
        removed = {(Path(file), load_id): count for file, load_id, count in counts}
        affected = [file for file in files if any(path == file.path for path, _ in removed)]
        changed: dict[int, Batch] = {}
        for file in affected:
            changed |= {batch.load_id: batch for batch in _rewrite(lake, con, file, removed)}
        if changed:
            replace_manifest(lake, stream, [changed.get(batch.load_id, batch) for batch in batches])
    return sum(removed.values()), len(affected)


def _withdrawn_sql(con: duckdb.DuckDBPyConnection, keys: Sequence[str], before: int) -> str:
    """Rows of files that were withdrawn; of a key that has no other row, they stay as its last content."""
    identity = "_sdc_source_file, _sdc_row_hash, _sdc_occurrence"
    key = "".join(f", {identifier(name)}" for name in keys)
    con.execute(
        "create or replace temp table withdrawn as"
        f" select _file, file_row_number, _sdc_load_id, {identity}, _sdc_operation{key},"
        f" lead(_sdc_load_id) over (partition by {identity} order by _sdc_load_id, file_row_number) as next_load_id"
        f" from lake_rows semi join (from lake_rows where _sdc_operation = 'withdraw') as gone using ({identity})"
    )
    query = (
        "select _file, file_row_number, _sdc_load_id from withdrawn"
        f" where (next_load_id < {before}"
        f" or (next_load_id is null and _sdc_operation = 'withdraw' and _sdc_load_id < {before}))"
    )
    if not keys:
        return query
    con.execute(
        f"create or replace temp table living as select distinct {key[2:]}"
        f" from lake_rows semi join withdrawn using ({key[2:]})"
        " anti join (from withdrawn where next_load_id is null and _sdc_operation = 'withdraw') as gone"
        f" using ({identity})"
    )
    return query.replace("from withdrawn", f"from withdrawn semi join living using ({key[2:]})", 1)


def _replaced_sql(keys: Sequence[str], before: int) -> str:
    """Versions of a database's key that a later one replaced; its newest content stays, deleted or not."""
    key = ", ".join(identifier(name) for name in keys)
    newest_first = f"partition by {key} order by _sdc_load_id desc, _sdc_sequence desc, file_row_number desc"
    return f"""
        select _file, file_row_number, _sdc_load_id
        from lake_rows semi join (select {key} from lake_rows group by all having count(*) > 1) as several using ({key})
        qualify lag(_sdc_load_id) over ({newest_first}) < {before}
            and (_sdc_operation = 'delete' or count(*) filter (_sdc_operation <> 'delete') over ({newest_first}
                rows between unbounded preceding and current row) > 1)
    """


def _cancelled_sql(columns: Sequence[str], before: int) -> str:
    """Deletes of a database's rows without key, each with one row of the content that it cancels."""
    return f"""
        with contents as (
            select _file, file_row_number, _sdc_load_id, _sdc_sequence, _sdc_operation,
                {row_hash_sql(columns)} as content
            from lake_rows
        ),
        numbered as (
            select *,
                row_number() over (
                    partition by content, _sdc_operation = 'delete'
                    order by _sdc_load_id, _sdc_sequence, file_row_number
                ) as number,
                count(*) filter (_sdc_operation = 'delete' and _sdc_load_id < {before})
                    over (partition by content) as deletes
            from contents
            semi join (
                select content from contents where _sdc_operation = 'delete' and _sdc_load_id < {before}
            ) as deleted using (content)
        )
        select _file, file_row_number, _sdc_load_id from numbered where number <= deletes
    """


def _rewrite(
    lake: Lake, con: duckdb.DuckDBPyConnection, file: File, removed: dict[tuple[Path, int], int]
) -> list[Batch]:
    """Write the file again without what is removed; returns its batches as they are then."""
    target = new_file(lake, file.batches)
    batches = []
    for batch in file.batches:
        count = removed.get((file.path, batch.load_id), 0)
        origin = batch.origin
        if count:
            origin = origin | {"rows_removed": origin.get("rows_removed", 0) + count}
        batches.append(
            replace(
                batch,
                file=target,
                rows_loaded=batch.rows_loaded - count,
                rows_dropped=batch.rows_dropped + count,
                origin=origin,
            )
        )
    present = [row[0] for row in con.execute(f"describe from {read([file.path])}").fetchall()]
    columns = [*(name for name in present if name not in METADATA_COLUMNS), *METADATA_COLUMNS]
    query = (
        f"select {', '.join(identifier(name) for name in columns)} from {read([file.path], _PLACE)}"
        f" anti join (select file_row_number from removed where _file = {literal(str(file.path))}) as gone"
        " using (file_row_number)"
    )
    write_file(con, query, target, batches, file.path)
    return batches
