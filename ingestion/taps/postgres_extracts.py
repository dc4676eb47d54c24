"""Extracts of one table into the lake: whole, or by a replication key (docs/contracts.md, "Database streams")."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.erased import Erased
from ingestion.errors import UserError
from ingestion.lake import Batch, Lake, Stream, Workplace, identifier, literal
from ingestion.lake.arrow_writer import BATCH_ROWS, ArrowWriter
from ingestion.lake.column_types import TEXT, number_widened, widened
from ingestion.lake.comparison import Differences, Held, compare
from ingestion.lake.row_groups import RowGroups
from ingestion.taps.postgres_catalog import Table
from ingestion.taps.postgres_connection import Server
from ingestion.taps.postgres_reading import Snapshot, page_ranges
from ingestion.taps.postgres_types import Column, Converted, Unfit, adbc_to_lake, payload, select_list

WORK = ".tmp-tap-postgres"
# A smaller table is read faster by one connection than several are opened.
_PAGES_PER_CONNECTION = 10_000

_UNFIT_COLUMNS = ["reason", "column_name", "payload"]

_BOOKMARK = "replication_key_value"

Position = Callable[[bool], dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """The tap's settings of extracts; docs of each are in `TapPostgres.config_jsonschema`."""

    batch_size_rows: int = BATCH_ROWS
    memory_limit: str = "256MB"
    read_connections: int = 1
    max_vanished_share: float = 0.5
    on_type_change: str = "quarantine"


@dataclass
class Counts:
    """Rows of one extract."""

    read: int = 0
    loaded: int = 0
    quarantined: int = 0
    dropped: int = 0


@dataclass
class TableLake:
    """One stream's side of the lake: its batches, its columns as the lake keeps them, and the writer of new ones.

    `columns` are those selected; `conditions` are SQL that every row meets; `erased` says what does not come back. The
    caller holds the stream's lock.
    """

    lake: Lake
    stream: Stream
    table: Table
    columns: Sequence[Column]
    keys: Sequence[str]
    options: Options
    sync_started_at: int
    logger: logging.Logger
    conditions: Sequence[str] = ()
    erased: Erased | None = None
    counts: Counts = field(default_factory=Counts)

    @cached_property
    def manifest(self) -> list[Batch]:
        """The stream's batches when the run began."""
        return self.lake.manifest(self.stream)

    @cached_property
    def held_types(self) -> dict[str, str]:
        """DuckDB's type of every column that the lake had when the run began, by name."""
        # Batches of other writers say nothing of types.
        told = (batch.origin["types"] for batch in reversed(self.manifest) if "types" in batch.origin)
        return next(told, {})

    @cached_property
    def types(self) -> dict[str, str]:
        """DuckDB's type of every column that the lake has or will have, by name."""
        held = dict(self.held_types)
        for column in self.columns:
            held[column.name] = self._held_type(column, held.get(column.name))
        return held

    def _held_type(self, column: Column, old: str | None) -> str:
        wanted = column.own_type
        # Text instead of numbers is another meaning.
        widen = number_widened if column.base == "numeric" else widened
        kind = widen(old, wanted) if old else wanted
        if kind is not None:
            return kind
        # Old bytes as text would equal no text of PostgreSQL's, so that they would change with every run.
        if self.options.on_type_change == "text" and old != "BLOB":
            self.logger.warning("%s: column %s is now %s and text in raw", self.stream.id, column.name, column.type)
            return TEXT
        if self.options.on_type_change == "fail":
            raise UserError(
                f"stream {self.stream.id}: column {column.name}: its type changed from {old} to {wanted}, and neither"
                " holds the other's values; change the column back, or set on_type_change to text (the column is text"
                " from then on) or quarantine (rows that do not fit wait there)"
            )
        self.logger.warning(
            "%s: column %s is now %s, which %s in raw does not hold; rows whose value does not fit are quarantined",
            self.stream.id,
            column.name,
            column.type,
            old,
        )
        assert old is not None
        return old

    @cached_property
    def lake_columns(self) -> list[Column]:
        """The selected columns, as the lake keeps them."""
        return [column.holding(self.types[column.name]) for column in self.columns]

    @cached_property
    def schema(self) -> pa.Schema:
        """The selected columns in the lake's types."""
        return pa.schema([pa.field(column.name, column.arrow_type) for column in self.lake_columns])

    @cached_property
    def writer(self) -> ArrowWriter:
        """The writer of this run's batches."""
        return ArrowWriter(
            self.lake,
            self.stream,
            sync_started_at=self.sync_started_at,
            batch_rows=self.options.batch_size_rows,
        )

    def close(self, position: Mapping[str, Any], **origin: Any) -> Batch:
        """Close the open batch at a position."""
        writer = self.writer
        self.counts.loaded += writer.rows
        self.counts.quarantined += writer.unfit
        self.counts.dropped += writer.dropped
        return writer.close(self.schema, {"position": dict(position), "types": self.types, **origin})

    def converted(self, rows: pa.RecordBatch) -> Converted:
        """Rows of ADBC in the lake's types; those without key do not fit."""
        self.counts.read += rows.num_rows
        converted = without_null_keys(self.lake_columns, self.keys, adbc_to_lake(self.lake_columns, rows))
        return without_erased(self.erased, self.stream.id, converted)


def without_erased(erased: Erased | None, stream: str, converted: Converted) -> Converted:
    """Take what is personal of erased persons out of rows, those that do not fit among them."""
    if erased is None:
        return converted
    unfit = [replace(bad, payload=erased.payload(stream, bad.payload)) for bad in converted.unfit]
    return Converted(erased.arrow(stream, converted.rows), unfit, converted.kept)


def without_null_keys(columns: Sequence[Column], keys: Sequence[str], converted: Converted) -> Converted:
    """Put aside the rows whose key is null, which only a key that the user named can be."""
    rows = converted.rows
    nulls = [key for key in keys if rows.column(key).null_count]
    if not nulls:
        return converted
    unfit = list(converted.unfit)
    valid = pc.is_valid(rows.column(nulls[0]))
    for key in nulls[1:]:
        valid = pc.and_(valid, pc.is_valid(rows.column(key)))
    for row in pc.indices_nonzero(pc.invert(valid)).to_pylist():
        column = next(key for key in nulls if not rows.column(key)[row].is_valid)
        place = converted.kept[row].as_py() if converted.kept is not None else row
        unfit.append(Unfit(place, column, "key is missing or null", payload(columns, rows, row, {})))
    places = pc.indices_nonzero(valid).cast(pa.int64())
    kept = places if converted.kept is None else converted.kept.take(places)
    return Converted(rows.filter(valid), unfit, kept)


class Rewritten(Exception):
    """A table was truncated or rewritten after the snapshot that it was to be read in, where it now looks empty."""


@dataclass
class Extract:
    """Reads a table within one snapshot and appends to the lake what that does not hold yet."""

    server: Server
    target: TableLake
    snapshot: str | None = None

    @property
    def _subject(self) -> str:
        return f"stream {self.target.stream.id}: {self.target.table.label}"

    def full(self, position: Position) -> Iterator[Batch]:
        """The whole table: appended where the lake has nothing, else compared with it.

        `position` gives a batch's position by whether the extract is complete with it. Raises Rewritten, only where a
        snapshot is given.
        """
        with Snapshot(self.server, self._subject, snapshot=self.snapshot) as snapshot:
            if self.snapshot:
                self._check_rewritten(snapshot)
            queries = self._queries(snapshot)
            if any(batch.rows_loaded or batch.rows_quarantined for batch in self.target.manifest):
                yield from self._compared(snapshot, queries, position, lambda: [held_files(self.target.manifest)])
            else:
                yield from self._appended(snapshot, queries, position)

    def _check_rewritten(self, snapshot: Snapshot) -> None:
        """Compare the table's file as it was with that of now; the query locks the table against others later."""
        table = self.target.table
        (is_same,) = snapshot.values(
            "select bool_and(nullif(relfilenode, 0) is not distinct from pg_relation_filenode(oid))"
            f" and not exists (select from {table.sql} limit 0) as is_same"
            f" from pg_class where oid = {table.oid} or oid in (select relid from pg_partition_tree({table.oid}))"
        )
        if not is_same:
            raise Rewritten

    def _queries(self, snapshot: Snapshot) -> list[str]:
        table, target = self.target.table, self.target
        query = select_query(table, target.lake_columns, target.conditions)
        if target.options.read_connections == 1 or table.kind not in {"table", "materialized view"}:
            return [query]
        version, pages = snapshot.values(
            "select current_setting('server_version_num')::integer as version,"
            f" pg_relation_size({table.oid}) / current_setting('block_size')::bigint as pages"
        )
        parts = min(target.options.read_connections, pages // _PAGES_PER_CONNECTION)
        # Before version 14 every connection would read all pages.
        if parts < 2 or version < 140_000:
            return [query]
        ranges = page_ranges(pages, parts)
        return [select_query(table, target.lake_columns, [*target.conditions, pages]) for pages in ranges]

    def _appended(
        self, snapshot: Snapshot, queries: Sequence[str], position: Position, observe: Observer | None = None
    ) -> Iterator[Batch]:
        target, writer = self.target, self.target.writer
        for batch in snapshot.read(queries):
            extracted_at = datetime.now(UTC)
            converted = target.converted(batch)
            rows = converted.rows
            while rows.num_rows or converted.unfit:
                # Only when more comes: the last batch is the complete one.
                if writer.is_full:
                    yield target.close(position(False), appended=True, **(observe.origin() if observe else {}))
                part, rows = rows.slice(0, writer.room), rows.slice(writer.room)
                if observe:
                    observe.see(part)
                writer.add(part, extracted_at=extracted_at)
                writer.quarantine([(bad.reason, bad.column, bad.payload) for bad in converted.unfit])
                converted = Converted(rows, [])
        yield target.close(position(True), appended=True, **(observe.origin() if observe else {}))

    def _compared(
        self,
        snapshot: Snapshot,
        queries: Sequence[str],
        position: Position,
        held: Callable[[], Sequence[Held]],
        *,
        deletes: bool = True,
        observe: Observer | None = None,
    ) -> Iterator[Batch]:
        """Read into a file beside the lake, then append what differs from what is held there."""
        target = self.target
        folder = target.lake.root / WORK / target.stream.id
        with Workplace.at(folder, target.options.memory_limit) as place:
            extracted_at = datetime.now(UTC)
            spool = self._spooled(snapshot, queries, folder, observe)
            self._check_key(place.con, spool)
            differences = compare(
                place.con,
                new=spool.file,
                new_rows=spool.rows,
                new_bytes=spool.bytes,
                held=held(),
                columns={column.name: column.warehouse_type for column in target.lake_columns},
                keys=target.keys,
                file=folder / "differences.parquet",
                skipped_keys=self._skipped_keys(place.con, spool) if deletes and spool.unfit and target.keys else None,
                deletes=deletes,
            )
            yield from self._differing(place.con, spool, differences, extracted_at, position, observe)

    def _spooled(
        self,
        snapshot: Snapshot,
        queries: Sequence[str],
        folder: Path,
        observe: Observer | None,
    ) -> _Spool:
        """Read the rows into a Parquet file, and what does not fit into another."""
        target = self.target
        rows_file: RowGroups | None = None
        bad_file: RowGroups | None = None
        spool = _Spool(folder / "rows.parquet", folder / "unfit.parquet")
        for rows in snapshot.read(queries):
            converted = target.converted(rows)
            if observe:
                observe.see(converted.rows)
            if rows_file is None:
                rows_file = RowGroups(spool.file, target.schema)
            rows_file.add(converted.rows)
            spool.rows += converted.rows.num_rows
            spool.bytes += converted.rows.nbytes
            if converted.unfit:
                reasons = [(bad.reason, bad.column, bad.payload) for bad in converted.unfit]
                arrays = [pa.array(each, pa.string()) for each in zip(*reasons, strict=True)]
                table = pa.RecordBatch.from_arrays(arrays, names=_UNFIT_COLUMNS)
                if bad_file is None:
                    bad_file = RowGroups(spool.unfit_file, table.schema)
                bad_file.add(table)
                spool.unfit += table.num_rows
        if rows_file is None:
            rows_file = RowGroups(spool.file, target.schema)
        rows_file.close()
        if bad_file is not None:
            bad_file.close()
        return spool

    def _check_key(self, con: duckdb.DuckDBPyConnection, spool: _Spool) -> None:
        """Refuse a key that several rows have, which only one that the user named can be."""
        keys, own = self.target.keys, self.target.table.keys
        if not keys or (own and set(own) <= set(keys)):
            return
        names = ", ".join(identifier(key) for key in keys)
        found = con.execute(
            f"select count(*), {names} from read_parquet({literal(str(spool.file))}) group by {names}"
            " having count(*) > 1 limit 1"
        ).fetchall()
        if found:
            count, *values = found[0]
            shown = ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
            raise UserError(
                f"{self._subject}: {count} rows have {shown}, so that {', '.join(keys)} is no key of it; correct"
                " table-key-properties, or leave them out: rows are then compared by their content"
            )

    def _skipped_keys(self, con: duckdb.DuckDBPyConnection, spool: _Spool) -> str:
        """Rows that do not fit did not vanish: a view of their keys."""
        types = {column.name: column.warehouse_type for column in self.target.lake_columns}
        keys = ", ".join(
            f"try_cast(json_extract_string(payload, {literal(_json_path(key))}) as {types[key]}) as {identifier(key)}"
            for key in self.target.keys
        )
        con.execute(f"create temp view unfit_keys as select {keys} from read_parquet({literal(str(spool.unfit_file))})")
        return "unfit_keys"

    def _differing(
        self,
        con: duckdb.DuckDBPyConnection,
        spool: _Spool,
        differences: Differences,
        extracted_at: datetime,
        position: Position,
        observe: Observer | None,
    ) -> Iterator[Batch]:
        target, writer = self.target, self.target.writer
        share = target.options.max_vanished_share
        if differences.vanished_share > share:
            # Not even what is new: it would count as held in the next run, and the share of what vanished fall.
            raise UserError(
                f"{self._subject}: {differences.deletes} of {differences.held} rows vanished, more than"
                f" max_vanished_share {share:g}; nothing of this extract was taken. Look whether the table is whole; if"
                " it is, raise max_vanished_share for one run"
            )
        origin = observe.origin() if observe else {}
        unfit = self._new_unfit(con, spool) if spool.unfit else 0
        writer.drop(spool.rows - differences.upserts + spool.unfit - unfit)
        if unfit:
            for rows in con.sql("select reason, column_name, payload from new_unfit").to_arrow_reader(10_000):
                columns = [column.to_pylist() for column in rows.columns]
                writer.quarantine(list(zip(*columns, strict=True)))
                if writer.is_full:
                    yield target.close(position(False), **origin)
        # Deletes come first, in the order of versions too: one without key may cancel the old content of a row whose
        # new content follows, and if the table has a key later, that is the newest version of it.
        for operation in ("delete", "upsert"):
            for rows in differences.rows(operation):
                if writer.is_full:
                    yield target.close(position(False), **origin)
                cast = pa.Table.from_batches([rows]).cast(target.schema).combine_chunks().to_batches()
                for each in cast:
                    writer.add(
                        each,
                        extracted_at=extracted_at,
                        operation=operation,
                        sequence=writer.load_id + (operation == "upsert"),
                        deleted_at=extracted_at if operation == "delete" else None,
                    )
        target.counts.dropped += 0 if writer.is_open else writer.dropped
        last = writer.last.origin.get("position", {}) if writer.last else {}
        # A bookmark alone is not worth a batch without rows: the next run looks at the same rows again.
        same = all(last.get(name) == value for name, value in position(True).items() if name != _BOOKMARK)
        # The next run, whatever its settings, goes on with the types of this one.
        retyped = any(target.types[name] != kind for name, kind in target.held_types.items())
        if writer.is_open or not same or retyped:
            yield target.close(position(True), **origin)

    def _new_unfit(self, con: duckdb.DuckDBPyConnection, spool: _Spool) -> int:
        """Keep those rows that are not in quarantine yet, as `new_unfit`; how many they are."""
        files = [batch.quarantine_file for batch in self.target.manifest if batch.quarantine_file]
        known = "select null::varchar as payload where false"
        if files:
            listed = ", ".join(literal(str(file)) for file in files if file.exists())
            known = f"select payload from read_parquet([{listed}])" if listed else known
        con.execute(
            f"create temp table new_unfit as select * from read_parquet({literal(str(spool.unfit_file))})"
            f" where payload not in ({known})"
        )
        return con.execute("select count(*) from new_unfit").fetchall()[0][0]


def select_query(table: Table, columns: Sequence[Column], conditions: Sequence[str]) -> str:
    """The query for the rows of a table that meet all conditions, as `adbc_to_lake` takes them."""
    where = f" where {' and '.join(f'({condition})' for condition in conditions)}" if conditions else ""
    return f"select {select_list(columns)} from {table.sql}{where}"


def held_files(batches: Sequence[Batch], condition: str = "true") -> Held:
    """The files of batches that have rows, each once."""
    return Held(list(dict.fromkeys(batch.file for batch in batches if batch.rows_loaded)), condition)


class Observer:
    """Sees the rows of an extract, for what its batches' origin says of them."""

    def see(self, rows: pa.RecordBatch) -> None:
        """Look at rows in the lake's types."""

    def origin(self) -> dict[str, Any]:
        """What the origin of a batch has besides its position."""
        return {}


@dataclass
class _Spool:
    """An extract in files of its own: rows that fit their columns' types, and those that do not."""

    file: Path
    unfit_file: Path
    rows: int = 0
    bytes: int = 0
    unfit: int = 0


def _json_path(key: str) -> str:
    return '$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
