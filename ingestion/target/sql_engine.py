"""What raw and ops are in SQL, whatever the engine: the ledger, the columns of raw, and who is asked for what."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import duckdb
import pyarrow as pa

from ingestion.errors import UserError
from ingestion.lake import METADATA_COLUMNS, Batch, Stream, identifier, literal
from ingestion.lake.checking import ELSEWHERE, check_shop
from ingestion.lake.column_types import TEXT, column_widened
from ingestion.target.core import Quarantined, Sync, Version
from ingestion.target.records import Limits

OPS = (
    "create schema if not exists ops",
    "create table if not exists ops.warehouse (shop text not null, created_at timestamptz not null)",
    """create table if not exists ops.loads (
        load_id bigint primary key, batch_id text not null unique, source text not null, stream text not null,
        kind text not null, rows_extracted bigint not null, rows_loaded bigint not null,
        rows_quarantined bigint not null, rows_dropped bigint not null, lake_file text not null, origin text not null,
        extracted_at timestamptz not null, committed_at timestamptz not null
    )""",
    """create table if not exists ops.quarantine (
        quarantine_id text primary key, load_id bigint not null, source text not null, stream text not null,
        reason text, column_name text, payload text, source_file text, line_number bigint,
        quarantined_at timestamptz not null, replayed_load_id bigint
    )""",
    """create table if not exists ops.streams (
        source text not null, stream text not null, key_properties text not null, schema text not null,
        updated_at timestamptz not null
    )""",
    """create table if not exists ops.syncs (
        sync_id text not null, source text not null, stream text not null, started_at timestamptz not null,
        finished_at timestamptz not null, rows_extracted bigint not null, rows_loaded bigint not null,
        rows_quarantined bigint not null, rows_dropped bigint not null, status text not null, run_id text
    )""",
)
"""The statements that make ops, each for itself."""
_REPLAY_CHUNK = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(load_id: int) -> datetime:
    """When a load's batch was begun."""
    return _EPOCH + timedelta(microseconds=load_id)


class SqlEngine(ABC):
    """An engine (`core.Engine`) in words that DuckDB and PostgreSQL share; what differs is left to each."""

    limits: ClassVar[Limits] = Limits()
    #: How messages call the warehouse, and what a user changes to have another one.
    name: str
    elsewhere: ClassVar[str] = ELSEWHERE

    @abstractmethod
    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement, with `$1`, `$2`, ... for the values, and return its rows."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[None]:
        """What runs inside is committed together, or not at all when it raises."""

    @property
    @abstractmethod
    def _files(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB that reads the lake's files."""

    @abstractmethod
    def columns(self, stream: Stream) -> dict[str, str]:
        """Data columns of the raw table with their types; empty when there is none."""

    @abstractmethod
    def _append(self, batch: Batch, columns: Mapping[str, str]) -> int:
        """Append a batch's rows to raw, which fits them; returns how many. `columns` are the file's, with types."""

    @abstractmethod
    def _append_quarantine(self, batch: Batch) -> None:
        """Append a batch's quarantined records to ops."""

    @abstractmethod
    def _asked(self, texts: Sequence[pa.Array], types: Sequence[str]) -> AbstractContextManager[str]:
        """A relation, as SQL, of the texts (text0, text1, ...) and of what each is as its type, or null (key0, ...)."""

    def _held(self, kind: str) -> str:
        """The type of a column of raw for values of this type of the lake."""
        return kind

    def _sql_type(self, kind: str) -> str:
        """The engine's own name of a type that `_held` gave."""
        return kind

    def _make_ops(self, shop: str) -> None:
        """Make ops, and check that the warehouse is the shop's. Raises UserError when it is not."""
        for statement in OPS:
            self._rows(statement)
        self._claim(shop)

    def _claim(self, shop: str) -> None:
        """Write the shop's name into a new warehouse, or refuse one that is another's."""
        if not self._rows("select 1 from ops.warehouse"):
            self._rows("insert into ops.warehouse values ($1, now())", shop)
        check_shop(self._rows, self.name, shop, self.elsewhere)

    def batch_ids(self, stream: Stream) -> set[str]:
        """The batches of the stream that the ledger has."""
        query = "select batch_id from ops.loads where source = $1 and stream = $2"
        return {row[0] for row in self._rows(query, stream.source, stream.name)}

    def has_load(self, stream: Stream, load_id: int) -> bool:
        """Whether the ledger has this load of the stream."""
        query = "select 1 from ops.loads where source = $1 and stream = $2 and load_id = $3"
        return bool(self._rows(query, stream.source, stream.name, load_id))

    def has_source_file(self, stream: Stream, source_file: str) -> bool:
        """Whether the ledger has a batch of this file."""
        query = (
            "select 1 from ops.loads where source = $1 and stream = $2"
            " and (cast(origin as json) ->> 'source_file') = $3 limit 1"
        )
        return bool(self._rows(query, stream.source, stream.name, source_file))

    def has_successor(self, stream: Stream, follows: str | None) -> bool:
        """Whether the ledger has a batch of a database stream that follows this one; None: that is its first."""
        # The first one has a null in JSON there, others have nothing.
        query = (
            "select 1 from ops.loads where source = $1 and stream = $2 and (cast(origin as json) -> 'follows')"
            " is not null and (cast(origin as json) ->> 'follows') is not distinct from cast($3 as text) limit 1"
        )
        return bool(self._rows(query, stream.source, stream.name, follows))

    def load(self, batch: Batch, kind: str, replayed: Sequence[str] = ()) -> bool:
        """Commit a batch in one transaction; False when the ledger has it already."""
        with self._transaction():
            return self._load(batch, kind, replayed)

    def _load(self, batch: Batch, kind: str, replayed: Sequence[str]) -> bool:
        stream = batch.stream
        if self._rows("select 1 from ops.loads where batch_id = $1", batch.batch_id):
            return False
        columns = self._columns_of(batch)
        self._fit_table(batch, columns)
        loaded = self._append(batch, columns)
        # A file that is not what its metadata says would break every count after it.
        if loaded != batch.rows_loaded:
            raise UserError(f"stream {stream.id}: {batch.file} is damaged: it should have {batch.rows_loaded} rows")
        if batch.quarantine_file:
            self._append_quarantine(batch)
        if replayed:
            self._rows(
                "update ops.quarantine set replayed_load_id = $1"
                " where replayed_load_id is null and quarantine_id in (select unnest(cast($2 as text[])))",
                batch.load_id,
                list(replayed),
            )
        self._rows(
            "insert into ops.loads values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now())",
            batch.load_id,
            batch.batch_id,
            stream.source,
            stream.name,
            kind,
            batch.rows_extracted,
            batch.rows_loaded,
            batch.rows_quarantined,
            batch.rows_dropped,
            str(stream.folder / batch.file.name),
            json.dumps(batch.origin, ensure_ascii=False),
            self._extracted_at(batch) or moment_of(batch.load_id),
        )
        return True

    def _columns_of(self, batch: Batch) -> dict[str, str]:
        """All columns of a batch's file, metadata too, with their types."""
        query = f"describe select * from read_parquet({literal(str(batch.file))})"
        return {row[0]: row[1] for row in self._files.execute(query).fetchall()}

    def _extracted_at(self, batch: Batch) -> datetime | None:
        """When the last of a batch's rows was extracted; None where it has none."""
        query = f"select max(_sdc_extracted_at) from ({rows_sql(batch)})"
        return self._files.execute(query).fetchall()[0][0]

    def _fit_table(self, batch: Batch, columns: Mapping[str, str]) -> None:
        """Make the raw table, or give it the batch's new columns and wider types."""
        stream = batch.stream
        incoming = {name: self._held(columns[name]) for name in columns if name in batch.columns}
        self._create_table(stream, incoming)
        existing = {name.lower(): (name, kind) for name, kind in self.columns(stream).items()}
        for name, kind in incoming.items():
            if name.lower() not in existing:
                self._add_column(stream, name, kind)
                continue
            own_name, old = existing[name.lower()]
            new = self._widened(old, kind)
            if new is None:
                raise UserError(
                    f"stream {stream.id}: column {name} is {kind} in {batch.file.name} and {old} in raw, and "
                    f"neither widens to the other; alter {stream.schema}.{stream.name} to a type that "
                    "holds both, then run again"
                )
            if new != old:
                self._widen(stream, own_name, old, new)

    def _widened(self, old: str, new: str) -> str | None:
        """The type that a column of type `old` gets for values of type `new`, or None."""
        return column_widened(old, new)

    def _add_column(self, stream: Stream, name: str, kind: str) -> None:
        self._rows(f"alter table {table(stream)} add column {identifier(name)} {self._sql_type(kind)}")

    def _widen(self, stream: Stream, name: str, old: str, new: str) -> None:
        """Give a column of raw a type that holds all that the old one held."""
        self._rows(f"alter table {table(stream)} alter column {identifier(name)} type {self._sql_type(new)}")

    def _create_table(self, stream: Stream, columns: Mapping[str, str]) -> None:
        """Make the raw table if there is none; `columns` have types that `_held` gave."""
        types = {**columns, **{name: self._held(kind) for name, kind in METADATA_COLUMNS.items()}}
        defined = ", ".join(f"{identifier(name)} {self._sql_type(kind)}" for name, kind in types.items())
        self._rows(f"create schema if not exists {identifier(stream.schema)}")
        self._rows(f"create table if not exists {table(stream)} ({defined})")

    def current_versions(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], Version]:
        """The version of each given key that raw received last."""
        query = (
            "select {keys}, _sdc_operation, _sdc_row_hash from (select *, row_number() over"
            " (partition by {keys} order by _sdc_load_id desc, _sdc_sequence desc) as place from found) as ranked"
            " where place = 1"
        )
        rows = self._of_keys(stream, keys, values, query)
        return {tuple(row[:-2]): (row[-2], row[-1]) for row in rows}

    def newest_loads(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], int]:
        """The latest load of each given key that raw has, of those that replayed nothing."""
        rows = self._of_keys(
            stream,
            keys,
            values,
            "select {keys}, max(_sdc_load_id) from found"
            " where _sdc_load_id not in (select load_id from ops.loads where kind = 'replay') group by {keys}",
        )
        return {tuple(row[:-1]): row[-1] for row in rows}

    def _of_keys(
        self, stream: Stream, keys: Sequence[str], values: Iterable[tuple[str, ...]], query: str
    ) -> list[tuple[Any, ...]]:
        """The result of a query over `found`: raw's metadata of the rows with the given keys.

        `{keys}` in the query stands for the keys as text, as they were given.
        """
        columns = {name.lower(): (name, kind) for name, kind in self.columns(stream).items()}
        values = list(values)
        if not values or any(key.lower() not in columns for key in keys):
            return []
        own = [columns[key.lower()] for key in keys]
        texts = [pa.array(column, pa.string()) for column in zip(*values, strict=True)]
        names = ", ".join(f"text{n}" for n in range(len(keys)))
        on = " and ".join(f"raw.{identifier(name)} = asked.key{n}" for n, (name, _) in enumerate(own))
        with self._asked(texts, [kind for _, kind in own]) as asked:
            return self._rows(
                f"with found as (select {names}, raw._sdc_operation, raw._sdc_row_hash, raw._sdc_load_id,"
                f" raw._sdc_sequence from {table(stream)} as raw join {asked} as asked on {on})"
                f" {query.format(keys=names)}"
            )

    def occurrences(self, stream: Stream, rows: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The highest `_sdc_occurrence` of each given (source file, row hash)."""
        rows = list(rows)
        if not rows or not self.columns(stream):
            return {}
        texts = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        with self._asked(texts, [TEXT, TEXT]) as asked:
            found = self._rows(
                f"select text0, text1, max(raw._sdc_occurrence) from {table(stream)} as raw join {asked} as asked"
                " on raw._sdc_source_file = asked.key0 and raw._sdc_row_hash = asked.key1 group by text0, text1"
            )
        return {(file, row_hash): highest or 0 for file, row_hash, highest in found}

    def record_stream(
        self, stream: Stream, keys: Sequence[str], schema: Mapping[str, Any], updated_at: datetime | None = None
    ) -> None:
        """Note the stream's current keys and schema in ops.streams."""
        with self._transaction():
            self._rows("delete from ops.streams where source = $1 and stream = $2", stream.source, stream.name)
            self._rows(
                "insert into ops.streams values ($1, $2, $3, $4, coalesce(cast($5 as timestamptz), now()))",
                stream.source,
                stream.name,
                json.dumps(list(keys)),
                json.dumps(schema, default=str),
                updated_at,
            )

    def make_table(self, stream: Stream, columns: Mapping[str, str]) -> None:
        """Make the raw table if there is none, so that a stream without rows can be read too."""
        with self._transaction():
            self._create_table(stream, {name: self._held(kind) for name, kind in columns.items()})

    def streams(self) -> dict[Stream, tuple[list[str], dict[str, Any]]]:
        """Keys and schema of each stream of ops.streams."""
        rows = self._rows("select source, stream, key_properties, schema from ops.streams")
        found = {Stream(source, name): (json.loads(keys), json.loads(schema)) for source, name, keys, schema in rows}
        return dict(sorted(found.items()))

    def quarantined(self, stream: Stream) -> Iterator[list[Quarantined]]:
        """The records that wait in quarantine, in the order in which they came, in chunks.

        What a chunk's load replays does not come again.
        """
        return self._records(stream, "replayed_load_id is null", (-1, 0, ""))

    def replayed(self, stream: Stream, after: tuple[int, int, str]) -> Iterator[list[Quarantined]]:
        """The records that came after this `Quarantined.place` and were replayed since, in that order, in chunks."""
        return self._records(stream, "replayed_load_id is not null", after)

    def _records(self, stream: Stream, condition: str, after: tuple[int, int, str]) -> Iterator[list[Quarantined]]:
        """A stream's records of ops.quarantine beyond a `Quarantined.place`."""
        while True:
            rows = self._rows(
                "select quarantine_id, load_id, payload, source_file, line_number from ops.quarantine "
                f"where source = $1 and stream = $2 and {condition}"
                " and (load_id, length(quarantine_id), quarantine_id) > ($3, $4, $5)"
                f" order by load_id, length(quarantine_id), quarantine_id limit {_REPLAY_CHUNK}",
                stream.source,
                stream.name,
                *after,
            )
            if not rows:
                return
            records = [Quarantined(*row) for row in rows]
            after = records[-1].place
            yield records

    def record_syncs(self, syncs: Iterable[Sync]) -> None:
        """Append to ops.syncs."""
        with self._transaction():
            for sync in syncs:
                counts = sync.counts
                self._rows(
                    "insert into ops.syncs values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
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
                )


def table(stream: Stream) -> str:
    """The raw table's name in SQL."""
    return f"{identifier(stream.schema)}.{identifier(stream.name)}"


def rows_sql(batch: Batch) -> str:
    """A query, in DuckDB, for the rows of a batch, which after compaction shares its file with others."""
    file = f"read_parquet({literal(str(batch.file))})"
    if not batch.shares_file:
        return f"from {file}"
    columns = ", ".join(identifier(name) for name in (*batch.columns, *METADATA_COLUMNS))
    return f"select {columns} from {file} where _sdc_load_id = {batch.load_id}"


def asked_sql(texts: str, types: Sequence[str]) -> str:
    """A query, in DuckDB, for a relation of texts and what they are as the types, or null: see `_asked`."""
    casts = ", ".join(f"try_cast(text{n} as {kind}) as key{n}" for n, kind in enumerate(types))
    return f"select *, {casts} from {texts}"
