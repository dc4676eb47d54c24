"""The log as pgoutput tells it, on the newest and on an older PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ingestion.taps.postgres_log import (
    REPLICATION_SETTINGS,
    Begin,
    Change,
    Commit,
    Log,
    Relation,
    Truncate,
    confirm,
    decode,
    find_slot,
)
from orchestration.services.postgres import PostgresServer
from tests.postgres import Database, create_database, drop_database


@pytest.fixture(scope="module", params=[18, 16])
def server(request, server_folder, postgres_server) -> Iterator[PostgresServer]:
    if postgres_server.version == request.param:
        yield postgres_server
    else:
        folder = server_folder / f"version-{request.param}"
        with PostgresServer.start(folder, version=request.param, durable=False, temporary=True) as started:
            yield started


@pytest.fixture
def source(server) -> Iterator[Reader]:
    database = create_database(server)
    database.execute(
        "create table things (id integer primary key, name text, note text)",
        # Stored outside the row, so that an update leaves it out.
        "alter table things alter note set storage external",
        "create publication things for table things",
    )
    yield Reader(database)
    drop_database(database)


class Reader:
    """A slot, and what was read from it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.execute = database.execute
        self.slot = f"slot_{database.name}"
        with self.log() as log:
            self.start = log.create_slot(self.slot).lsn

    def log(self) -> Log:
        options = " ".join(f"-c {name}={value}" for name, value in REPLICATION_SETTINGS.items())
        return Log({"dsn": self.database.dsn, "options": options})

    def read(self, until: int | None = None) -> list:
        """What is new."""
        with self.log() as log:
            messages = list(log.changes(self.slot, "things", self.start, until or log.system().lsn))
            self.start = log.position
        return messages

    def rows(self, messages: list) -> list[tuple]:
        """Operation, row before and row after of each change, decoded one by one; None for what is unchanged."""
        return [row for message in messages if isinstance(message, Change) for row in rows_of([message])]


def rows_of(changes: list[Change]) -> list[tuple]:
    rows = decode([change.payload for change in changes], 3)

    def values(texts, number):
        return tuple(
            ... if text.unchanged is not None and text.unchanged[number] else text.values[number].as_py()
            for text in texts
        )

    return [
        (
            chr(operation),
            values(rows.old, number) if rows.old and rows.old_kind[number] else None,
            values(rows.new, number),
        )
        for number, operation in enumerate(rows.operations)
    ]


LARGE = "x" * 9000


def test_each_kind_of_change_is_decoded(source):
    source.execute(
        f"insert into things values (1, 'ä€', '{LARGE}'), (2, null, '')",
        "update things set name = 'new' where id = 1",
        "update things set id = 3 where id = 2",
        "delete from things where id = 3",
    )
    assert source.rows(source.read()) == [
        ("I", None, ("1", "ä€", LARGE)),
        ("I", None, ("2", None, "")),
        ("U", None, ("1", "new", ...)),
        ("U", ("2", None, None), ("3", None, "")),
        ("D", ("3", None, None), (None, None, None)),
    ]


def test_with_replica_identity_full_the_whole_row_before_is_known(source):
    source.execute(
        "alter table things replica identity full",
        f"insert into things values (1, 'a', '{LARGE}')",
        "update things set name = 'b'",
        "delete from things",
    )
    assert source.rows(source.read())[1:] == [
        ("U", ("1", "a", LARGE), ("1", "b", ...)),
        ("D", ("1", "b", LARGE), (None, None, None)),
    ]


def test_many_changes_are_decoded_as_each_alone(source):
    source.execute(
        "insert into things select n, case when n % 3 > 0 then 'name ' || n end, repeat('é', n % 4000)"
        " from generate_series(1, 400) as n",
        "update things set name = 'other' where id % 2 = 0",
        "update things set id = id + 1000 where id % 5 = 0",
        "delete from things where id % 7 = 0",
    )
    changes = [message for message in source.read() if isinstance(message, Change)]
    assert len(changes) > 700
    assert rows_of(changes) == source.rows(changes)


def test_a_transaction_comes_whole_with_the_time_of_its_commit(source):
    source.execute("begin; insert into things values (1); truncate things; insert into things values (2); commit")
    messages = source.read()
    (oid,) = source.database.query("select 'things'::regclass::oid::int")[0]
    kinds = [type(message) for message in messages if type(message) is not Relation]
    assert kinds == [Begin, Change, Truncate, Change, Commit]
    assert next(message for message in messages if type(message) is Truncate).oids == (oid,)
    assert abs(messages[0].committed_at.timestamp() - time.time()) < 60


def test_a_column_that_is_added_is_in_the_relation_before_the_next_change(source):
    source.execute(
        "insert into things values (1)", "alter table things add more numeric(12, 3)", "insert into things values (2)"
    )
    relations = [message for message in source.read() if isinstance(message, Relation)]
    assert [[column.name for column in relation.columns] for relation in relations] == [
        ["id", "name", "note"],
        ["id", "name", "note", "more"],
    ]


def test_reading_ends_at_once_where_nothing_is_new(source):
    source.read()
    started = time.monotonic()
    assert source.read() == []
    assert time.monotonic() - started < 1


def test_reading_ends_wherever_the_log_ends(source):
    # Messages without transaction, of sizes about that of a page: nothing that pgoutput would tell of.
    for size in (0, 1, 4000, 8060, 8100, 8140, 8150, 8160, 8192, 20_000):
        source.execute(f"select pg_logical_emit_message(false, 'x', repeat('z', {size}))")
        assert source.read() == []
    source.execute("set synchronous_commit = off; insert into things values (1)")
    with source.log() as log:
        until = log.system().lsn
    source.read(until)
    source.execute("insert into things values (2)")
    source.read()
    assert source.rows(source.read()) == []


def test_what_is_committed_after_the_end_comes_with_the_next_reading(source):
    source.execute("insert into things values (1)", "create table others ()")
    with source.log() as log:
        until = log.system().lsn
    source.execute("insert into things values (2)", "insert into things values (3)")
    assert [row[2][0] for row in source.rows(source.read(until))] == ["1"]
    assert [row[2][0] for row in source.rows(source.read())] == ["2", "3"]


def test_reading_moves_no_slot_and_confirming_does(source):
    source.execute("insert into things values (1)")
    before = source.start
    source.read()
    connection = source.database.connect()
    connection.autocommit = True
    slot = find_slot(connection, source.slot)
    assert slot.confirmed_lsn == before < source.start
    confirm(connection, slot, source.start)
    assert find_slot(connection, source.slot).confirmed_lsn == source.start
    connection.close()
    source.start = before
    assert source.rows(source.read()) == []
