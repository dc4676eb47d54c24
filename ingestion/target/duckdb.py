"""Raw and ops in a DuckDB file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ingestion import lifeline
from ingestion.errors import UserError
from ingestion.lake import METADATA_COLUMNS, Batch, Stream, first_line, identifier, literal
from ingestion.lake.column_types import column_widened
from ingestion.target.core import Quarantined, Sync, Version

_OPS = """
create schema if not exists ops;
create table if not exists ops.warehouse (shop varchar not null, created_at timestamptz not null);
create table if not exists ops.loads (
    load_id bigint primary key, batch_id varchar not null unique, source varchar not null, stream varchar not null,
    kind varchar not null, rows_extracted bigint not null, rows_loaded bigint not null,
    rows_quarantined bigint not null, rows_dropped bigint not null, lake_file varchar not null, origin varchar not null,
    extracted_at timestamptz not null, committed_at timestamptz not null
);
create table if not exists ops.quarantine (
    quarantine_id varchar primary key, load_id bigint not null, source varchar not null, stream varchar not null,
    reason varchar, column_name varchar, payload varchar, source_file varchar, line_number bigint,
    quarantined_at timestamptz not null, replayed_load_id bigint
);
create table if not exists ops.streams (
    source varchar not null, stream varchar not null, key_properties varchar not null, schema varchar not null,
    updated_at timestamptz not null
);
create table if not exists ops.syncs (
    sync_id varchar not null, source varchar not null, stream varchar not null, started_at timestamptz not null,
    finished_at timestamptz not null, rows_extracted bigint not null, rows_loaded bigint not null,
    rows_quarantined bigint not null, rows_dropped bigint not null, status varchar not null, run_id varchar
);
-- Warehouses made before runs had ids.
alter table ops.syncs add column if not exists run_id varchar;
"""
_REPLAY_CHUNK = 10_000
# What DuckDB may keep in memory once so many rows were loaded; small batches are not worth the time.
_KEPT_MEMORY = "8MB"
_KEPT_ROWS = 100_000


class DuckDBEngine:
    """The engine for one DuckDB file; see `core.Engine` for its methods."""

    def __init__(self, path: Path, shop: str, *, memory_limit: str, threads: int) -> None:
        """Open the file, make ops, and check that the warehouse is the shop's.

        Raises UserError when another process has the file open, the path is wrong or the data are another shop's.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._con = lifeline.once_free(lambda: duckdb.connect(str(path)), lambda error: is_in_use(str(error)))
            self._memory_limit = memory_limit
            self._kept_rows = 0
            self._con.execute(f"set memory_limit = {literal(memory_limit)}")
            self._con.execute(f"set threads = {threads}")
            self._con.execute("set TimeZone = 'UTC'")
            self._con.execute("set enable_progress_bar = false")  # It would stand among the states on stdout.
            with self._transaction():
                self._con.execute(_OPS)
                self._claim(shop)
        except (OSError, duckdb.IOException) as error:
            raise UserError(opening_failed(path, first_line(error))) from error

    def _claim(self, shop: str) -> None:
        """Write the shop's name into a new warehouse, or refuse one that is another's."""
        owners = {row[0] for row in self._con.execute("select shop from ops.warehouse").fetchall()}
        if not owners:
            self._con.execute("insert into ops.warehouse values (?, now())", [shop])
        elif owners != {shop}:
            raise UserError(
                f"{self._path} holds the shop {', '.join(sorted(owners))}, not {shop}; "
                "set WAREHOUSE_SHOP to it, or WAREHOUSE_HOME to another folder"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._con.begin()
        try:
            yield
            self._con.commit()
        except BaseException:
            # After a failed commit or a fatal error there is nothing left to roll back.
            try:
                self._con.rollback()
            except duckdb.Error as error:
                if "no transaction is active" not in str(error) and "invalidated" not in str(error):
                    raise
            raise

    def columns(self, stream: Stream) -> dict[str, str]:
        """Data columns of the raw table with their types; empty when there is none."""
        rows = self._con.execute(
            "select column_name, data_type from duckdb_columns() "
            "where database_name = current_database() and schema_name = ? and table_name = ? order by column_index",
            [stream.schema, stream.name],
        ).fetchall()
        return {name: kind for name, kind in rows if name not in METADATA_COLUMNS}

    def batch_ids(self, stream: Stream) -> set[str]:
        """The batches of the stream that the ledger has."""
        query = "select batch_id from ops.loads where source = ? and stream = ?"
        return {row[0] for row in self._con.execute(query, [stream.source, stream.name]).fetchall()}

    def has_load(self, stream: Stream, load_id: int) -> bool:
        """Whether the ledger has this load of the stream."""
        query = "select 1 from ops.loads where source = ? and stream = ? and load_id = ?"
        return self._con.execute(query, [stream.source, stream.name, load_id]).fetchone() is not None

    def has_source_file(self, stream: Stream, source_file: str) -> bool:
        """Whether the ledger has a batch of this file."""
        query = "select 1 from ops.loads where source = ? and stream = ? and origin ->> '$.source_file' = ?"
        return self._con.execute(query, [stream.source, stream.name, source_file]).fetchone() is not None

    def has_successor(self, stream: Stream, follows: str | None) -> bool:
        """Whether the ledger has a batch of a database stream that follows this one; None: that is its first."""
        query = (
            "select 1 from ops.loads where source = ? and stream = ? and json_exists(origin, '$.follows') "
            "and origin ->> '$.follows' is not distinct from ?"
        )
        return bool(self._con.execute(query, [stream.source, stream.name, follows]).fetchall())

    def load(self, batch: Batch, kind: str, replayed: Sequence[str] = ()) -> bool:
        """Commit a batch in one transaction; False when the ledger has it already."""
        stream = batch.stream
        with self._transaction():
            if self._con.execute("select 1 from ops.loads where batch_id = ?", [batch.batch_id]).fetchone():
                return False
            self._fit_table(batch)
            rows = _rows_sql(batch)
            [(loaded,)] = self._con.execute(f"insert into {_table(stream)} by name {rows}").fetchall()
            # A file that is not what its metadata says would break every count after it.
            if loaded != batch.rows_loaded:
                raise UserError(f"stream {stream.id}: {batch.file} is damaged: it should have {batch.rows_loaded} rows")
            if batch.quarantine_file:
                self._con.execute(
                    "insert into ops.quarantine by name "
                    "select *, $load_id as load_id, $source as source, $stream as stream, "
                    # When the batch was written, so that a warehouse rebuilt from the lake has the same day.
                    "make_timestamptz($load_id) as quarantined_at "
                    f"from read_parquet({literal(str(batch.quarantine_file))})",
                    {"load_id": batch.load_id, "source": stream.source, "stream": stream.name},
                )
            if replayed:
                self._con.execute(
                    "update ops.quarantine set replayed_load_id = $load_id "
                    "where replayed_load_id is null and quarantine_id in (select unnest($ids))",
                    {"load_id": batch.load_id, "ids": list(replayed)},
                )
            self._con.execute(
                "insert into ops.loads select $load_id, $batch_id, $source, $stream, $kind, $rows_extracted, "
                "$rows_loaded, $rows_quarantined, $rows_dropped, $lake_file, $origin, "
                f"coalesce((select max(_sdc_extracted_at) from ({rows})), make_timestamptz($load_id)), "
                "now()",
                {
                    "load_id": batch.load_id,
                    "batch_id": batch.batch_id,
                    "source": stream.source,
                    "stream": stream.name,
                    "kind": kind,
                    "rows_extracted": batch.rows_extracted,
                    "rows_loaded": batch.rows_loaded,
                    "rows_quarantined": batch.rows_quarantined,
                    "rows_dropped": batch.rows_dropped,
                    "lake_file": str(stream.folder / batch.file.name),
                    "origin": json.dumps(batch.origin, ensure_ascii=False),
                },
            )
        self._kept_rows += batch.rows_loaded
        if self._kept_rows >= _KEPT_ROWS:
            self._let_go_of_memory()
        return True

    def _let_go_of_memory(self) -> None:
        """Have DuckDB forget the blocks that it wrote, which else stay until they fill its memory.

        Nobody reads them again; so the peak of a large load is that of a small one.
        """
        self._kept_rows = 0
        # Memory that is in use stays, which is no fault.
        try:
            with suppress(duckdb.OutOfMemoryException):
                self._con.execute(f"set memory_limit = {literal(_KEPT_MEMORY)}")
        finally:
            self._con.execute(f"set memory_limit = {literal(self._memory_limit)}")

    def _fit_table(self, batch: Batch) -> None:
        """Make the raw table, or give it the batch's new columns and wider types."""
        stream = batch.stream
        described = self._con.execute(f"describe select * from read_parquet({literal(str(batch.file))})").fetchall()
        incoming = {row[0]: row[1] for row in described if row[0] in batch.columns}
        table = self._create_table(stream, incoming)
        existing = {name.lower(): kind for name, kind in self.columns(stream).items()}
        for name, kind in incoming.items():
            old = existing.get(name.lower())
            if old is None:
                self._con.execute(f"alter table {table} add column {identifier(name)} {kind}")
                continue
            new = self._widened(old, kind)
            if new is None:
                raise UserError(
                    f"stream {stream.id}: column {name} is {kind} in {batch.file.name} and {old} in raw, and "
                    f"neither widens to the other; alter {stream.schema}.{stream.name} to a type that "
                    "holds both, then run again"
                )
            if new != old:
                self._con.execute(f"alter table {table} alter column {identifier(name)} type {new}")

    def _widened(self, old: str, new: str) -> str | None:
        """The type that a column of type `old` gets for values of type `new`, or None."""
        return column_widened(old, new)

    def _create_table(self, stream: Stream, columns: Mapping[str, str]) -> str:
        """Make the raw table if there is none; returns its name."""
        defined = ", ".join(f"{identifier(name)} {kind}" for name, kind in {**columns, **METADATA_COLUMNS}.items())
        self._con.execute(f"create schema if not exists {identifier(stream.schema)}")
        self._con.execute(f"create table if not exists {_table(stream)} ({defined})")
        return _table(stream)

    def current_versions(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], Version]:
        """The version of each given key that raw received last."""
        query = (
            "select {keys}, _sdc_operation, _sdc_row_hash from found"
            " qualify row_number() over (partition by {keys} order by _sdc_load_id desc, _sdc_sequence desc) = 1"
        )
        rows = self._of_keys(stream, keys, values, query)
        return {tuple(row[:-2]): (row[-2], row[-1]) for row in rows}

    def newest_loads(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], int]:
        """The latest load of each given key that raw has."""
        rows = self._of_keys(stream, keys, values, "select {keys}, max(_sdc_load_id) from found group by {keys}")
        return {tuple(row[:-1]): row[-1] for row in rows}

    def _of_keys(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]], query: str
    ) -> list[tuple[Any, ...]]:
        """The result of a query over `found`: raw's metadata of the rows with the given keys.

        `{keys}` in the query stands for the keys as text, as they were given.
        """
        types = {name.lower(): kind for name, kind in self.columns(stream).items()}
        values = list(values)
        if not values or any(key.lower() not in types for key in keys):
            return []
        wanted = {f"text{n}": pa.array(column, pa.string()) for n, column in enumerate(zip(*values, strict=True))}
        names = ", ".join(wanted)
        casts = ", ".join(
            f"try_cast(text{n} as {types[key.lower()]}) as {identifier(f'key{n}')}" for n, key in enumerate(keys)
        )
        on = " and ".join(f"raw.{identifier(key)} = wanted.key{n}" for n, key in enumerate(keys))
        self._con.register("wanted_text", pa.table(wanted))
        try:
            return self._con.execute(
                f"with wanted as (select *, {casts} from wanted_text), found as (select {names}, raw._sdc_operation,"
                f" raw._sdc_row_hash, raw._sdc_load_id, raw._sdc_sequence from {_table(stream)} as raw"
                f" join wanted on {on}) {query.format(keys=names)}"
            ).fetchall()
        finally:
            self._con.unregister("wanted_text")

    def occurrences(self, stream: Stream, rows: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The highest `_sdc_occurrence` of each given (source file, row hash)."""
        rows = list(rows)
        if not rows or not self.columns(stream):
            return {}
        files, hashes = zip(*rows, strict=True)
        self._con.register("wanted_rows", pa.table({"file": pa.array(files), "hash": pa.array(hashes)}))
        try:
            found = self._con.execute(
                f"select wanted.file, wanted.hash, max(raw._sdc_occurrence) from {_table(stream)} as raw "
                "join wanted_rows as wanted on raw._sdc_source_file = wanted.file and raw._sdc_row_hash = wanted.hash "
                "group by wanted.file, wanted.hash"
            ).fetchall()
        finally:
            self._con.unregister("wanted_rows")
        return {(file, row_hash): highest or 0 for file, row_hash, highest in found}

    def record_stream(
        self, stream: Stream, keys: Sequence[str], schema: Mapping[str, Any], updated_at: datetime | None = None
    ) -> None:
        """Note the stream's current keys and schema in ops.streams."""
        with self._transaction():
            where = [stream.source, stream.name]
            self._con.execute("delete from ops.streams where source = ? and stream = ?", where)
            values = [*where, json.dumps(list(keys)), json.dumps(schema, default=str), updated_at]
            self._con.execute("insert into ops.streams values (?, ?, ?, ?, coalesce(?, now()))", values)

    def make_table(self, stream: Stream, columns: Mapping[str, str]) -> None:
        """Make the raw table if there is none, so that a stream without rows can be read too."""
        with self._transaction():
            self._create_table(stream, columns)

    def streams(self) -> dict[Stream, tuple[list[str], dict[str, Any]]]:
        """Keys and schema of each stream of ops.streams."""
        rows = self._con.execute(
            "select source, stream, key_properties, schema from ops.streams order by source, stream"
        ).fetchall()
        return {Stream(source, name): (json.loads(keys), json.loads(schema)) for source, name, keys, schema in rows}

    def quarantined(self, stream: Stream) -> Iterator[list[Quarantined]]:
        """The records that wait in quarantine, in chunks; what a chunk's load replays does not come again."""
        last = ""
        while True:
            rows = self._con.execute(
                "select quarantine_id, load_id, payload, source_file, line_number from ops.quarantine "
                "where source = ? and stream = ? and replayed_load_id is null and quarantine_id > ? "
                f"order by quarantine_id limit {_REPLAY_CHUNK}",
                [stream.source, stream.name, last],
            ).fetchall()
            if not rows:
                return
            yield [Quarantined(*row) for row in rows]
            last = rows[-1][0]

    def record_syncs(self, syncs: Iterable[Sync]) -> None:
        """Append to ops.syncs."""
        with self._transaction():
            for sync in syncs:
                counts = sync.counts
                self._con.execute(
                    "insert into ops.syncs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        sync.sync_id,
                        sync.stream.source,
                        sync.stream.name,
                        sync.started_at,
                        sync.finished_at,
                        counts.extracted,
                        counts.loaded,
                        counts.quarantined,
                        counts.dropped,
                        sync.status,
                        sync.run_id,
                    ],
                )

    def close(self) -> None:
        """Checkpoint and release the file."""
        self._con.close()


def _table(stream: Stream) -> str:
    return f"{identifier(stream.schema)}.{identifier(stream.name)}"


def _rows_sql(batch: Batch) -> str:
    """A query for the rows of a batch, which after compaction shares its file with others."""
    file = f"read_parquet({literal(str(batch.file))})"
    if not batch.shares_file:
        return f"from {file}"
    columns = ", ".join(identifier(name) for name in (*batch.columns, *METADATA_COLUMNS))
    return f"select {columns} from {file} where _sdc_load_id = {batch.load_id}"


def open_existing(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open a warehouse as it is, which keeps its writers out, and unless `read_only` its readers.

    Raises UserError when it is in use, and duckdb.Error when it is damaged.
    """
    try:
        return lifeline.once_free(
            lambda: duckdb.connect(str(path), read_only=read_only), lambda error: is_in_use(str(error))
        )
    except duckdb.IOException as error:
        if is_in_use(str(error)):
            raise UserError(opening_failed(path, first_line(error))) from error
        raise


def is_in_use(reason: str) -> bool:
    """Whether DuckDB's message says that another process has the file open."""
    return "Conflicting lock" in reason or "Could not set lock" in reason


def opening_failed(path: Path, reason: str) -> str:
    """Why a warehouse cannot be opened, and what to do."""
    if is_in_use(reason):
        return f"{path} is in use by another process (a run, dbt or a reader); wait until it has ended, then run again"
    return f"cannot open the warehouse {path}: {reason}; check WAREHOUSE_HOME, its rights and the disk"
