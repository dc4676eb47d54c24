"""PostgreSQL's log as pgoutput tells it: the slot, the messages, and the rows in them (docs/contracts.md, "LOG_BASED").

The protocol is documented in PostgreSQL's manual, "Logical Replication Message Formats"; this is its version 1, which
every PostgreSQL from 13 on speaks, and in which a transaction is sent whole, after its commit, in the order of commits.

Values are PostgreSQL's own text. Reading a row in Python value by value would cost more than everything else, so
changes are kept as they come and decoded many at a time, column by column (`decode`).
"""

from __future__ import annotations

import re
import select
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import psycopg2
import psycopg2.errors
import pyarrow as pa
from psycopg2.extras import LogicalReplicationConnection

from ingestion.errors import UserError

PLUGIN = "pgoutput"
# A killed tap's connection holds the slot until the server notices that nobody reads any more.
ACTIVE_SECONDS = 15.0
# No message for this long: look whether the connection still lives.
_QUIET_SECONDS = 10.0
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")
REPLICATION_SETTINGS = {"wal_sender_timeout": "0", "statement_timeout": "0", "tcp_keepalives_idle": "60"}
"""The server would end the connection of a reader that is silent while the target works; TCP says if it still lives."""

_BEGIN = struct.Struct(">cQqI")
_COMMIT = struct.Struct(">cBQQq")
_OID = struct.Struct(">I")
_SHORT = struct.Struct(">H")
_COLUMN_TYPE = struct.Struct(">Ii")
_TRUNCATE = struct.Struct(">cIB")
_TEXT, _UNCHANGED = ord("t"), ord("u")
_GATHERED_BYTES = 32
"""Texts up to this length, on average, are gathered byte by byte in one step; longer ones are copied one by one."""


def lsn_number(text: str) -> int:
    """A position in the log, `16/B374D848`, as the number that orders it."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def lsn_text(lsn: int) -> str:
    """A position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


# Messages


class LogColumn(NamedTuple):
    """A column as a Relation message has it; `key` when it is of the replica identity."""

    name: str
    key: bool
    type_oid: int
    type_modifier: int


class Relation(NamedTuple):
    """A table as it is from here on. `replica_identity` is `d`, `n`, `f` or `i` as in `pg_class.relreplident`."""

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[LogColumn, ...]


class Begin(NamedTuple):
    """A transaction's start; `lsn` is where its commit stands, and below the next transaction's."""

    lsn: int
    committed_at: datetime


class Commit(NamedTuple):
    """A transaction's end; `lsn` is the end of its commit: a reader that starts there gets the next one."""

    lsn: int


class Change(NamedTuple):
    """An insert, update or delete, for `decode`."""

    oid: int
    lsn: int
    payload: bytes


class Truncate(NamedTuple):
    """Tables that were emptied."""

    oids: tuple[int, ...]
    lsn: int


Message = Begin | Commit | Relation | Change | Truncate


def parse(payload: bytes, lsn: int) -> Message | None:
    """A message of pgoutput, or None for one that says nothing about rows. `lsn` is that of its envelope."""
    tag = payload[0]
    if tag in b"IUD":
        return Change(_OID.unpack_from(payload, 1)[0], lsn, payload)
    if tag == ord("B"):
        _, commit_lsn, microseconds, _ = _BEGIN.unpack(payload)
        return Begin(commit_lsn, _EPOCH + timedelta(microseconds=microseconds))
    if tag == ord("C"):
        return Commit(_COMMIT.unpack(payload)[3])
    if tag == ord("R"):
        return _relation(payload)
    if tag == ord("T"):
        _, count, _ = _TRUNCATE.unpack_from(payload)
        return Truncate(struct.unpack_from(f">{count}I", payload, _TRUNCATE.size), lsn)
    if tag in b"YOM":  # Types, origins and logical messages.
        return None
    raise ValueError(f"pgoutput sent a message of the unknown kind {chr(tag)!r}")


def _relation(payload: bytes) -> Relation:
    (oid,) = _OID.unpack_from(payload, 1)
    schema, place = _string(payload, 5)
    name, place = _string(payload, place)
    identity = chr(payload[place])
    (count,) = _SHORT.unpack_from(payload, place + 1)
    place += 3
    columns = []
    for _ in range(count):
        key = bool(payload[place] & 1)
        column, place = _string(payload, place + 1)
        columns.append(LogColumn(column, key, *_COLUMN_TYPE.unpack_from(payload, place)))
        place += _COLUMN_TYPE.size
    # The empty schema stands for pg_catalog.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _string(payload: bytes, place: int) -> tuple[str, int]:
    end = payload.index(b"\0", place)
    return payload[place:end].decode(), end + 1


# Rows


@dataclass(frozen=True)
class Texts:
    """One column of some rows: texts, null where the value is null, was not sent, or is unchanged."""

    values: pa.StringArray
    unchanged: np.ndarray | None
    """Where the value is a large one that an update left as it was, and that the log therefore lacks; None: nowhere."""


@dataclass(frozen=True)
class Rows:
    """Changes of one relation, decoded. `old` and `new` have a `Texts` per column, both as long as `operations`."""

    operations: np.ndarray
    """`I`, `U` or `D` as numbers of their characters (uint8)."""
    old_kind: np.ndarray
    """What is known of the row before: `K` its replica identity, `O` all of it, 0 nothing (uint8)."""
    old: list[Texts] | None
    """None when there is nothing of any row before."""
    new: list[Texts]


def decode(payloads: Sequence[bytes], columns: int) -> Rows:
    """The rows of changes of a relation that has so many columns. Raises ValueError when they are not such.

    A value that is no UTF-8 (possible where the database's encoding is SQL_ASCII) raises UnicodeDecodeError.
    """
    lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
    starts = np.cumsum(lengths) - lengths
    # A value's length is read before its kind is looked at, so reading goes beyond the last one.
    content = np.frombuffer(b"".join([*payloads, b"\0" * 8]), np.uint8)
    operations, kinds = content[starts], content[starts + 5]
    has_old = kinds != ord("N")
    first, ends = _tuples(content, starts + 6, columns)
    new_rows = np.flatnonzero(has_old & (operations == ord("U")))
    if not has_old.any():
        return Rows(operations, np.zeros(len(payloads), np.uint8), None, first)
    old_rows = np.flatnonzero(has_old)
    plain = np.flatnonzero(~has_old)
    second, _ = _tuples(content, ends[new_rows] + 1, columns)
    count = len(payloads)
    old = [_placed([(texts, old_rows, old_rows)], count) for texts in first]
    everyone = np.arange(len(new_rows))
    new = [
        _placed([(before, plain, plain), (after, everyone, new_rows)], count)
        for before, after in zip(first, second, strict=True)
    ]
    return Rows(operations, np.where(has_old, kinds, 0).astype(np.uint8), old, new)


def _placed(parts: Sequence[tuple[Texts, np.ndarray, np.ndarray]], count: int) -> Texts:
    """Some rows of several `Texts` (`from_`) at their places (`to`) among `count` rows; null elsewhere."""
    places = np.full(count, -1, np.int64)
    offset = 0
    unchanged = np.zeros(count, bool)
    for texts, from_, to in parts:
        places[to] = from_ + offset
        offset += len(texts.values)
        if texts.unchanged is not None:
            unchanged[to] = texts.unchanged[from_]
    values = pa.concat_arrays([texts.values for texts, _, _ in parts])
    indices = pa.array(places, pa.int64(), mask=places < 0)
    return Texts(values.take(indices), unchanged if unchanged.any() else None)


def _tuples(content: np.ndarray, places: np.ndarray, columns: int) -> tuple[list[Texts], np.ndarray]:
    """The values of the rows that begin at `places`, and where each row ends."""
    counts = content[places].astype(np.int64) << 8 | content[places + 1]
    if (counts != columns).any():
        raise ValueError(f"a change has {counts[counts != columns][0]} columns, its relation {columns}")
    places = places + 2
    texts = []
    for _ in range(columns):
        kinds = content[places]
        is_text = kinds == _TEXT
        lengths = np.zeros(len(places), np.int64)
        for byte in range(1, 5):
            lengths = lengths << 8 | content[places + byte]
        lengths = np.where(is_text, lengths, 0)
        unchanged = kinds == _UNCHANGED
        values = _strings(content, places + 5, lengths, is_text)
        texts.append(Texts(values, unchanged if unchanged.any() else None))
        places = places + 1 + np.where(is_text, lengths + 4, 0)
    return texts, places


def _strings(content: np.ndarray, starts: np.ndarray, lengths: np.ndarray, valid: np.ndarray) -> pa.StringArray:
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    total = int(offsets[-1])
    if total <= _GATHERED_BYTES * len(starts):
        data = content[np.repeat(starts - offsets[:-1], lengths) + np.arange(total)].tobytes()
    else:
        view = memoryview(content)
        data = b"".join([view[start : start + length] for start, length in zip(starts, lengths, strict=True)])
    if not data.isascii():
        data.decode()  # Each value is whole characters, since the server sends no other UTF-8.
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.StringArray.from_buffers(
        len(starts), pa.py_buffer(offsets.astype(np.int32).tobytes()), pa.py_buffer(data), bitmap
    )


# Slots


@dataclass(frozen=True)
class System:
    """A server and how far its log is on disk."""

    identifier: str
    lsn: int


@dataclass(frozen=True)
class Slot:
    """A replication slot as the server has it."""

    name: str
    plugin: str | None
    database: str | None
    active_pid: int | None
    confirmed_lsn: int | None
    """Where changes begin that it still gives."""
    wal_status: str | None
    """`lost` when the server has thrown away what the slot needs; None as well on some versions."""

    @property
    def is_lost(self) -> bool:
        """Whether it can give no changes any more."""
        return self.wal_status == "lost" or self.confirmed_lsn is None


@dataclass(frozen=True)
class Snapshot:
    """The database at one position: what a snapshot shows, and what the log tells from `lsn` on, are together all."""

    name: str
    lsn: int


def find_slot(connection: Any, name: str) -> Slot | None:
    """The slot of this name, of whatever database and plugin."""
    with connection.cursor() as cursor:
        cursor.execute(
            "select slot_name, plugin, database, active_pid, confirmed_flush_lsn::text, wal_status"
            " from pg_replication_slots where slot_name = %s",
            (name,),
        )
        rows = cursor.fetchall()
    if not rows:
        return None
    slot_name, plugin, database, active_pid, confirmed, wal_status = rows[0]
    lsn = None if confirmed is None else lsn_number(confirmed)
    return Slot(slot_name, plugin, database, active_pid, lsn, wal_status)


def confirm(connection: Any, slot: Slot, lsn: int) -> None:
    """Let the server forget what is before `lsn`; the slot never goes back."""
    if slot.confirmed_lsn is None or lsn <= slot.confirmed_lsn:
        return
    with connection.cursor() as cursor:
        _while_active(
            slot.name, lambda: cursor.execute("select pg_replication_slot_advance(%s, %s)", (slot.name, lsn_text(lsn)))
        )


class Log:
    """A connection of the replication protocol, to one database.

    The slot is moved by `confirm` alone. Here no feedback is ever sent: psycopg2 would tell the server that it may
    forget what it had nothing to say about, before the target has committed what came before.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Connect by libpq's parameters, with REPLICATION_SETTINGS among their options. Raises psycopg2.Error."""
        keepalives = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        self._connection = psycopg2.connect(
            **{**keepalives, **arguments}, connection_factory=LogicalReplicationConnection
        )
        self._cursor = self._connection.cursor()
        self.position = 0
        """All transactions that ended before this have been given by `changes`."""

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it a temporary slot and a snapshot."""
        self._connection.close()

    def system(self) -> System:
        """The server, and the end of its log now."""
        self._cursor.execute("IDENTIFY_SYSTEM")
        identifier, _, lsn, _ = self._cursor.fetchall()[0]
        return System(identifier, lsn_number(lsn))

    def create_slot(self, name: str, *, temporary: bool = False) -> Snapshot:
        """Make a slot. The snapshot can be used until this connection does something else or is closed.

        It waits for the end of every transaction that writes at the moment.
        """
        if not _SLOT_NAME.fullmatch(name):
            raise UserError(f"replication slot {name!r}: write its name in a-z, 0-9 and _, up to 63 characters")
        if self._connection.server_version >= 140000:
            self._cursor.execute("SET idle_session_timeout = 0")
        self._cursor.execute("SET idle_in_transaction_session_timeout = 0")
        kind = "TEMPORARY " if temporary else ""
        self._cursor.execute(f"CREATE_REPLICATION_SLOT {name} {kind}LOGICAL {PLUGIN}")
        _, lsn, snapshot, _ = self._cursor.fetchall()[0]
        return Snapshot(snapshot, lsn_number(lsn))

    def changes(self, slot: str, publication: str, start: int, until: int) -> Iterator[Message]:
        """The messages of the transactions that ended after `start`, up to the first that ended at `until` or later.

        `until` is the end of the log at some moment (`system`). It ends there by itself, also where there was nothing
        to tell, with `position` at the end of what was read. Raises psycopg2.Error.
        """
        cursor = self._cursor
        name = publication.replace("\\", "\\\\").replace('"', '""').replace("'", "''")
        command = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(start)}'
            f" (proto_version '1', publication_names '\"{name}\"')"
        )
        _while_active(slot, lambda: cursor.start_replication_expert(command, decode=False, status_interval=1e6))
        self.position = start
        read_message = cursor.read_message
        in_transaction = False
        while True:
            message = read_message()
            if message is None:
                # What the server says between transactions is how far it has looked.
                if not in_transaction and cursor.wal_end >= until:
                    self.position = max(self.position, cursor.wal_end)
                    return
                self._wait()
                continue
            parsed = parse(message.payload, message.data_start)
            if parsed is None:
                continue
            if type(parsed) is Begin:
                if parsed.lsn >= until:
                    self.position = max(self.position, until)
                    return
                in_transaction = True
            yield parsed
            if type(parsed) is Commit:
                self.position = parsed.lsn
                in_transaction = False
                if parsed.lsn >= until:
                    return

    def _wait(self) -> None:
        ready, _, _ = select.select([self._cursor], [], [], _QUIET_SECONDS)
        if not ready and self._connection.closed:
            raise psycopg2.OperationalError("the connection was closed")


def _while_active(slot: str, action: Callable[[], None]) -> None:
    """Do something with a slot, waiting a while for another process to let it go."""
    deadline = time.monotonic() + ACTIVE_SECONDS
    while True:
        try:
            action()
            return
        except psycopg2.errors.ObjectInUse as error:
            if time.monotonic() > deadline:
                reason = str(error).strip().splitlines()[0].removeprefix("ERROR:").strip()
                raise UserError(
                    f"{reason}: another process reads it; give each tap its own replication_slot_name,"
                    " or wait until that process has ended"
                ) from error
            time.sleep(0.1)
