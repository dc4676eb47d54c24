"""LOG_BASED: tables by one replication slot, from a consistent snapshot on (docs/contracts.md, "Database streams").

A stream's place is a position of the log: the lake holds all of its transactions that were committed before it. A
stream without a place, a new one for example, gets it by a snapshot: of the slot when that is made, else of a temporary
one. The table is read as it was there, compared with what the lake holds, and then the log is followed from the least
place of all streams; what a stream has already is skipped. A stream that had a place, but whose table changed in a way
that the log does not tell, first follows the log up to the snapshot, so that its versions until then are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import duckdb
import psycopg2
import psycopg2.errors

from ingestion.errors import UserError
from ingestion.lake import Batch, Lake, Stream, first_line, make_folder
from ingestion.lake.definition import replace_file
from ingestion.taps.postgres_catalog import Table
from ingestion.taps.postgres_changes import COMPARE_ALL, ChangedTable
from ingestion.taps.postgres_connection import Connection, DatabaseError, Server
from ingestion.taps.postgres_extracts import WORK, Extract, Rewritten, TableLake
from ingestion.taps.postgres_log import (
    PLUGIN,
    REPLICATION_SETTINGS,
    Begin,
    Change,
    Commit,
    Log,
    LogColumn,
    Relation,
    Slot,
    System,
    Truncate,
    confirm,
    find_slot,
    lsn_number,
    lsn_text,
)
from ingestion.taps.postgres_types import SESSION_OPTIONS, Column

METHOD = "LOG_BASED"
SLOTS = "_slots"
# All open batches together keep at most so much of their rows in memory.
_OPEN_BYTES = 128 * 1024 * 1024
# For tables that are truncated or rewritten between a snapshot and their turn in it.
_MOST_SNAPSHOTS = 5


class LogStream(Protocol):
    """What replication needs of a stream of the tap."""

    name: str
    table: Table
    lake_stream: Stream
    lake_table: TableLake
    stream_state: dict[str, Any]

    @property
    def problem(self) -> str | None:
        """Why the stream cannot be extracted; None when it can."""

    def begin(self) -> None:
        """Write its SCHEMA message."""

    def refresh(self) -> None:
        """Look at the lake anew, which another process may have written before the lock."""

    def unsent(self) -> list[Batch]:
        """The lake's batches beyond the state. Raises UserError when the lake is older than the state."""

    def send(self, batch: Batch) -> None:
        """Write a batch's message and the state after it."""

    def move(self, position: Mapping[str, Any]) -> None:
        """Write a state with another position, all before it being in batches that were sent."""

    def fault(self, error: UserError) -> None:
        """Report that the stream could not be extracted in full."""


@dataclass(frozen=True)
class Position:
    """How far a stream's changes are in the lake."""

    slot: str
    system: str
    table: str
    """The table as `_table_text` has it: what changes its rows without the log saying so changes this."""
    lsn: int
    complete: bool = True
    """False while the table is to be compared: `lsn` is where its log goes on before that."""

    def fields(self) -> dict[str, Any]:
        """As in a batch's origin, and in the state."""
        return {
            "method": METHOD,
            "slot": self.slot,
            "system": self.system,
            "table": self.table,
            "lsn": lsn_text(self.lsn),
            "complete": self.complete,
        }

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Position | None:
        """The position that fields say, or None where they are of another method or of none."""
        if fields.get("method") != METHOD:
            return None
        try:
            lsn = lsn_number(fields["lsn"])
            return cls(fields["slot"], fields["system"], fields["table"], lsn, fields["complete"])
        except (KeyError, ValueError, AttributeError) as error:
            raise UserError(f"the state's position {dict(fields)} cannot be read; {COMPARE_ALL}") from error


@dataclass(frozen=True)
class Confirmed:
    """How far this lake let the slot go, and for which streams: it had all that they had before."""

    system: str
    lsn: int
    streams: frozenset[str]

    @classmethod
    def read(cls, lake: Lake, slot: str) -> Confirmed | None:
        """What the lake remembers of a slot, if anything."""
        path = lake.root / SLOTS / f"{slot}.json"
        if not path.exists():
            return None
        try:
            fields = json.loads(path.read_text())
            return cls(fields["system"], lsn_number(fields["lsn"]), frozenset(fields["streams"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; remove it, then {COMPARE_ALL}") from error

    def write(self, lake: Lake, slot: str) -> None:
        """Remember it."""
        path = lake.root / SLOTS / f"{slot}.json"
        make_folder(path.parent)
        fields = {"system": self.system, "lsn": lsn_text(self.lsn), "streams": sorted(self.streams)}
        replace_file(path, json.dumps(fields))


@dataclass
class _Followed:
    """A stream on its way along the log."""

    stream: LogStream
    position: Position
    changes: ChangedTable
    deselected: frozenset[str]
    has_failed: bool = False

    @property
    def lsn(self) -> int:
        return self.position.lsn

    def at(self, lsn: int) -> Position:
        return replace(self.position, lsn=max(lsn, self.lsn))


@dataclass(frozen=True)
class _Facts:
    """A table as the log has it. `member` are the oids that make it one of the publication, None when nothing does."""

    member: str | None
    via_root: bool
    is_filtered: bool
    has_children: bool
    is_unlogged: bool
    storage: str
    """Where its rows are: the place of its large values, which only `alter table` gives anew; where there are none, its
    file, which `vacuum full` and `truncate` give anew too; a partitioned table's partitions and their files."""
    width: int
    """How many columns it ever had."""
    columns: list[tuple[int, str, str, bool]]
    """Number, name, definition, and whether rows may have it from its default, of every column it has."""
    replica_identity: str
    identity: list[str]
    generated: list[str]


class _Anew(Exception):
    """A stream failed, or got a column that its open batch does not have: what is open is given up and read again."""


@dataclass
class Replication:
    """One run of all LOG_BASED streams of a tap."""

    server: Server
    lake: Lake
    slot_name: str
    publication: str
    logger: logging.Logger
    compare_all: bool = False
    """Whether every table is compared as a whole, whatever state, slot and lake say."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _generated: dict[int, frozenset[str]] = field(default_factory=dict)
    _definitions: dict[int, dict[str, str]] = field(default_factory=dict)
    """By table and column: its definition, as in `Position.table`."""
    _unsure: dict[str, Set[str]] = field(default_factory=dict)
    """By stream that is to be compared: columns whose values in the lake may not be those of the log's next rows."""

    def run(self, streams: Sequence[LogStream]) -> None:
        """Send all that is new of these streams.

        What makes one of them fail is its fault, and holds the slot; what makes all fail is raised as UserError.
        """
        try:
            with self._stack:
                self._run(streams)
        except psycopg2.Error as error:
            raise UserError(self._explained(error)) from None
        except duckdb.Error as error:
            raise UserError(f"log-based replication: {first_line(error)}") from error
        except OSError as error:
            raise UserError(
                f"log-based replication: {error.strerror or error}; make room or mend the disk, then run again"
            ) from error

    def _explained(self, error: psycopg2.Error) -> str:
        reason = self.server.reason(error)
        if isinstance(error, psycopg2.errors.UndefinedObject) and "publication" in reason:
            return (
                f"{reason} when what the slot {self.slot_name} has next was written; drop the slot"
                f" (select pg_drop_replication_slot('{self.slot_name}')), then {COMPARE_ALL}"
            )
        if "max_replication_slots" in str(error) or "replication slots are in use" in reason:
            return f"{reason}: drop slots that nobody reads any more, or raise max_replication_slots of the server"
        return f"log-based replication: {reason}"

    def _run(self, streams: Sequence[LogStream]) -> None:
        connection = self._stack.enter_context(closing(self.server.connect()))
        connection.autocommit = True
        _check_server(connection)
        log = self._log()
        system = log.system()
        slot = self._slot(connection)
        confirmed = None if self.compare_all else Confirmed.read(self.lake, self.slot_name)
        if confirmed and confirmed.system != system.identifier:
            confirmed = None
        facts = self._facts(connection, streams)
        tables: dict[str, str] = {}
        states: dict[str, Position | None] = {}
        if not self.compare_all:
            states = {stream.name: Position.read(stream.stream_state) for stream in streams}
        places: dict[str, Position | None] = {}
        unsent: dict[str, list[Batch]] = {}
        for stream in streams:
            with _faults(stream, self.server):
                stream.begin()
                if stream.problem:
                    raise UserError(f"stream {stream.name}: {stream.problem}")
                table = tables[stream.name] = self._published(stream, facts.get(stream.table.oid))
                self._stack.enter_context(self.lake.lock(stream.lake_stream))
                self.lake.remove_orphans(stream.lake_stream)
                stream.refresh()
                unsent[stream.name] = stream.unsent()
                places[stream.name] = self._place(stream, table, system, slot, confirmed)
        if not places:
            return
        if slot is not None:
            self._confirm(connection, slot, system, confirmed, states, places)
        connection.close()
        healthy = [stream for stream in streams if stream.name in places]
        for stream in healthy:
            for batch in unsent[stream.name]:
                stream.send(batch)
        new = [stream for stream in healthy if (place := places[stream.name]) is None or not place.complete]
        is_first = slot is None
        for _ in range(_MOST_SNAPSHOTS):
            if is_first or new:
                new = self._snapshots(log, is_first, system, new, tables, places)
            is_first = False
            log.close()
            if not new:
                break
            log = self._log()
        for stream in new:
            places[stream.name] = None
            what = "was truncated or rewritten again and again while it was to be read; run again later"
            stream.fault(UserError(f"stream {stream.name}: {stream.table.label} {what}"))
        followed = [self._followed(stream, place) for stream in healthy if (place := places[stream.name]) is not None]
        if followed:
            try:
                self._follow(followed)
            finally:
                for each in followed:
                    each.changes.abandon()

    def _log(self) -> Log:
        try:
            return self._stack.enter_context(Log(self.server.arguments({**SESSION_OPTIONS, **REPLICATION_SETTINGS})))
        except psycopg2.OperationalError as error:
            if "replication role" in str(error) or "WAL sender" in str(error):
                user = self.server.parameters.get("user", "<user>")
                raise UserError(
                    f"LOG_BASED needs the right to replicate; an administrator gives it: alter role {user} replication"
                    " (on managed servers: their own role for it, as rds_replication)"
                ) from None
            raise self.server.unreachable(error) from None

    def _slot(self, connection: Connection) -> Slot | None:
        """The slot as it is; raises UserError for one that is not ours to read."""
        slot = find_slot(connection, self.slot_name)
        if slot is None:
            return None
        (database,) = _row(connection, "select current_database()")
        if slot.plugin != PLUGIN or slot.database != database:
            what = f"of the plugin {slot.plugin}" if slot.plugin else "a physical one"
            raise UserError(
                f"replication slot {slot.name} is {what}{f' in the database {slot.database}' if slot.database else ''},"
                f" not of {PLUGIN} in {database}; set replication_slot_name to a name of its own"
            )
        if slot.is_lost:
            raise UserError(
                f"replication slot {slot.name} is lost: the server has thrown away log that was not read"
                " (max_slot_wal_keep_size); drop it (select pg_drop_replication_slot"
                f"('{slot.name}')), then {COMPARE_ALL}"
            )
        return slot

    # Publication

    def _facts(self, connection: Connection, streams: Sequence[LogStream]) -> dict[int, _Facts]:
        """What the database says of the streams' tables; raises UserError for a publication of no use."""
        rows = _rows(connection, _PUBLICATION, {"name": self.publication})
        if not rows:
            raise UserError(
                f"there is no publication {self.publication} in the database; its owner makes one: create publication"
                f" {self.publication} for all tables, or for the tables of the LOG_BASED streams"
            )
        (kinds,) = rows[0]
        if kinds:
            raise UserError(
                f"publication {self.publication} leaves out {', '.join(kinds)}: what it does not publish would be"
                f" missed; alter publication {self.publication} set (publish = 'insert, update, delete, truncate')"
            )
        query = _FACTS_15 if connection.server_version >= 150000 else _FACTS
        tables = [stream.table.oid for stream in streams]
        found = _rows(connection, query, {"name": self.publication, "tables": tables})
        return {row[0]: _Facts(*row[1:]) for row in found}

    def _published(self, stream: LogStream, facts: _Facts | None) -> str:
        """The identity of the stream's table in the log; raises UserError where its changes are not all there."""
        table, publication, subject = stream.table, self.publication, f"stream {stream.name}: {stream.table.label}"
        if facts is None or table.kind not in {"table", "partitioned table"}:
            raise UserError(f"{subject} is a {table.kind}, which the log does not have; use FULL_TABLE")
        if not facts.member:
            raise UserError(
                f"{subject} is not in the publication {publication}; alter publication {publication} add table"
                f" {table.sql}"
            )
        if table.kind == "partitioned table" and not facts.via_root:
            raise UserError(
                f"{subject} is partitioned, and its changes are published as those of its partitions; alter publication"
                f" {publication} set (publish_via_partition_root = true)"
            )
        if facts.is_filtered:
            raise UserError(
                f"{subject} is only published in part (rows by a condition, or a list of columns); publish all of it,"
                " or use FULL_TABLE"
            )
        if facts.is_unlogged:
            raise UserError(f"{subject} is unlogged; use FULL_TABLE, or alter table {table.sql} set logged")
        if facts.has_children:
            raise UserError(f"{subject} has child tables by inheritance, whose log is their own; use FULL_TABLE")
        keys = stream.lake_table.keys
        missing = [key for key in keys if key not in facts.identity]
        if facts.replica_identity == "n" or not keys or missing:
            what = "has no key" if not keys else "has a replica identity without its key"
            raise UserError(
                f"{subject} {what}, so the log does not say which rows changed; give it a primary key and replica"
                " identity default, or use FULL_TABLE"
            )
        generated = frozenset(facts.generated)
        if left_out := sorted(generated & {column.name for column in stream.lake_table.columns}):
            self.logger.warning("%s: without %s: the log has no generated columns", stream.name, ", ".join(left_out))
        self._generated[table.oid] = generated
        selected = {column.name for column in stream.lake_table.columns} - generated
        definitions = self._definitions[table.oid] = _definitions(facts, selected)
        return _table_text(table.oid, facts, keys, definitions.values())

    # Places

    def _place(
        self, stream: LogStream, table: str, system: System, slot: Slot | None, confirmed: Confirmed | None
    ) -> Position | None:
        """Where the stream goes on, or None when it needs a snapshot; not complete when it needs one after its log.

        Raises UserError when the state says that it can go on and it cannot: changes in between are lost.
        """
        if self.compare_all:
            return None
        manifest = stream.lake_table.manifest
        origins = [batch.origin["position"] for batch in manifest if "position" in batch.origin]
        last = Position.read(origins[-1]) if origins else None
        if last is None:
            return None
        state = Position.read(stream.stream_state)
        # A comparison that found nothing moved the state and wrote no batch.
        is_newest = state and stream.stream_state.get("load_id") == manifest[-1].load_id
        position = state if state and is_newest else last
        if not position.complete:
            if not any(origin["complete"] for origin in origins):
                return None  # Of the first snapshot raw has a part: the log speaks of rows that it never had.
            return self._before_comparison(stream, position, table, system, slot, confirmed)
        if position.system != system.identifier:
            return self._refused(
                stream,
                state,
                "the server is another one (its system identifier differs) than that of the changes so far",
            )
        if position.slot != self.slot_name:
            self.logger.warning("%s: a new slot, %s: the table is compared as a whole", stream.name, self.slot_name)
            return None
        definitions = self._definitions[stream.table.oid]
        held = {definition for name, definition in definitions.items() if name in stream.lake_table.held_types}
        if _is_changed(position.table, table, held):
            self.logger.warning(
                "%s: the table, its columns, its key or its publication changed: it is compared as a whole", stream.name
            )
            return self._before_comparison(stream, position, table, system, slot, confirmed)
        if slot is None or slot.confirmed_lsn is None:
            return self._refused(stream, state, f"the replication slot {self.slot_name} was dropped")
        lsn = _known_until(stream, position, confirmed)
        if lsn > system.lsn:
            return self._refused(stream, state, f"the server's log ends before {lsn_text(lsn)}, which was read already")
        if lsn < slot.confirmed_lsn:
            if confirmed and stream.name not in confirmed.streams and slot.confirmed_lsn <= confirmed.lsn:
                self.logger.info("%s: was left out for a while: it is compared as a whole", stream.name)
                return None
            return self._refused(
                stream,
                state,
                f"the replication slot {self.slot_name} was read by another: it begins at"
                f" {lsn_text(slot.confirmed_lsn)}, and changes from {lsn_text(lsn)} on are needed",
            )
        return Position(self.slot_name, system.identifier, table, lsn)

    def _before_comparison(
        self,
        stream: LogStream,
        position: Position,
        table: str,
        system: System,
        slot: Slot | None,
        confirmed: Confirmed | None,
    ) -> Position | None:
        """Where the log begins that a stream lacks before its table is compared; None where it is not to be had."""
        if slot is None or slot.confirmed_lsn is None:
            return None
        if (position.slot, position.system) != (slot.name, system.identifier):
            return None
        if position.table.split(".")[0] != table.split(".")[0]:
            return None  # The log has another table.
        lsn = _known_until(stream, position, confirmed)
        if not slot.confirmed_lsn <= lsn <= system.lsn:
            return None
        definitions = self._definitions[stream.table.oid]
        before = _stable_definitions(position.table, table) if position.complete else frozenset()
        unsure = {name for name, definition in definitions.items() if definition.rstrip("=") not in before}
        keys = stream.lake_table.keys
        self._unsure[stream.name] = unsure if unsure.isdisjoint(keys) else set(definitions)
        return replace(position, lsn=lsn, complete=False)

    def _refused(self, stream: LogStream, state: Position | None, reason: str) -> None:
        """Fail where the state knows of the changes that are lost; without a state, begin anew."""
        if state:
            raise UserError(f"stream {stream.name}: {reason}; {COMPARE_ALL}")
        self.logger.warning("%s: %s: the table is compared as a whole", stream.name, reason)

    def _confirm(
        self,
        connection: Connection,
        slot: Slot,
        system: System,
        confirmed: Confirmed | None,
        states: Mapping[str, Position | None],
        places: Mapping[str, Position | None],
    ) -> None:
        """Let the slot go up to where the target has committed all streams of this run, also those that failed now."""
        included = {}
        for name, state in states.items():
            if name in places and places[name] is None:
                continue  # Its snapshot will be later.
            if state is None or state.slot != slot.name or state.system != system.identifier:
                if name in places:
                    return  # Its place is only the lake's, and perhaps not committed.
                continue
            included[name] = state.lsn
        if not included or slot.confirmed_lsn is None:
            return
        # A stream that was left out has not what the others had before; it holds the slot where it is.
        has_before = confirmed.streams if confirmed else frozenset()
        lsn = min(max(lsn, confirmed.lsn) if name in has_before else lsn for name, lsn in included.items())
        if lsn > slot.confirmed_lsn:
            # Before the slot moves: if this ends in between, the streams are known to have what it no longer gives.
            Confirmed(system.identifier, lsn, frozenset(included)).write(self.lake, slot.name)
            confirm(connection, slot, lsn)

    # Snapshots

    def _snapshots(
        self,
        log: Log,
        is_first: bool,
        system: System,
        streams: Sequence[LogStream],
        tables: Mapping[str, str],
        places: dict[str, Position | None],
    ) -> list[LogStream]:
        """Give the streams a place by reading their tables as they are there; those that need another snapshot."""
        self.logger.info("waiting for open transactions to end, for a snapshot")
        if is_first:
            snapshot = log.create_slot(self.slot_name)
            Confirmed(system.identifier, snapshot.lsn, frozenset()).write(self.lake, self.slot_name)
        else:
            snapshot = log.create_slot(f"{self.slot_name[:40]}_{os.getpid()}", temporary=True)
        self._catch_up([(stream, place) for stream in streams if (place := places[stream.name])], snapshot.lsn)
        again = []
        for stream in streams:
            caught_up, places[stream.name] = places[stream.name], None
            with _faults(stream, self.server):
                stream.refresh()
                table = tables[stream.name]
                position = Position(self.slot_name, system.identifier, table, snapshot.lsn)
                partly = Position(self.slot_name, system.identifier, table, snapshot.lsn, complete=False)
                target = self._target(stream)
                try:
                    for batch in Extract(self.server, target, snapshot=snapshot.name).full(
                        lambda complete, whole=position, part=partly: (whole if complete else part).fields()
                    ):
                        stream.send(batch)
                    stream.move(position.fields())
                except Rewritten:
                    again.append(stream)
                    if caught_up:
                        places[stream.name] = replace(caught_up, lsn=snapshot.lsn)
                        self._unsure[stream.name] = frozenset(self._definitions[stream.table.oid])
                    continue
                finally:
                    if target.writer.is_open:
                        target.writer.abandon()
                places[stream.name] = position
                self.logger.info("%s: %s rows in the snapshot", stream.name, target.counts.read)
        return again

    def _catch_up(self, streams: Sequence[tuple[LogStream, Position]], lsn: int) -> None:
        """Follow the log up to a snapshot, for streams whose tables are then compared with it."""
        if not streams:
            return
        followed = [self._followed(stream, place) for stream, place in streams]
        try:
            self._follow(followed, lsn)
        except psycopg2.Error as error:
            self.logger.warning(
                "the log before the comparison cannot be read (%s): versions that are in it alone are missing in raw",
                self.server.reason(error),
            )
        finally:
            for each in followed:
                each.changes.abandon()
        for each in followed:
            if each.changes.left_out:
                self.logger.warning(
                    "%s: %s versions before the comparison are left out: the log does not have all of them (deletes by"
                    " another key, large values that an update did not touch)",
                    each.stream.name,
                    each.changes.left_out,
                )

    def _target(self, stream: LogStream) -> TableLake:
        """The stream's side of the lake, without the columns that the log does not have."""
        target = stream.lake_table
        generated = self._generated.get(stream.table.oid, frozenset())
        return replace(target, columns=[column for column in target.columns if column.name not in generated])

    # Changes

    def _followed(self, stream: LogStream, position: Position) -> _Followed:
        stream.refresh()
        target = self._target(stream)
        folder = self.lake.root / WORK / f"{stream.name}.log"
        selected = {column.name for column in target.columns}
        deselected = frozenset(column.name for column in stream.table.columns) - selected
        unsure = None if position.complete else self._unsure[stream.name]
        return _Followed(stream, position, ChangedTable(self.server, target, folder, unsure), deselected)

    def _follow(self, followed: Sequence[_Followed], until: int | None = None) -> None:
        """Read the log up to a position, by default its end now."""
        if until is None:
            with Log(self.server.arguments({**SESSION_OPTIONS, **REPLICATION_SETTINGS})) as log:
                until = log.system().lsn
        while followed:
            with Log(self.server.arguments({**SESSION_OPTIONS, **REPLICATION_SETTINGS})) as log:
                try:
                    self._read(log, followed, until)
                    end = log.position
                except _Anew:
                    for each in followed:
                        each.changes.abandon()
                    followed = [each for each in followed if not each.has_failed]
                    continue
            break
        for each in followed:
            position = each.at(end)
            self._close(each, end)
            if Position.read(each.stream.stream_state) != position:
                each.stream.move(position.fields())
            counts = each.changes.target.counts
            self.logger.info("%s: %s changes, %s quarantined", each.stream.name, counts.read, counts.quarantined)

    def _read(self, log: Log, followed: Sequence[_Followed], until: int) -> None:
        by_oid = {each.stream.table.oid: each for each in followed}
        start = min(each.lsn for each in followed)
        last = max(each.lsn for each in followed)
        current: Mapping[int, _Followed] = {}
        relations: dict[int, Relation] = {}
        begin: Begin | None = None
        touched: dict[int, _Followed] = {}
        for message in log.changes(self.slot_name, self.publication, start, until):
            kind = type(message)
            if kind is Change:
                each = current.get(message.oid)
                if each is not None:
                    each.changes.take(message, begin.committed_at)
                    touched[message.oid] = each
            elif kind is Begin:
                begin = message
                if current is not by_oid:
                    before = current
                    current = by_oid
                    if begin.lsn < last:
                        current = {oid: each for oid, each in by_oid.items() if each.lsn <= begin.lsn}
                    # A relation is described once, perhaps while its stream had all that came.
                    for oid in current.keys() & relations.keys() - before.keys():
                        self._described(current[oid], relations[oid])
            elif kind is Commit:
                self._committed(touched.values(), followed, message.lsn)
                touched.clear()
            elif kind is Relation:
                relations[message.oid] = message
                if each := current.get(message.oid):
                    self._described(each, message)
            elif kind is Truncate:
                for oid in message.oids:
                    if each := current.get(oid):
                        each.changes.truncate(message.lsn, begin.committed_at)
                        touched[oid] = each

    def _committed(self, touched: Any, followed: Sequence[_Followed], lsn: int) -> None:
        """At the end of a transaction batches may close."""
        for each in touched:
            if each.changes.is_full:
                self._close(each, lsn)
        while sum(each.changes.open_bytes for each in followed) >= _OPEN_BYTES:
            self._close(max(followed, key=lambda each: each.changes.open_bytes), lsn)

    def _close(self, each: _Followed, lsn: int) -> None:
        position = each.at(lsn)
        batch = each.changes.close(position.fields())
        if batch:
            each.stream.send(batch)
            each.position = position

    def _described(self, each: _Followed, relation: Relation) -> None:
        try:
            unknown = each.changes.describe(relation, self._type_of)
            names = [name for name in unknown if name not in each.deselected]
        except UserError as error:
            each.has_failed = True
            each.stream.fault(error)
            raise _Anew from None
        new = self._new_columns(each, relation, names) if names else []
        if new:
            is_open = each.changes.has_rows
            each.changes.widen(new)
            if is_open:
                raise _Anew
            each.changes.describe(relation, self._type_of)

    def _type_of(self, column: LogColumn) -> str:
        """The name of a type that the log has for a column."""
        with closing(self.server.connect()) as connection:
            parameters = {"type": column.type_oid, "modifier": column.type_modifier, "table": 0, "column": column.name}
            return _row(connection, _TYPE, parameters)[1]

    def _new_columns(self, each: _Followed, relation: Relation, names: Sequence[str]) -> list[Column]:
        """Columns that the log has and the catalog had not: added since, or dropped meanwhile."""
        columns = []
        with closing(self.server.connect()) as connection:
            for column in relation.columns:
                if column.name in names:
                    found = _row(
                        connection,
                        _TYPE,
                        {
                            "type": column.type_oid,
                            "modifier": column.type_modifier,
                            "table": relation.oid,
                            "column": column.name,
                        },
                    )
                    if found[0]:
                        columns.append(Column(column.name, found[1], column.type_oid))
        hidden = set(names) - {column.name for column in columns}
        each.deselected |= hidden
        return columns


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _definitions(facts: _Facts, selected: Set[str]) -> dict[str, str]:
    """Each selected column's number and a hash of its name and definition, and `=` where rows may have its default.

    A definition has its catalog row's transaction. Types and names alone would not do: a column that was renamed and
    got its name back has versions in the log that are of no column of today.
    """
    return {
        name: f"{number}:{_hash(name, definition)}{'=' if has_default else ''}"
        for number, name, definition, has_default in facts.columns
        if name in selected
    }


def _table_text(oid: int, facts: _Facts, keys: Sequence[str], definitions: Iterable[str]) -> str:
    """The table, its membership, its key and where its rows are; how many columns it ever had; each selected one."""
    table = _hash(facts.storage or "", json.dumps(list(keys)))
    return f"{oid}.{facts.member}.{table} {facts.width} {' '.join(definitions)}"


def _stable_definitions(before: str, now: str) -> Set[str]:
    """The definitions of columns whose values in the lake are those that the log goes on from."""
    table, _, *columns = before.split(" ")
    return {column.rstrip("=") for column in columns} if table == now.split(" ")[0] else frozenset()


def _known_until(stream: LogStream, position: Position, confirmed: Confirmed | None) -> int:
    """Up to where the lake has a stream's changes: what the slot was let go of, it had."""
    is_included = confirmed is not None and stream.name in confirmed.streams
    return max(position.lsn, confirmed.lsn) if confirmed and is_included else position.lsn


def _is_changed(before: str, now: str, held: Set[str]) -> bool:
    """Whether rows may have changed without the log: not where columns were only dropped, or added as null.

    `held` are the definitions whose column's name the lake has already: of one that was dropped, where it is new.
    """
    table, width, *columns = before.split(" ")
    table_now, _, *columns_now = now.split(" ")
    if table != table_now or not width.isdecimal():
        return True
    known = {column.rstrip("=") for column in columns}
    return any(
        column.rstrip("=") not in known
        and (column.endswith("=") or column in held or int(column.split(":")[0]) <= int(width))
        for column in columns_now
    )


_PUBLICATION = """
select array_remove(array[
    case when not pubinsert then 'insert' end, case when not pubupdate then 'update' end,
    case when not pubdelete then 'delete' end, case when not pubtruncate then 'truncate' end], null)
from pg_publication
where pubname = %(name)s
"""

# A partition is published with its ancestors; what is published by schema exists from version 15 on, as are filters.
_FACTS_TEMPLATE = """
select c.oid,
    (select p.oid || '.' || m.member from ({members}) as m (member) order by m.member limit 1),
    p.pubviaroot,
    {filtered},
    c.relkind = 'r' and exists (select from pg_inherits as i where i.inhparent = c.oid),
    c.relpersistence = 'u' or c.relkind = 'p' and exists (
        select from pg_partition_tree(c.oid) as t join pg_class as l on l.oid = t.relid where l.relpersistence = 'u'),
    case when c.relkind = 'r' then coalesce(nullif(c.reltoastrelid, 0), pg_relation_filenode(c.oid))::text else (
        select string_agg(concat_ws(' ', l.oid, pg_relation_filenode(l.oid)), ',' order by l.oid)
        from pg_partition_tree(c.oid) as t join pg_class as l on l.oid = t.relid where t.isleaf) end,
    c.relnatts::integer,
    array(
        select json_build_array(a.attnum, a.attname, concat_ws(' ', a.atttypid, a.atttypmod, a.attgenerated, a.xmin),
            a.atthasmissing or a.atthasdef or a.attidentity <> '')
        from pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
    ),
    c.relreplident::text,
    array(
        select a.attname::text from pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and (c.relreplident = 'f' or a.attnum = any(
            select k.attnum from pg_index as i, unnest(i.indkey::int2[]) as k (attnum)
            where i.indexrelid = pg_get_replica_identity_index(c.oid)))
    ),
    array(
        select a.attname::text from pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> ''
    )
from pg_class as c, pg_publication as p
where c.oid = any(%(tables)s::oid[]) and p.pubname = %(name)s and c.relkind in ('r', 'p')
"""
_MEMBERS = """
    select r.oid from pg_publication_rel as r
    where r.prpubid = p.oid
        and (r.prrelid = c.oid or r.prrelid in (select relid from pg_partition_ancestors(c.oid)))
    union all select p.oid where p.puballtables
"""
_FACTS = _FACTS_TEMPLATE.format(members=_MEMBERS, filtered="false")
_FACTS_15 = _FACTS_TEMPLATE.format(
    members=_MEMBERS + "union all select n.oid from pg_publication_namespace as n"
    " where n.pnpubid = p.oid and n.pnnspid = c.relnamespace",
    filtered="exists (select from pg_publication_rel as r where r.prpubid = p.oid and r.prrelid = c.oid"
    " and (r.prqual is not null or r.prattrs is not null))",
)

# Whether a column of the log is to be taken, and its type below its domains. A column that this user may not read, or
# that is generated, was left out on purpose; one that the table has no more was there when its changes were written.
_TYPE = """
with recursive base as (
    select %(type)s::oid as oid, %(modifier)s::integer as modifier
    union all
    select t.typbasetype, t.typtypmod from base as b join pg_type as t on t.oid = b.oid and t.typtype = 'd'
)
select not exists (
        select from pg_attribute as a
        where a.attrelid = %(table)s::oid and a.attname = %(column)s and not a.attisdropped
            and (a.attgenerated <> '' or not has_column_privilege(a.attrelid, a.attnum, 'SELECT'))
    ),
    format_type(b.oid, b.modifier)
from base as b
where not exists (select from pg_type as t where t.oid = b.oid and t.typtype = 'd')
"""


def _check_server(connection: Connection) -> None:
    wal_level, is_standby = _row(connection, "select current_setting('wal_level'), pg_is_in_recovery()")
    if wal_level != "logical":
        raise UserError(
            f"LOG_BASED needs wal_level logical, and the server has {wal_level}; an administrator sets it (alter system"
            " set wal_level = logical, or rds.logical_replication) and restarts the server"
        )
    if is_standby:
        raise UserError("LOG_BASED reads the primary server, and this one is a standby; set host to the primary")


def _rows(connection: Connection, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def _row(connection: Connection, query: str, parameters: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    return _rows(connection, query, parameters or {})[0]


@contextlib.contextmanager
def _faults(stream: LogStream, server: Server) -> Iterator[None]:
    """Make what goes wrong the stream's fault; the others go on."""
    try:
        yield
    except UserError as error:
        stream.fault(error)
    except DatabaseError as error:
        stream.fault(UserError(f"stream {stream.name}: {stream.table.label}: {server.reason(error)}"))
