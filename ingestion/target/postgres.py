"""Raw and ops in a PostgreSQL database.

One connection does everything, so that rows (a binary COPY, by ADBC), quarantine and ledger are one transaction. The
lake's files are read by DuckDB, in pieces, and by it their values become those of raw's columns, as on that engine.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import adbc_driver_manager
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ingestion import lifeline
from ingestion.errors import UserError
from ingestion.lake import METADATA_COLUMNS, Batch, Stream, connect, first_line, identifier, literal
from ingestion.lake.checking import Ledger, check_shop, read_ledger
from ingestion.lake.column_types import TEXT, TIME
from ingestion.postgres_service import LOADER, RAW_LOCK
from ingestion.settings import Settings
from ingestion.taps.postgres_connection import Server
from ingestion.target.records import Limits
from ingestion.target.sql_engine import OPS, SqlEngine, asked_sql, rows_sql, table

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection

OLDEST_VERSION = 14
DBT_SCHEMAS = ("staging", "intermediate", "build")
"""Where dbt has its views, which each build makes anew."""
_SESSION = (
    # A commit is on the server's disk before it is told.
    "select set_config('synchronous_commit', 'on', false)"
    " where current_setting('synchronous_commit') in ('off', 'local')",
    # A run waits for its tap, and a load takes its time, however long that is. Not every version has all of these.
    "select set_config(name, '0', false) from pg_settings where name in ('statement_timeout',"
    " 'idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')",
)
# Rows that are on their way at once; more are no quicker.
_CHUNK_ROWS = 30_720

# DuckDB's names of the types that raw has, with PostgreSQL's.
_TYPES = {
    "SMALLINT": "smallint",
    "INTEGER": "integer",
    "BIGINT": "bigint",
    "FLOAT": "real",
    "DOUBLE": "double precision",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp without time zone",
    TIME: "timestamp with time zone",
    "TIME": "time without time zone",
    "BLOB": "bytea",
    TEXT: "text",
}
_NAMES = {kind: name for name, kind in _TYPES.items()} | {"character varying": TEXT}
# Types that PostgreSQL does not have, with the least that holds them. What stands nowhere here is text, or JSON text.
_WIDER = {
    "TINYINT": "SMALLINT",
    "UTINYINT": "SMALLINT",
    "USMALLINT": "INTEGER",
    "UINTEGER": "BIGINT",
    "UBIGINT": "DECIMAL(20,0)",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMPTZ": TIME,
}
# As DuckDB writes bytes; a function, because a column cannot be altered by a query.
_TEXT_OF_BLOB = """
    create or replace function pg_temp.text_of_blob(value bytea) returns text language sql immutable strict as $$
        select coalesce(
            string_agg(
                case
                    when byte between 32 and 126 and byte not in (34, 39, 92) then chr(byte)
                    else chr(92) || 'x' || lpad(upper(to_hex(byte)), 2, '0')
                end,
                '' order by place
            ),
            ''
        )
        from (select place, get_byte(value, place) as byte from generate_series(0, length(value) - 1) as place) as bytes
    $$
"""
# Columns that every table of PostgreSQL has already.
_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")


class PostgresEngine(SqlEngine):
    """The engine for a database of PostgreSQL; see `core.Engine` for its methods. All raise UserError."""

    limits = Limits("PostgreSQL", nul=False, name_bytes=63, names=_SYSTEM_COLUMNS)
    elsewhere = f"let the connection {LOADER} name another database"

    def __init__(self, shop: str, spill: Path, *, memory_limit: str, threads: int, make: bool = True) -> None:
        """Connect, make ops unless `make` is false, and check that the warehouse is the shop's.

        `spill` is the folder of DuckDB, which reads the lake with so much memory. Raises UserError when the database
        cannot be reached or used, another run has it, or the data are another shop's.
        """
        self._server = Server({"service": LOADER}, "target-warehouse")
        parameters = self._server.parameters
        self.name = f"the database {parameters.get('dbname', '')} of {parameters.get('host', 'PostgreSQL')}"
        self._spill, self._memory_limit, self._threads = spill, memory_limit, threads
        self._open: Connection | None = None
        self._in_transaction = False
        try:
            self._check()
            with self._transaction():
                if make:
                    self._make_ops(shop)
                else:
                    check_shop(self._rows, self.name, shop, self.elsewhere)
        except BaseException:
            self.close()
            raise

    @classmethod
    def existing(cls, home: Settings) -> Self:
        """The warehouse of the settings as it is, held against runs; `has_ops` says whether there is one."""
        return cls(home.shop, home.lake / "_spill" / "postgres", memory_limit="256MB", threads=1, make=False)

    def has_ops(self) -> bool:
        """Whether a target has been here."""
        return self._rows("select to_regclass('ops.syncs') is not null") == [(True,)]

    def ledger(self) -> Ledger:
        """All loads by stream."""
        return read_ledger(self._rows)

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """One transaction that begins with empty tables of raw and ops, `ops.syncs` and `ops.warehouse` aside.

        They keep their columns, what reads them and who may. Readers wait until it ends.
        """
        with self._transaction():
            for (name,) in self._rows(
                "select format('%I.%I', schemaname, tablename) from pg_tables"
                " where starts_with(schemaname, 'raw_') and tableowner = current_user"
            ):
                self._rows(f"truncate {name}")
            for name in ("loads", "quarantine", "streams"):
                self._rows(f"delete from ops.{name}")
            yield

    # The connection

    @property
    def _connection(self) -> Connection:
        """The connection, which holds the warehouse's lock; a new one where the last was given up."""
        if self._open is None:
            connection = self._server.connect_arrow({}, autocommit=True)
            try:
                lifeline.once_free(lambda: _take_lock(connection), lambda error: isinstance(error, _InUse))
                for statement in _SESSION:
                    _rows(connection, statement, ())
            except _InUse:
                connection.close()
                raise UserError(
                    f"{self.name} is in use by another process (a run or a build);"
                    " wait until it has ended, then run again"
                ) from None
            except adbc_driver_manager.Error as error:
                connection.close()
                raise self._failed(error) from None
            self._open = connection
        return self._open

    def _check(self) -> None:
        """Refuse a server that cannot be the warehouse's."""
        [(version, encoding)] = self._rows(
            "select current_setting('server_version_num')::bigint, current_setting('server_encoding')"
        )
        if version < OLDEST_VERSION * 10_000:
            raise UserError(
                f"{self.name} is PostgreSQL {version // 10_000}; the warehouse needs {OLDEST_VERSION} or later"
            )
        if encoding != "UTF8":
            raise UserError(f"{self.name} has the encoding {encoding}; make one with encoding 'UTF8' for the warehouse")

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = self._connection
        try:
            return _rows(connection, sql, values)
        except adbc_driver_manager.Error as error:
            if not self._in_transaction:
                self.close()  # It may be lost; who goes on needs another.
            raise self._failed(error) from None

    def _failed(self, error: BaseException, subject: str = "") -> UserError:
        """What the server said, as one line."""
        reason = self._server.reason(error)
        hint = _HINTS.get(str(getattr(error, "sqlstate", None) or "")[:5])
        return UserError(f"{subject}{self.name}: {reason}{f'; {hint}' if hint else ''}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._in_transaction:
            yield  # What is around it commits.
            return
        try:
            self._rows("begin")
            self._in_transaction = True
            yield
            self._rows("commit")
        except BaseException:
            # The server rolls back what a connection leaves. One that failed may be in the middle of a COPY.
            self.close()
            raise
        finally:
            self._in_transaction = False

    def close(self) -> None:
        """Leave the database to others."""
        connection, self._open = self._open, None
        if connection:
            with suppress(adbc_driver_manager.Error):
                connection.close()

    @cached_property
    def _reader(self) -> duckdb.DuckDBPyConnection:
        return connect(self._spill, memory_limit=self._memory_limit, threads=self._threads)

    @property
    def _files(self) -> duckdb.DuckDBPyConnection:
        return self._reader

    # Ops and raw

    def _make_ops(self, shop: str) -> None:
        # Asked first, because `create ... if not exists` needs the right to create also where there is nothing to do.
        if not self.has_ops():
            for statement in OPS:
                self._rows(statement)
            self._rows("create index if not exists loads_of_stream on ops.loads (source, stream)")
            self._rows(
                "create index if not exists quarantine_waiting on ops.quarantine"
                " (source, stream, load_id, length(quarantine_id), quarantine_id)"
                " where replayed_load_id is null"
            )
        self._claim(shop)

    def columns(self, stream: Stream) -> dict[str, str]:
        """Data columns of the raw table with their types; empty when there is none."""
        rows = self._rows(
            "select attname::text, format_type(atttypid, atttypmod) from pg_attribute"
            " join pg_class on pg_class.oid = attrelid join pg_namespace on pg_namespace.oid = relnamespace"
            " where nspname = $1 and relname = $2 and attnum > 0 and not attisdropped order by attnum",
            stream.schema,
            stream.name,
        )
        return {name: _duckdb_name(kind) for name, kind in rows if name not in METADATA_COLUMNS}

    def _held(self, kind: str) -> str:
        wider = _WIDER.get(kind, kind)
        return wider if wider in _TYPES or _DECIMAL.fullmatch(wider) else TEXT

    def _sql_type(self, kind: str) -> str:
        decimal = _DECIMAL.fullmatch(kind)
        return f"numeric({decimal[1]},{decimal[2]})" if decimal else _TYPES[kind]

    def _create_table(self, stream: Stream, columns: Mapping[str, str]) -> None:
        for name in (stream.schema, stream.name, *columns):
            if len(name.encode()) > (self.limits.name_bytes or 0):
                raise UserError(
                    f"stream {stream.id}: {name} is a name of more than {self.limits.name_bytes} bytes, which"
                    " PostgreSQL cannot hold; give the stream or column a shorter one at its source"
                )
        if not self._rows("select 1 where to_regclass($1) is not null", table(stream)):
            super()._create_table(stream, columns)

    def _widen(self, stream: Stream, name: str, old: str, new: str) -> None:
        column, kind = identifier(name), self._sql_type(new)
        if (old, new) == ("BLOB", TEXT):
            self._rows(_TEXT_OF_BLOB)
        value = f"{_text_sql(column, old) if new == TEXT else column}::{kind}"
        views = self._views_on(stream, name)
        if not views:
            self._rows(f"alter table {table(stream)} alter column {column} type {kind} using {value}")
            return
        others = [f"{schema}.{view}" for schema, view in views if schema not in DBT_SCHEMAS]
        if others:
            raise UserError(
                f"stream {stream.id}: column {name} becomes {new}, and {', '.join(others)} read it, for which"
                " PostgreSQL keeps its type: drop these views, run again, and make them anew"
            )
        # A column with views keeps its type, and dbt's views are dbt's: they can only go with the column.
        wider = identifier("_sdc_wider")
        for statement in (
            f"add column {wider} {kind}",
            f"drop column {column} cascade",
            f"rename column {wider} to {column}",
        ):
            self._rows(f"alter table {table(stream)} {statement}")
            if statement.startswith("add"):
                self._rows(f"update {table(stream)} set {wider} = {value}")
        logging.getLogger("target-warehouse").warning(
            "%s: column %s is %s now; views that read it are gone until the next `dbt build` makes them: %s",
            stream.id,
            name,
            new,
            ", ".join(f"{schema}.{view}" for schema, view in views),
        )

    def _views_on(self, stream: Stream, name: str) -> list[tuple[str, str]]:
        """Schema and name of each view that reads a column of raw, itself or by another view."""
        return self._rows(
            """
            with recursive readers as (
                select pg_rewrite.ev_class as view
                from pg_attribute
                join pg_depend on refclassid = 'pg_class'::regclass and refobjid = attrelid and refobjsubid = attnum
                join pg_rewrite on pg_depend.classid = 'pg_rewrite'::regclass and pg_rewrite.oid = objid
                where attrelid = to_regclass($1) and attname = $2
                union
                select pg_rewrite.ev_class
                from readers
                join pg_depend on refclassid = 'pg_class'::regclass and refobjid = readers.view
                join pg_rewrite on pg_depend.classid = 'pg_rewrite'::regclass and pg_rewrite.oid = objid
            )
            select nspname::text, relname::text
            from readers
            join pg_class on pg_class.oid = readers.view
            join pg_namespace on pg_namespace.oid = relnamespace
            order by nspname, relname
            """,
            table(stream),
            name,
        )

    def _append(self, batch: Batch, columns: Mapping[str, str]) -> int:
        own = {name.lower(): (name, kind) for name, kind in self.columns(batch.stream).items()}
        own |= {name: (name, self._held(kind)) for name, kind in METADATA_COLUMNS.items()}
        # Columns without a value need not be sent.
        empty = _empty_columns(batch.file)
        sent = []
        for name, kind in columns.items():
            if name not in empty and name.lower() in own:
                target, target_kind = own[name.lower()]
                sent.append(f"{_sent_sql(identifier(name), kind, target_kind)} as {identifier(target)}")
        query = f"select {', '.join(sent)} from ({rows_sql(batch)})"
        subject = f"stream {batch.stream.id}: {batch.file.name}: "
        return self._copy(subject, batch.stream.schema, batch.stream.name, query)

    def _append_quarantine(self, batch: Batch) -> None:
        source, stream = literal(batch.stream.source), literal(batch.stream.name)
        query = (
            f"select *, {batch.load_id}::bigint as load_id, {source} as source, {stream} as stream,"
            # As on DuckDB: when the batch was written.
            f" make_timestamptz({batch.load_id}) as quarantined_at"
            f" from read_parquet({literal(str(batch.quarantine_file))})"
        )
        self._copy(f"stream {batch.stream.id}: ", "ops", "quarantine", query)

    def _copy(self, subject: str, schema: str | None, name: str, query: str, *, temporary: bool = False) -> int:
        """Append the rows of a query of DuckDB to a table, by COPY; a schema of None is that of temporary tables."""
        try:
            rows = self._files.sql(query).to_arrow_reader(_CHUNK_ROWS)
        except duckdb.InvalidInputException as error:  # `_sent_sql` refuses a value.
            raise UserError(f"{subject}{first_line(error)}") from None
        try:
            with self._connection.cursor() as cursor:
                return cursor.adbc_ingest(name, rows, mode="append", db_schema_name=schema, temporary=temporary)
        except adbc_driver_manager.Error as error:
            raise self._failed(error, subject) from None
        finally:
            rows.close()

    @contextmanager
    def _asked(self, texts: Sequence[pa.Array], types: Sequence[str]) -> Iterator[str]:
        """The relation is a temporary table, filled by DuckDB, so that what is null as a type is so on both engines."""
        kinds = [kind if kind in _TYPES or _DECIMAL.fullmatch(kind) else TEXT for kind in types]
        keys = {f"key{n}": self._sql_type(kind) for n, kind in enumerate(kinds)}
        texts_of = {f"text{n}": array for n, array in enumerate(texts)}
        columns = ", ".join(
            [*(f"{name} text" for name in texts_of), *(f"{name} {kind}" for name, kind in keys.items())]
        )
        self._files.register("asked_text", pa.table(texts_of))
        try:
            with self._transaction():
                self._rows(f"create temporary table asked ({columns}) on commit drop")
                query = f"select {', '.join((*texts_of, *keys))} from ({asked_sql('asked_text', kinds)})"
                self._copy("", None, "asked", query, temporary=True)
                self._rows("analyze asked")
                yield "asked"
        finally:
            self._files.unregister("asked_text")


class _InUse(Exception):
    """Another run holds the warehouse's lock."""


_HINTS = {
    "42501": "prepare the database and its roles (docs/postgres.md)",
    "53100": "free space on the server's disk, then run again",
    "22021": "the lake has text with NUL characters from a time with another engine; PostgreSQL cannot hold it",
}


def _take_lock(connection: Connection) -> None:
    """Be the only run. Raises _InUse while another is."""
    [(is_ours,)] = _rows(connection, "select pg_try_advisory_lock($1::integer, $2::integer)", RAW_LOCK)
    if not is_ours:
        raise _InUse


def _rows(connection: Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, tuple(values) or None)
        return cursor.fetchall() if cursor.description else []


def _duckdb_name(kind: str) -> str:
    """DuckDB's name of a type that `format_type` names; its own, for one that the loader never makes."""
    if match := _NUMERIC.fullmatch(kind):
        precision, scale = int(match[1]), int(match[2])
        if precision <= 38 and 0 <= scale <= precision:
            return f"DECIMAL({precision},{scale})"
    return _NAMES.get(kind, kind)


def _is_nested(kind: str) -> bool:
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION"))


def _sent_sql(column: str, kind: str, target: str) -> str:
    """A column of the lake as COPY takes it for a column of raw, in DuckDB's SQL."""
    if target == TEXT and _is_nested(kind):
        return f"cast(to_json({column}) as varchar)"
    sent = column if kind == target else f"cast({column} as {target})"
    if target in ("DATE", "TIMESTAMP", TIME):
        # The driver would take it for a number, and PostgreSQL for another time.
        return f"case when isinf({sent}) then error('infinity, which a time of raw cannot be') else {sent} end"
    return sent


def _text_sql(column: str, kind: str) -> str:
    """A column of a type as the text that DuckDB writes for its values: what the lake's rows become, loaded again."""
    text = f"{column}::text"
    if kind in ("FLOAT", "DOUBLE"):
        # PostgreSQL writes an exponent from 1e15 on, of FLOAT from 1e6 on, and DuckDB from 1e16 on.
        text = f"case when {text} ~ 'e[+](0[0-9]|1[0-5])$' then {text}::numeric::text else {text} end"
        return (
            f"case when {text} ~ '^-?[0-9]+$' then {text} || '.0'"
            f" when {column} in ('NaN', 'Infinity', '-Infinity') then replace(lower({text}), 'infinity', 'inf')"
            f" else {text} end"
        )
    decimal = _DECIMAL.fullmatch(kind)
    if decimal and decimal[1] == decimal[2]:
        # Without a digit before the point in its type, DuckDB writes none.
        return f"overlay({text} placing '' from strpos({text}, '.') - 1 for 1)"
    return f"pg_temp.text_of_blob({column})" if kind == "BLOB" else column


def _empty_columns(file: Path) -> set[str]:
    """Columns of which the file's footer says that all values are null; none nested, none of a file without rows."""
    with pq.ParquetFile(file) as parquet:
        metadata = parquet.metadata
        if not metadata.num_rows:
            return set()
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        # A nested column's leaves have paths (s.a), which are names of other columns too.
        leaves = ((number, parquet.schema.column(number)) for number in range(metadata.num_columns))
        return {
            leaf.name
            for number, leaf in leaves
            if leaf.path == leaf.name and all(_is_empty(group.column(number)) for group in groups)
        }


def _is_empty(chunk: pq.ColumnChunkMetaData) -> bool:
    statistics = chunk.statistics
    return bool(statistics and statistics.has_null_count and statistics.null_count == chunk.num_values)
