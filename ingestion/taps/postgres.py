"""`tap-postgres`: the tables of a PostgreSQL database (docs/contracts.md, "Database streams")."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import duckdb
import psycopg2
import pyarrow as pa
from singer_sdk import typing as th
from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.singerlib import Catalog, MetadataMapping, SchemaMessage

from ingestion import startup
from ingestion.errors import UserError
from ingestion.lake import Batch, Stream, first_line, identifier, literal
from ingestion.taps.lake_tap import BOOKMARK, ENCODING, LAKE_PATH, LakeStream, LakeTap
from ingestion.taps.postgres_catalog import Table, discover
from ingestion.taps.postgres_connection import DatabaseError, Server
from ingestion.taps.postgres_extracts import (
    Extract,
    Options,
    TableLake,
    select_query,
    without_erased,
    without_null_keys,
)
from ingestion.taps.postgres_incremental import IncrementalExtract, clock, low_end
from ingestion.taps.postgres_reading import Snapshot
from ingestion.taps.postgres_records import record_columns, records
from ingestion.taps.postgres_replication import Replication
from ingestion.taps.postgres_types import TEXT, Column, adbc_to_lake

FULL_TABLE, INCREMENTAL, LOG_BASED = "FULL_TABLE", "INCREMENTAL", "LOG_BASED"
METHODS = [FULL_TABLE, INCREMENTAL, LOG_BASED]
LOOK_BACK_SECONDS = 600
LOOK_BACK_VALUES = 1000

_defaults = Options()


class PostgresStream(LakeStream):
    """One table, view or foreign table."""

    _is_begun = False
    _clock: str | None = None
    others: Sequence[str] = ()
    """Relations that would be the same stream, or differ from it only by case."""

    def __init__(self, tap: TapPostgres, table: Table, source: str) -> None:
        self.table = table
        self.postgres_tap = tap
        lake_stream = Stream.parse(f"{source}-{table.name}")
        super().__init__(tap, lake_stream, name=lake_stream.id)
        self.primary_keys = list(table.keys)
        self.forced_replication_method = tap.config["default_replication_method"]

    # Catalog

    @cached_property
    def schema(self) -> dict[str, Any]:
        """All columns that may be read, in the types of the wire."""
        tap = self.postgres_tap
        return {"type": "object", "properties": {item.name: tap.property_schema(item) for item in self._table_columns}}

    @property
    def effective_schema(self) -> dict[str, Any]:
        """The table as it is now: a catalog may be older."""
        return self.schema

    @property
    def metadata(self) -> MetadataMapping:
        """Keys and the replication key are always selected."""
        if self._metadata is None and self._tap_input_catalog is None:
            self._metadata = MetadataMapping.get_standard_metadata(
                schema=self.schema,
                key_properties=self.primary_keys,
                schema_name=self.table.schema,
                selected_by_default=self.selected_by_default,
            )
            self._metadata.root.selected = True
        return super().metadata

    def apply_catalog(self, catalog: Catalog) -> None:
        """Take up what the user says of the stream: its selection, method and keys."""
        super().apply_catalog(catalog)
        entry = catalog.get_stream(self.name)
        if entry is None:
            return
        root = entry.metadata.root
        # Metadata is where users say it; the entry's own fields are what discovery found.
        self.primary_keys = list(root.table_key_properties or entry.key_properties or ())
        self.replication_key = root.replication_key or entry.replication_key
        self.__dict__.pop("schema", None)

    @property
    def problem(self) -> str | None:
        """Why the stream cannot be extracted; None when it can."""
        names = [column.name for column in self.table.columns]
        if self.others:
            return (
                f"{' and '.join([self.table.label, *self.others])} would be one table of the warehouse; set"
                " filter_schemas to one schema, rename one, or read a view with another name"
            )
        if not self.table.is_readable:
            return f"no right to select from {self.table.label}; grant it, or deselect the stream"
        if not names:
            return f"{self.table.label} has no columns to read; deselect the stream"
        reserved = [name for name in names if name.lower().startswith("_sdc_")]
        if reserved:
            return f"its column {reserved[0]} has a name of raw's metadata; rename it, or read a view without it"
        if twice := _twice(names):
            return f"its columns {' and '.join(twice)} differ only by case; rename one, or read a view with other names"
        if missing := [key for key in self.primary_keys if key not in names]:
            return f"its key column {missing[0]} is not in {self.table.label}; correct table-key-properties"
        if self.replication_method not in METHODS:
            return f"replication-method {self.replication_method}: choose {', '.join(METHODS)}"
        if self.replication_method == LOG_BASED and self._conditions:
            return "custom_where_clauses do not reach the log; remove them from stream_options, or use FULL_TABLE"
        if self.replication_method == INCREMENTAL:
            if not self.replication_key:
                return "INCREMENTAL needs a replication-key; set it in the stream's metadata"
            if self.replication_key not in names:
                return f"its replication-key {self.replication_key} is not in {self.table.label}; correct it"
        return None

    # Lake

    @cached_property
    def columns(self) -> list[Column]:
        """The selected columns; keys and the replication key always are."""
        always = {*self.primary_keys, self.replication_key}
        return [
            column for column in self._table_columns if column.name in always or self.mask[("properties", column.name)]
        ]

    @property
    def _table_columns(self) -> Sequence[Column]:
        """The table's columns. What is personal may be null, whatever the table says: that of erased persons is."""
        erased, columns = self.postgres_tap.erased, self.table.columns
        persons = erased and erased.rows_of(self.lake_stream.id)
        if not persons:
            return columns
        return [replace(each, nullable=each.nullable or bool(persons.personal([each.name]))) for each in columns]

    @cached_property
    def lake_table(self) -> TableLake:
        """The stream's side of the lake. The lock must be held while it is used for writing."""
        tap = self.postgres_tap
        assert tap.lake is not None
        return TableLake(
            lake=tap.lake,
            stream=self.lake_stream,
            table=self.table,
            columns=self.columns,
            keys=list(self.primary_keys),
            options=tap.extract_options,
            conditions=self._conditions,
            sync_started_at=tap.initialized_at,
            logger=self.logger,
            erased=tap.erased,
        )

    def _generate_schema_messages(self) -> Iterator[SchemaMessage]:
        # Not the mapper's: it knows the catalog's schema, without types of the warehouse. A stream that cannot be
        # extracted says so when it comes to its rows.
        if self.problem is None:
            try:
                columns = self.lake_table.lake_columns if self.postgres_tap.lake else self.columns
            except UserError:
                return
            properties = {column.name: self.postgres_tap.property_schema(column) for column in columns}
            keys = [self.replication_key] if self.replication_method == INCREMENTAL and self.replication_key else None
            yield SchemaMessage(self.name, {"type": "object", "properties": properties}, self.primary_keys, keys)

    def get_batches(
        self, batch_config: BatchConfig, context: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[BaseBatchFileEncoding, list[str]]]:
        """What the lake has beyond the state's load id, then what the table has and the lake has not."""
        if self.replication_method == LOG_BASED:
            self.postgres_tap.replicate()
            return
        with self.reporting():
            for batch in self._batches():
                self.note(batch)
                yield batch_config.encoding, [batch.file.as_uri()]

    def _batches(self) -> Iterator[Batch]:
        if self.problem:
            raise UserError(f"stream {self.name}: {self.problem}")
        lake = self.postgres_tap.lake
        assert lake is not None
        with lake.lock(self.lake_stream):
            lake.remove_orphans(self.lake_stream)
            self.refresh()
            yield from self.unsent()
            target = self.lake_table
            try:
                yield from self._extracted(target)
            finally:
                if target.writer.is_open:
                    target.writer.abandon()
            counts = target.counts
            self.logger.info(
                "%s: %s rows extracted, %s loaded, %s quarantined, %s dropped as identical",
                self.name,
                counts.read,
                counts.loaded,
                counts.quarantined,
                counts.dropped,
            )

    def _extracted(self, target: TableLake) -> Iterator[Batch]:
        server = self.postgres_tap.server
        if self.replication_method == INCREMENTAL:
            assert self.replication_key
            return IncrementalExtract(server, target).incremental(self.replication_key, self._look_back)
        return Extract(server, target).full(lambda complete: {"method": FULL_TABLE, "complete": complete})

    @property
    def _look_back(self) -> str | None:
        """What to subtract from the bookmark, as SQL: transactions that began before it may commit after it."""
        column = next(column for column in self.table.columns if column.name == self.replication_key)
        config = self.config
        if pa.types.is_temporal(column.arrow_type):
            seconds = config.get("look_back_seconds", 0 if config["wire"] == "records" else LOOK_BACK_SECONDS)
            return f"interval '{seconds} seconds'" if seconds else None
        if column.base in {"smallint", "integer", "bigint", "numeric", "real", "double precision"}:
            # Of a smallint bookmark nothing larger than a smallint could be subtracted.
            values = config.get("look_back_values", 0 if config["wire"] == "records" else LOOK_BACK_VALUES)
            return f"{values}::numeric" if values else None
        return None

    @property
    def _conditions(self) -> list[str]:
        """What the user's settings say that every row must meet, as SQL."""
        options = (self.config.get("stream_options") or {}).get(self.name) or {}
        return [clause.strip() for clause in options.get("custom_where_clauses") or []]

    def unsent(self) -> list[Batch]:
        """The lake's batches beyond the state's load id.

        Raises UserError when the lake does not have that one, or a column's new type is refused: then there was no
        SCHEMA message.
        """
        _ = self.lake_table.types  # Raises.
        return self.beyond_state(self.lake_table.manifest)

    def note(self, batch: Batch) -> None:
        """Put a batch into the state, which is written after its message."""
        state = self.stream_state
        state.clear()
        state.update({BOOKMARK: batch.load_id, **batch.origin.get("position", {})})

    def send(self, batch: Batch) -> None:
        """Write a batch's message, and the state after it."""
        self.note(batch)
        self._write_batch_message(ENCODING, [batch.file.as_uri()])
        self._write_state_message()

    # LOG_BASED: all such streams are sent together, when it is the turn of the first (`postgres_replication`)

    def begin(self) -> None:
        """Write the SCHEMA message before the stream's turn."""
        self._write_schema_message()
        self._is_begun = True

    def _write_schema_message(self) -> None:
        if not self._is_begun:
            super()._write_schema_message()

    def refresh(self) -> None:
        """Look at the lake anew: before the lock another process may have written, or erased somebody."""
        self.lake_tap.look_again_who_is_erased()
        self.__dict__.pop("lake_table", None)

    def move(self, position: Mapping[str, Any]) -> None:
        """Write a state with another position, all before it being in batches that were sent."""
        self.stream_state.update(position)
        self.state_manager.is_flushed = False
        self._write_state_message()

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Report what makes this stream fail; the others go on."""
        try:
            yield
        except UserError as error:
            self.fault(error)
        except DatabaseError as error:
            reason = self.postgres_tap.server.reason(error)
            self.fault(f"stream {self.name}: {self.table.label}: {reason}")
        except OSError as error:
            self.fault(
                f"stream {self.name}: the lake cannot be written: {error.strerror or error}; make room or mend it, then"
                " run again"
            )
        except duckdb.Error as error:
            self.fault(f"stream {self.name}: {first_line(error)}")

    # RECORD messages

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE

    @property
    def is_sorted(self) -> bool:
        """Rows come in the order of the replication key, so that an interrupted run can go on."""
        return self.replication_method == INCREMENTAL and self.postgres_tap.lake is None

    @property
    def check_sorted(self) -> bool:
        """The database's order of texts is not Python's."""
        return False

    def get_replication_key_signpost(self, context: Mapping[str, Any] | None = None) -> None:
        """None: the server's clock bounds the bookmark, not this machine's."""
        return

    def get_records(self, context: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
        """Every row, or those from the bookmark on, for other projects' targets."""
        with self.reporting():
            if self.problem:
                raise UserError(f"stream {self.name}: {self.problem}")
            if self.replication_method == LOG_BASED:
                raise UserError(
                    f"stream {self.name}: LOG_BASED needs wire: lake; use it, or another replication-method"
                )
            yield from self._records(context)

    def _records(self, context: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
        columns = record_columns(self.columns, dates_as_string=self.config["dates_as_string"])
        conditions, order = self._conditions, ""
        with Snapshot(self.postgres_tap.server, f"stream {self.name}: {self.table.label}") as snapshot:
            if self.replication_method == INCREMENTAL:
                name = identifier(self.replication_key or "")
                key = next(column for column in columns if column.name == self.replication_key)
                start = self.get_starting_replication_key_value(context)
                if start is not None:
                    low = low_end(snapshot, key, str(start), self._look_back)
                    conditions = [*conditions, f"{name} >= {literal(low)}::{key.type} or {name} is null"]
                order = f" order by {name} nulls first"
                self._clock = _clock(snapshot, key)
            query = select_query(self.table, columns, conditions) + order
            for rows in snapshot.read([query]):
                converted = without_null_keys(columns, self.primary_keys, adbc_to_lake(columns, rows))
                converted = without_erased(self.postgres_tap.erased, self.lake_stream.id, converted)
                yield from records(self.name, columns, converted, json_as_object=self.config["json_as_object"])

    def _increment_stream_state(
        self, latest_record: dict[str, Any], *, context: Mapping[str, Any] | None = None
    ) -> None:
        value = latest_record.get(self.replication_key) if self.replication_key else None
        # A row without replication key, or with one in the future, does not move the bookmark.
        if value is not None and (self._clock is None or str(value) <= self._clock):
            super()._increment_stream_state(latest_record, context=context)


def _clock(snapshot: Snapshot, key: Column) -> str | None:
    """The server's time as the records of a column have it; None where it is no time."""
    server_time = clock(key)
    if server_time is None:
        return None
    if key.warehouse_type == TEXT:
        return snapshot.values(f"select ({server_time})::text as now")[0]
    return snapshot.values(f"select {server_time} as now")[0].isoformat()


def _twice(names: Iterable[str]) -> list[str]:
    """The first names that differ only by case."""
    names = list(names)
    counts = Counter(name.lower() for name in names)
    return next(([name for name in names if name.lower() == lower] for lower, n in counts.items() if n > 1), [])


class TapPostgres(LakeTap):
    """Extracts tables of PostgreSQL 13 and later: whole, by a replication key, or from the log."""

    name = "tap-postgres"
    config_jsonschema = th.PropertiesList(
        th.Property("host", th.StringType, description="The server; default: PGHOST"),
        th.Property("port", th.IntegerType, description="Its port; default: PGPORT, else 5432"),
        th.Property("user", th.StringType, description="The user; default: PGUSER"),
        th.Property(
            "password", th.StringType, secret=True, description="The password; default: PGPASSWORD, PGPASSFILE"
        ),
        th.Property("database", th.StringType, description="The database; default: PGDATABASE"),
        th.Property(
            "sqlalchemy_url",
            th.StringType,
            secret=True,
            description="postgresql://user:password@host:5432/database; the settings above are ignored then",
        ),
        th.Property(
            "service",
            th.StringType,
            description="A connection's name in the service file: the one that PGSERVICEFILE names, else"
            " WAREHOUSE_HOME/services/pg_service.conf; the settings above win over what it says",
        ),
        th.Property(
            "filter_schemas", th.ArrayType(th.StringType), default=[], description="Only these schemas; default: all"
        ),
        th.Property(
            "source",
            th.StringType,
            description="The source's name: table orders is the stream <source>-orders. Default: the table's schema",
        ),
        th.Property(
            "stream_options",
            th.ObjectType(
                additional_properties=th.ObjectType(th.Property("custom_where_clauses", th.ArrayType(th.StringType)))
            ),
            description="By stream: custom_where_clauses, SQL conditions that every row must meet",
        ),
        th.Property(
            "dates_as_string",
            th.BooleanType,
            default=False,
            description="wire records: dates and times are plain text, as PostgreSQL writes them, also infinity, years"
            " BC and after 9999",
        ),
        th.Property(
            "json_as_object",
            th.BooleanType,
            default=False,
            description="wire records: json and jsonb are objects, not text",
        ),
        th.Property("ssl_enable", th.BooleanType, default=False, description="Verify the server by its certificate"),
        th.Property(
            "ssl_mode",
            th.StringType,
            default="verify-full",
            allowed_values=["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
            description="libpq's sslmode, with ssl_enable",
        ),
        th.Property(
            "ssl_certificate_authority",
            th.StringType,
            description="The authority's certificate: a file's path, or its content",
        ),
        th.Property(
            "ssl_client_certificate_enable", th.BooleanType, default=False, description="Log in by a client certificate"
        ),
        th.Property("ssl_client_certificate", th.StringType, description="It: a file's path, or its content"),
        th.Property(
            "ssl_client_private_key", th.StringType, secret=True, description="Its key: a file's path, or its content"
        ),
        th.Property(
            "ssl_storage_directory",
            th.StringType,
            default=".secrets",
            description="Where certificates given by their content are kept",
        ),
        th.Property(
            "ssh_tunnel",
            th.ObjectType(th.Property("enable", th.BooleanType), additional_properties=True),
            description="Not supported: open the tunnel outside, and set host and port to its near end",
        ),
        th.Property(
            "default_replication_method",
            th.StringType,
            default=FULL_TABLE,
            allowed_values=METHODS,
            description="How streams are extracted that have no replication-method in their metadata",
        ),
        th.Property(
            "wire",
            th.StringType,
            default="lake",
            allowed_values=["lake", "records"],
            description="lake: BATCH messages that name Parquet files of the lake. records: RECORD messages, for other"
            " targets",
        ),
        th.Property(
            "replication_slot_name",
            th.StringType,
            default="warehouse",
            description="LOG_BASED: the replication slot, made where there is none; each lake needs its own",
        ),
        th.Property(
            "publication_name",
            th.StringType,
            default="warehouse",
            description="LOG_BASED: the publication, which the owner of the tables or an administrator makes",
        ),
        th.Property(
            "compare_all",
            th.BooleanType,
            default=False,
            description="Compare every LOG_BASED table as a whole in this run, for example after changes that no log"
            " carries",
        ),
        th.Property(
            "look_back_seconds",
            th.IntegerType,
            description="INCREMENTAL by a date or time: how far before the bookmark rows are read again, for"
            " transactions that were still open; what did not change is dropped."
            f" Default: {LOOK_BACK_SECONDS}, with wire records 0",
        ),
        th.Property(
            "look_back_values",
            th.IntegerType,
            description=f"The same for numbers. Default: {LOOK_BACK_VALUES}, with wire records 0",
        ),
        LAKE_PATH,
        th.Property(
            "max_vanished_share",
            th.NumberType,
            default=_defaults.max_vanished_share,
            description="FULL_TABLE: fail, without deletes, when more than this share of the rows vanished",
        ),
        th.Property(
            "on_type_change",
            th.StringType,
            default=_defaults.on_type_change,
            allowed_values=["quarantine", "fail", "text"],
            description="When a column's type changes to one that raw's does not widen to: keep the old one and"
            " quarantine rows whose value does not fit, fail the stream, or make the column text for good",
        ),
        th.Property(
            "batch_size_rows",
            th.IntegerType,
            default=_defaults.batch_size_rows,
            description="Rows of a batch; it also closes at 96 MB",
        ),
        th.Property(
            "memory_limit",
            th.StringType,
            default=_defaults.memory_limit,
            description="DuckDB's memory while it compares an extract with the lake; beyond it spills to disk",
        ),
        th.Property(
            "read_connections",
            th.IntegerType,
            default=_defaults.read_connections,
            description="Connections that read one large table at once; helps where the network or server is slow",
        ),
    ).to_dict()

    def __init__(self, *args: Any, catalog: Any = None, **kwargs: Any) -> None:
        self._is_replicated = False
        super().__init__(*args, catalog=_with_methods(catalog), **kwargs)

    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        # The SDK's message would show the value.
        for name, described in self.config_jsonschema["properties"].items():
            if described.get("secret") and not isinstance(self._config.get(name), str | None):
                raise UserError(f"the setting {name} must be text; put it in quotes")
        return super()._validate_config(raise_errors=raise_errors)

    @cached_property
    def server(self) -> Server:
        """The source database."""
        return Server(self.config)

    @cached_property
    def extract_options(self) -> Options:
        """The settings of extracts."""
        return Options(**{name: self.config[name] for name in Options.__dataclass_fields__})

    def property_schema(self, column: Column) -> dict[str, Any]:
        """A column's property of the SCHEMA message."""
        if self.lake:
            return column.json_schema
        config = self.config
        return column.record_schema(json_as_object=config["json_as_object"], dates_as_string=config["dates_as_string"])

    def discover_streams(self) -> list[PostgresStream]:
        """A stream for each relation. Raises UserError when the database cannot be reached.

        A catalog without streams asks for nothing: then there is no connection, and no database need be there.
        """
        if self.input_catalog is not None and not self.input_catalog:
            self.logger.info("the catalog has no streams: nothing to extract")
            return []
        connection = self.server.connect()
        try:
            tables = discover(connection, self.config.get("filter_schemas") or ())
        except psycopg2.Error as error:
            raise UserError(f"the database cannot be discovered: {self.server.reason(error)}") from None
        finally:
            connection.close()
        streams: dict[str, PostgresStream] = {}
        for table in tables:
            try:
                stream = PostgresStream(self, table, self.config.get("source") or table.schema)
            except UserError as error:
                self.logger.warning("%s is left out: %s", table.label, error)
                continue
            if not table.is_readable and not self._was_extracted(stream.lake_stream):
                self.logger.info("%s is left out: this user may not select from it", table.label)
                continue
            other = streams.setdefault(stream.name.lower(), stream)
            if other is not stream:
                other.others = [*other.others, table.label]
        return list(streams.values())

    def _was_extracted(self, stream: Stream) -> bool:
        """Whether the lake has batches of a table: then it is missed."""
        return self.lake is not None and bool(self.lake.manifest(stream))

    def sync_all(self) -> None:
        """Send all selected streams; a catalog's stream that the database has not is a fault."""
        if not self._log_based:
            startup.never("numpy")  # pyarrow would import it; only the log's reader works with it.
        super().sync_all()
        for name, entry in (self.input_catalog or {}).items():
            if name not in self.streams and entry.metadata.resolve_selection()[()]:
                self.fault(
                    f"stream {name}: no such table, or no right to select from it; grant it or deselect the stream"
                )

    @property
    def _log_based(self) -> list[PostgresStream]:
        return [
            stream for stream in self.streams.values() if stream.selected and stream.replication_method == LOG_BASED
        ]

    def replicate(self) -> None:
        """Send all LOG_BASED streams, once."""
        streams = self._log_based
        if self._is_replicated or self.lake is None:
            return
        self._is_replicated = True
        config = self.config
        try:
            Replication(
                self.server,
                self.lake,
                config["replication_slot_name"],
                config["publication_name"],
                self.logger,
                config["compare_all"],
            ).run(streams)
        except UserError as error:
            for stream in streams:
                stream.is_complete = False
            self.fault(str(error))


def _with_methods(catalog: Any) -> Any:
    """A catalog whose entries have the `replication-method` of their metadata, which the SDK does not read."""
    for entry in catalog.get("streams", []) if isinstance(catalog, dict) else []:
        for item in entry.get("metadata", []):
            if not item["breadcrumb"] and (method := item["metadata"].get("replication-method")):
                entry["replication_method"] = method
    return catalog


if __name__ == "__main__":
    TapPostgres.cli()
