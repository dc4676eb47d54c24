"""LOG_BASED streams: a consistent snapshot, then every committed change once, by one slot."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Any

import psycopg2
import pytest

from ingestion.taps import postgres_changes, postgres_replication
from ingestion.taps.postgres_log import lsn_number
from orchestration.services.postgres import PostgresServer
from tests.integration.log_based_runs import Follower
from tests.integration.postgres_runs import let_nan_pass
from tests.postgres import create_database

LARGE, OTHER = "x" * 9000, "y" * 9000
THINGS = "create table shop.things (id integer primary key, name text, note text)"


@pytest.fixture
def follower(postgres, warehouse) -> Follower:
    postgres.execute(
        "create schema shop",
        THINGS,
        # Stored outside the row, so that the log leaves it out where an update does not touch it.
        "alter table shop.things alter note set storage external",
        "create publication warehouse for tables in schema shop",
    )
    return Follower(postgres, warehouse)


def things(follower: Follower) -> list[tuple[Any, ...]]:
    return follower.database.query("select id, name, note from shop.things order by id")


# Snapshot and changes


def test_the_snapshot_and_then_each_change_lands_once(follower):
    follower.database.execute("insert into shop.things values (1, 'a'), (2, 'b')")
    follower.run()
    follower.database.execute(
        "insert into shop.things values (3, 'c')",
        "update shop.things set name = 'bb' where id = 2",
        "delete from shop.things where id = 1",
        "update shop.things set id = 4 where id = 3",
    )
    follower.run()
    assert sorted(follower.versions("things", "id, name")[:2]) == [("upsert", 1, "a"), ("upsert", 2, "b")]
    assert follower.versions("things", "id, name")[2:] == [
        ("upsert", 3, "c"),
        ("upsert", 2, "bb"),
        ("delete", 1, None),
        ("delete", 3, None),
        ("upsert", 4, "c"),
    ]
    follower.home.check_identities()


def test_a_delete_has_the_time_of_its_commit_and_each_version_its_place_in_the_log(follower):
    follower.run()
    follower.database.execute("insert into shop.things values (1)", "delete from shop.things")
    follower.run()
    rows = follower.home.query(
        "select _sdc_operation, _sdc_deleted_at is not null and abs(epoch(_sdc_deleted_at - now())) < 600,"
        " _sdc_sequence from raw_shop.things order by _sdc_sequence"
    )
    assert [row[:2] for row in rows] == [("upsert", False), ("delete", True)]
    end = lsn_number(follower.database.query("select pg_current_wal_lsn()::text")[0][0])
    assert end - 1_000_000 < rows[0][2] < rows[1][2] <= end


def test_versions_of_one_load_that_wait_in_quarantine_are_replayed_in_their_order(follower, run_replay, monkeypatch):
    follower.database.execute(
        "create table shop.prices (id integer primary key, number integer, price numeric(8, 2), cost numeric(8, 2))",
        "insert into shop.prices values (1, -1, 0, 0)",
    )
    follower.run()
    follower.database.execute(
        *(f"update shop.prices set number = {n}, price = 'NaN'" for n in range(5)),
        "update shop.prices set number = 5, price = 0, cost = 'NaN'",
        *(f"update shop.prices set number = {n}, price = 'NaN', cost = 0" for n in range(6, 12)),
    )
    follower.run()
    assert follower.home.query("select count(*), count(distinct load_id) from ops.quarantine") == [(12, 1)]
    # Records of 0 to 3, then 4 and 6 to 8, and the rest.
    monkeypatch.setattr("ingestion.target.sql_engine._REPLAY_CHUNK", 4)
    for column, count in (("cost", "1 loaded, 0 known already, 11"), ("price", "6 loaded, 5 known already, 0")):
        let_nan_pass(follower.home, "prices", column)
        assert count in run_replay()
    in_order = "select number from raw_shop.prices order by _sdc_load_id, _sdc_sequence"
    assert follower.home.query(in_order) == [(n,) for n in (-1, 5, *range(6, 12))]


def test_where_nothing_is_new_no_batch_is_sent_and_the_position_moves_on(follower):
    follower.database.execute("insert into shop.things values (1)")
    follower.run()
    before = follower.state["bookmarks"]["shop-things"]
    follower.database.execute("select pg_logical_emit_message(true, 'x', repeat('z', 100000))")
    assert follower.run().batches == []
    after = follower.state["bookmarks"]["shop-things"]
    assert lsn_number(after["lsn"]) > lsn_number(before["lsn"]) + 100_000
    assert after["load_id"] == before["load_id"]


def test_the_slot_moves_only_to_what_the_target_committed(follower):
    follower.run()
    follower.database.execute("insert into shop.things values (1)")
    committed = follower.confirmed()
    follower.send()  # The target never sees it.
    follower.send()
    assert lsn_number(follower.confirmed()) <= lsn_number(follower.state["bookmarks"]["shop-things"]["lsn"])
    follower.run()
    assert follower.held("things", "id") == [(1,)]
    follower.run()
    assert lsn_number(follower.confirmed()) > lsn_number(committed)


def test_a_run_whose_messages_were_lost_is_sent_again_not_read_again(follower):
    follower.run()
    follower.database.execute("insert into shop.things values (1, 'a')")
    follower.send()
    sent = follower.run()
    assert sent.batches == ["shop-things"]
    assert follower.versions("things", "id, name") == [("upsert", 1, "a")]


def test_lost_state_costs_nothing(follower):
    follower.database.execute("insert into shop.things values (1, 'a')")
    for number in range(3):
        follower.run()
        follower.database.execute(f"insert into shop.things values (1{number}, 'b')")
    # The slot is ahead of the last batch's position where the table has been quiet.
    follower.run()
    follower.database.execute("select pg_logical_emit_message(true, 'x', repeat('z', 10000))")
    for _ in range(3):
        follower.run()
    follower.state = None
    # A comparison of the whole table would miss the first.
    follower.database.execute(*(f"update shop.things set name = '{name}' where id = 1" for name in "bc"))
    follower.run()
    assert len(follower.versions("things", "id")) == 6
    assert follower.held("things", "id, name") == [(1, "c"), (10, "b"), (11, "b"), (12, "b")]


def test_a_busy_and_a_quiet_table_share_the_slot(follower):
    follower.database.execute("create table shop.quiet (id integer primary key)", "insert into shop.quiet values (1)")
    for number in range(3):
        follower.run()
        follower.database.execute(f"insert into shop.things values ({number})")
    (end,) = follower.database.query("select pg_current_wal_lsn()::text")[0]
    follower.run()
    follower.run()
    assert lsn_number(follower.confirmed()) >= lsn_number(end)
    follower.state = None
    follower.run()
    assert follower.versions("quiet", "id") == [("upsert", 1)]
    assert follower.versions("things", "id") == [("upsert", 0), ("upsert", 1), ("upsert", 2)]


def test_streams_that_are_not_equally_far_each_go_on_where_they_are(follower):
    follower.database.execute("create table shop.ahead (id integer primary key, name text)")
    follower.run()
    follower.database.execute("insert into shop.ahead values (1, 'a')")
    follower.send()
    # By the lake alone one stream is at the snapshot, the other after it.
    follower.state = None
    follower.database.execute("insert into shop.ahead values (2, 'b')", "insert into shop.things values (3, 'c')")
    follower.run()
    assert follower.versions("ahead", "id, name") == [("upsert", 1, "a"), ("upsert", 2, "b")]
    assert follower.versions("things", "id, name") == [("upsert", 3, "c")]


# Streams that come later


def test_a_table_that_is_added_later_gets_a_snapshot_of_its_own(follower):
    follower.run()
    follower.database.execute(
        "create table shop.later (id integer primary key, name text)",
        "insert into shop.later select n, 'a' from generate_series(1, 10) as n",
        "update shop.later set name = 'b' where id = 1",
        "insert into shop.things values (1)",
    )
    follower.run()
    follower.database.execute("update shop.later set name = 'c' where id = 1")
    follower.run()
    assert follower.held("later", "id, name")[:2] == [(1, "c"), (2, "a")]
    assert len(follower.versions("later", "id")) == 11
    assert follower.held("things", "id") == [(1,)]
    assert [
        row[0] for row in follower.database.query("select slot_name from pg_replication_slots where temporary")
    ] == []


def test_an_interrupted_snapshot_is_begun_anew_and_adds_only_what_is_missing(follower, monkeypatch):
    follower.database.execute("insert into shop.things select n, 'a' from generate_series(1, 1000) as n")
    follower.config["batch_size_rows"] = 300
    monkeypatch.setattr("ingestion.taps.postgres_connection.ARROW_BATCH_BYTES", 4000)
    monkeypatch.setattr("ingestion.taps.postgres_reading.ARROW_BATCH_BYTES", 4000)
    tap = follower.tap()
    stream = tap.streams["shop-things"]
    send, sent = stream.send, []

    def interrupted(batch):
        if sent:
            raise KeyboardInterrupt
        sent.append(batch)
        send(batch)

    monkeypatch.setattr(stream, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        follower.send(tap)
    assert {position["complete"] for position in follower.positions("things")} == {False}
    follower.database.execute("update shop.things set name = 'b' where id = 1", "delete from shop.things where id = 2")
    follower.run()
    follower.run()
    assert follower.held("things", "id, name") == follower.database.query(
        "select id, name from shop.things order by id"
    )
    assert len(follower.versions("things", "id")) == len({*follower.versions("things", "id, name")})


def test_a_table_that_is_rewritten_after_the_snapshot_is_read_in_another(follower, monkeypatch):
    """In a snapshot from before it looks empty."""
    follower.database.execute("insert into shop.things values (1, 'a'), (2, 'b')")
    create_slot = postgres_replication.Log.create_slot
    statements = ["alter table shop.things alter name type text using name || '!'"]

    def then_rewritten(*arguments: Any, **options: Any) -> Any:
        snapshot = create_slot(*arguments, **options)
        if statements:
            follower.database.execute(statements.pop())
        return snapshot

    monkeypatch.setattr(postgres_replication.Log, "create_slot", then_rewritten)
    follower.run()
    assert follower.held("things", "id, name, note") == things(follower)
    before = follower.versions("things", "id, name")
    follower.run()
    assert follower.versions("things", "id, name") == before


def test_a_stream_that_was_deselected_for_a_while_is_compared(follower):
    follower.database.execute(
        "create table shop.other (id integer primary key, name text)",
        "insert into shop.other values (1, 'a'), (2, 'a')",
    )
    follower.run()
    for number in range(3):
        follower.database.execute(f"insert into shop.things values ({number})")
        follower.run(follower.tap([("shop-other",)]))
    follower.database.execute("update shop.other set name = 'b' where id = 2")
    follower.run()
    assert follower.held("other", "id, name") == [(1, "a"), (2, "b")]
    assert len(follower.versions("other", "id")) == 3


def test_a_stream_that_comes_back_before_the_slot_was_moved_keeps_its_changes(follower, monkeypatch):
    follower.database.execute("create table shop.other (id integer primary key)")
    follower.run()
    follower.run()
    follower.database.execute("insert into shop.other values (1)", "insert into shop.things values (1)")
    follower.run(follower.tap([("shop-other",)]))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(postgres_replication, "confirm", stop)
        follower.send(follower.tap([("shop-other",)]))
    follower.run()
    follower.run()
    assert follower.held("other", "id") == [(1,)]


def test_a_table_that_was_made_anew_is_compared(follower):
    follower.database.execute("insert into shop.things values (1, 'a'), (2, 'b')")
    follower.run()
    follower.database.execute("drop table shop.things", THINGS, "insert into shop.things values (2, 'b'), (3, 'c')")
    follower.run()
    assert follower.held("things", "id, name") == [(2, "b"), (3, "c")]
    assert len(follower.versions("things", "id")) == 4


@pytest.mark.parametrize(
    ("columns", "statements"),
    [
        ("more", ["alter table shop.plain add column more integer not null default 5"]),
        ("other", ["alter table shop.plain alter other type bigint using other + 5000000000"]),
        ("other", ["alter table shop.plain alter other type integer using other + 1"]),
        ("amount", ["alter table shop.plain rename amount to was", "alter table shop.plain rename other to amount"]),
        (
            "amount",
            [
                "alter table shop.plain rename amount to was",
                "update shop.plain set was = 12 where id = 1",
                "alter table shop.plain rename was to amount",
            ],
        ),
        ("doubled", ["alter table shop.plain alter doubled drop expression"]),
        (
            "amount",
            [
                "alter table shop.things set unlogged",
                "delete from shop.things where id = 1",
                "alter table shop.things set logged",
            ],
        ),
        (
            "amount",
            [
                "alter table shop.plain set unlogged",
                "update shop.plain set amount = 12 where id = 1",
                "alter table shop.plain set logged",
            ],
        ),
    ],
    ids=["default", "type", "expression", "renamed", "renamed and back", "generated", "unlogged", "small unlogged"],
)
def test_what_changes_rows_without_the_log_makes_the_table_be_compared_once(follower, columns, statements):
    follower.database.execute(
        "create table shop.plain (id integer primary key, amount integer, other integer,"
        " doubled integer generated always as (amount * 2) stored)",
        "insert into shop.plain values (1, 10, 20), (2, 11, 21)",
        "insert into shop.things values (1, 'a'), (2, 'b'), (3, 'c')",
    )
    follower.run()
    follower.database.execute(*statements)
    follower.run()
    assert follower.held("plain", f"id, {columns}::text") == follower.database.query(
        f"select id, {columns}::text from shop.plain order by id"
    )
    assert follower.held("things", "id") == follower.database.query("select id from shop.things order by id")
    # Two changes of a row show that it comes from the log again, not from a comparison.
    follower.database.execute(*(f"update shop.things set name = '{name}' where id = 2" for name in "xy"))
    follower.run()
    assert [row[1] for row in follower.versions("things", "name")][-2:] == ["x", "y"]


def test_a_column_that_is_selected_again_has_its_values_of_the_time_between(follower):
    follower.run(follower.tap([("shop-things", "note")]))
    follower.database.execute("insert into shop.things values (1, 'a', 'n')")
    follower.run(follower.tap([("shop-things", "note")]))
    follower.run()
    assert follower.held("things", "id, name, note") == things(follower)


@pytest.mark.parametrize(
    "statements",
    [
        ["truncate shop.low"],
        [
            "drop table shop.low",
            "create table stage (id integer primary key, name text)",
            "insert into stage values (200, 'c')",
            "alter table shop.parts attach partition stage for values from (200) to (300)",
        ],
    ],
    ids=["truncated", "attached"],
)
def test_a_partition_that_changes_as_a_whole_is_compared(follower, statements):
    follower.database.execute(
        "drop publication warehouse",
        "create publication warehouse for all tables with (publish_via_partition_root = true)",
        "create table shop.parts (id integer primary key, name text) partition by range (id)",
        "create table shop.low partition of shop.parts for values from (0) to (100)",
        "create table shop.high partition of shop.parts for values from (100) to (200)",
        "insert into shop.parts values (1, 'a'), (100, 'b'), (101, 'b')",
    )
    follower.run()
    follower.database.execute(*statements)
    follower.run()
    assert follower.held("parts", "id, name") == follower.database.query("select id, name from shop.parts order by id")


# Versions before a comparison


@pytest.mark.parametrize(
    "statements",
    [
        ["alter table shop.plain add column more integer not null default 5"],
        ["alter table shop.plain alter other type bigint using other + 5000000000"],
        ["alter table shop.plain alter other set default 3"],
        ["alter table shop.plain rename amount to was", "alter table shop.plain rename other to amount"],
        ["alter table shop.plain set unlogged", "alter table shop.plain set logged"],
        ["alter table shop.plain drop constraint plain_pkey", "alter table shop.plain add primary key (id, code)"],
    ],
    ids=["default", "type", "no row", "renamed", "unlogged", "key"],
)
def test_versions_between_the_last_run_and_a_comparison_are_kept(follower, statements):
    follower.database.execute(
        "create table shop.plain (id integer primary key, code integer not null, amount integer, other integer)",
        "insert into shop.plain values (1, 1, 10, 20), (2, 2, 11, 21)",
    )
    follower.run()
    follower.database.execute(
        *(f"update shop.plain set amount = {amount} where id = 1" for amount in (100, 101)),
        "insert into shop.plain values (3, 3, 12, 22)",
        *statements,
        *(f"update shop.plain set code = {code} where id = 2" for code in (4, 5)),
        "delete from shop.plain where id = 3",
    )
    follower.run()
    versions = follower.versions("plain", "id, code, amount, other")
    assert [row for row in versions if row[1] == 1][1:3] == [("upsert", 1, 1, 100, 20), ("upsert", 1, 1, 101, 20)]
    assert [row[2] for row in versions if row[:2] == ("upsert", 2)][:3] == [2, 4, 5]
    assert [row[0] for row in versions if row[1] == 3] == ["upsert", "delete"]
    current = "id, code, amount::text" + (", more::text" if "more" in statements[0] else "")
    key = "id, code" if "key" in statements[-1] else "id"
    assert follower.held("plain", current, key) == follower.database.query(
        f"select {current} from shop.plain order by id"
    )
    follower.run()
    assert follower.versions("plain", "id, code, amount, other") == versions


def test_large_values_of_which_the_lake_is_not_certain_leave_their_versions_out(follower, caplog):
    follower.database.execute(f"insert into shop.things values (1, 'a', '{LARGE}'), (2, 'a', 'n')")
    follower.run()
    follower.database.execute(
        "update shop.things set name = 'b'",
        "alter table shop.things alter note type text using note || '!', alter note set storage external",
        "update shop.things set name = 'c'",
        "update shop.things set name = 'd', note = 'm' where id = 1",
    )
    follower.run()
    # The log has no note of the first row's `b` and `c`, and the lake that of before only.
    found = [row[1:] for row in follower.versions("things", "id, name, length(note)") if row[0] == "upsert"]
    assert found == [(1, "a", 9000), (2, "a", 1), (2, "b", 1), (2, "c", 2), (1, "d", 1)]
    assert "2 versions before the comparison are left out" in caplog.text
    assert follower.held("things", "id, name, note") == things(follower)


def test_large_values_of_columns_that_did_not_change_are_the_versions_before(follower):
    follower.database.execute(f"insert into shop.things values (1, 'a', '{LARGE}')")
    follower.run()
    follower.database.execute(
        "update shop.things set name = 'b'",
        "alter table shop.things add more integer default 5",
        "update shop.things set name = 'c'",
    )
    follower.run()
    assert [row[1:] for row in follower.versions("things", "name, note, more")][:3] == [
        ("a", LARGE, None),
        ("b", LARGE, None),
        ("c", LARGE, 5),
    ]


def test_values_before_a_change_of_type_are_those_of_the_type_then(follower):
    follower.config["on_type_change"] = "text"
    follower.database.execute("create table shop.plain (id integer primary key, flags integer[], amount integer)")
    follower.run()
    follower.database.execute(
        "insert into shop.plain values (1, '{1,NULL}', 7)",
        "alter table shop.plain alter flags type text using flags::text, alter amount type text using 'x' || amount",
        "insert into shop.plain values (2, '{1,NULL}', 'y')",
    )
    follower.run()
    assert [row[1:] for row in follower.versions("plain", "id, flags, amount")][:2] == [
        (1, "[1,null]", "7"),
        (2, "{1,NULL}", "y"),
    ]
    assert follower.held("plain", "id, flags, amount") == [(1, "{1,NULL}", "x7"), (2, "{1,NULL}", "y")]


def test_a_delete_by_the_key_of_then_comes_with_the_comparison(follower, caplog):
    follower.database.execute(
        "create table shop.plain (id integer primary key, code integer)",
        "insert into shop.plain select n, n from generate_series(1, 6) as n",
    )
    follower.run()
    follower.database.execute(
        "insert into shop.plain values (7, null)",
        "update shop.plain set code = 11 where id = 1",
        "delete from shop.plain where id = 2",
        "update shop.plain set code = 7 where id = 7",
        "alter table shop.plain drop constraint plain_pkey, add primary key (code)",
        "update shop.plain set code = 13 where id = 3",
    )
    follower.run()
    assert "2 versions before the comparison are left out" in caplog.text
    assert follower.held("plain", "code, id", "code") == follower.database.query(
        "select code, id from shop.plain order by code"
    )
    found = follower.versions("plain", "code")
    assert found[6:10] == [("upsert", 11), ("upsert", 7), ("delete", 3), ("upsert", 13)]
    assert sorted(found[10:]) == [("delete", 1), ("delete", 2)]


def test_a_comparison_that_was_interrupted_loses_no_version_until_the_next(follower, monkeypatch):
    monkeypatch.setattr("ingestion.lake.comparison._FETCH_BYTES", 1)
    follower.database.execute("insert into shop.things select n, 'a' from generate_series(1, 9000) as n")
    follower.run()
    follower.database.execute(
        "update shop.things set name = 'b' where id = 1",
        "alter table shop.things add more integer default 5",
    )
    follower.config["batch_size_rows"] = 1000
    tap = follower.tap()
    stream = tap.streams["shop-things"]
    send, sent = stream.send, []

    def interrupted(batch):
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(batch)
        send(batch)

    monkeypatch.setattr(stream, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        follower.send(tap)
    assert [position["complete"] for position in follower.positions("things")][-2:] == [False, False]
    follower.database.execute(*(f"update shop.things set name = '{name}' where id = 2" for name in "xy"))
    follower.run()
    names = [row[2] for row in follower.versions("things", "id, name") if row[1] == 2]
    assert [name for name in names if name != "a"][:2] == ["x", "y"]
    current = "id, name, more"
    assert follower.held("things", current) == follower.database.query(f"select {current} from shop.things order by id")


def test_where_the_log_before_a_comparison_cannot_be_read_the_table_is_compared_alone(server_folder, warehouse, caplog):
    # PostgreSQL 18 passes over a publication that was not there when a change was written; all before it refuse.
    with PostgresServer.start(server_folder / "before_18", version=16, durable=False, temporary=True) as server:
        follower = Follower(create_database(server), warehouse)
        publication = "create publication warehouse for all tables"
        follower.database.execute("create schema shop", THINGS, publication)
        follower.run()
        follower.database.execute("drop publication warehouse", "insert into shop.things values (1, 'a')", publication)
        follower.run()
        follower.run()
        assert "the log before the comparison cannot be read" in caplog.text
        assert follower.held("things", "id, name") == [(1, "a")]


# Values that the log leaves out


def test_a_large_value_that_an_update_leaves_unchanged_is_the_version_before(follower):
    follower.database.execute(f"insert into shop.things values (1, 'a', '{LARGE}')")
    follower.run()
    follower.database.execute(
        "update shop.things set name = 'b'",
        f"insert into shop.things values (2, 'a', '{OTHER}')",
        "update shop.things set name = 'b' where id = 2",
    )
    follower.run()
    follower.database.execute("update shop.things set id = id + 10", "update shop.things set name = 'c' where id = 11")
    follower.run()
    upserts = [row[1:] for row in follower.versions("things", "id, name, note") if row[0] == "upsert"]
    assert upserts == [
        (1, "a", LARGE),
        (1, "b", LARGE),
        (2, "a", OTHER),
        (2, "b", OTHER),
        (11, "b", LARGE),
        (12, "b", OTHER),
        (11, "c", LARGE),
    ]


def test_keys_that_change_places_keep_their_large_values(follower):
    follower.database.execute(f"insert into shop.things values (1, 'a', '{LARGE}'), (2, 'b', '{OTHER}')")
    follower.run()
    follower.database.execute(
        "begin; update shop.things set id = 3 where id = 1; update shop.things set id = 1 where id = 2;"
        " update shop.things set id = 2 where id = 3; commit",
        "update shop.things set name = name || '!'",
    )
    follower.run()
    assert follower.held("things", "id, name, note") == things(follower) == [(1, "b!", OTHER), (2, "a!", LARGE)]


def test_a_large_value_is_found_among_rows_that_are_read_but_not_yet_in_the_lake(follower, monkeypatch):
    monkeypatch.setattr(postgres_changes, "_CHUNK_ROWS", 13)
    monkeypatch.setattr(postgres_changes, "_SMALL_ROWS", 7)
    monkeypatch.setattr(postgres_changes, "_OPEN_BYTES", 40_000)
    follower.run()
    follower.database.execute(
        "begin; insert into shop.things select n, 'a', repeat(chr(64 + n % 26), 3000) from generate_series(1, 60) as n;"
        " update shop.things set name = 'b'; update shop.things set id = id + 100 where id % 2 = 0; commit"
    )
    assert follower.run().batches == ["shop-things"]
    assert follower.held("things", "id, name, note") == things(follower)


def test_a_large_value_that_the_lake_does_not_have_is_read_from_the_table(follower):
    follower.database.execute(f"insert into shop.things values (1, 'a', '{LARGE}')")
    follower.run(follower.tap([("shop-things", "note")]))
    follower.database.execute("update shop.things set name = 'b'")
    follower.run()
    assert follower.held("things", "id, name, note") == [(1, "b", LARGE)]


def test_a_large_value_that_nobody_has_any_more_puts_its_version_into_quarantine(follower):
    follower.database.execute(
        "alter table shop.things add seen timestamp",
        f"insert into shop.things values (1, 'a', '{LARGE}', 'infinity'), (2, 'a', 'n', null)",
    )
    follower.run()
    follower.database.execute("update shop.things set seen = null", "delete from shop.things where id = 1")
    follower.run()
    assert follower.held("things", "id, name, note") == [(2, "a", "n")]
    ((reason, column),) = follower.home.query(
        "select reason, column_name from ops.quarantine where column_name <> 'seen'"
    )
    assert (column, "no longer in the table" in reason) == ("note", True)


def test_after_a_version_in_quarantine_large_values_are_read_from_the_table(follower):
    follower.database.execute(
        "alter table shop.things add seen timestamp",
        f"insert into shop.things values (1, 'a', '{LARGE}', '2026-01-01')",
    )
    follower.run()
    # Raw's type holds no infinity: this version, with the new note, is not in the lake.
    follower.database.execute(f"update shop.things set note = '{OTHER}', seen = 'infinity'")
    follower.run()
    follower.database.execute("update shop.things set seen = '2026-01-02'")
    follower.run()
    assert follower.held("things", "id, note, seen::text") == [(1, OTHER, "2026-01-02 00:00:00")]


# Truncate, large transactions, columns


def test_truncate_deletes_every_held_key(follower):
    follower.database.execute("insert into shop.things values (1, 'a'), (2, 'b')")
    follower.run()
    follower.database.execute(
        "insert into shop.things values (3, 'c')",
        "delete from shop.things where id = 1",
        "begin; truncate shop.things; insert into shop.things values (4, 'd'); truncate shop.things;"
        " insert into shop.things values (5, 'e'); commit",
    )
    follower.run()
    found = follower.versions("things", "id")[2:]
    assert sorted(found[2:4]) == [("delete", 2), ("delete", 3)]
    assert found[:2] + found[4:] == [("upsert", 3), ("delete", 1), ("upsert", 4), ("delete", 4), ("upsert", 5)]


def test_a_batch_ends_between_transactions(follower):
    follower.run()
    follower.config["batch_size_rows"] = 10
    for number in range(3):
        follower.database.execute(
            f"insert into shop.things select n, 'a' from generate_series({number * 100}, {number * 100 + 24}) as n"
        )
    follower.run()
    sizes = follower.home.query("select count(*) from raw_shop.things group by _sdc_load_id")
    assert sizes == [(25,)] * 3


def test_a_column_that_is_dropped_or_added_meanwhile_has_its_values_where_it_was(follower):
    follower.run()
    follower.database.execute(
        "insert into shop.things values (1, 'a', 'b')",
        "alter table shop.things drop note",
        "insert into shop.things values (2, 'c')",
        "alter table shop.things add price numeric(10, 2)",
        "insert into shop.things values (3, 'd', 1.50)",
    )
    follower.run()
    assert follower.held("things", "id, name, note, price::text") == [
        (1, "a", "b", None),
        (2, "c", None, None),
        (3, "d", None, "1.50"),
    ]


def test_a_column_that_gave_its_name_to_a_new_one_is_null(follower):
    follower.database.execute("insert into shop.things values (1, 'a')")
    follower.run()
    follower.database.execute("alter table shop.things drop name", "alter table shop.things add name text")
    follower.run()
    assert follower.held("things", "id, name") == [(1, None)]


def test_a_column_that_is_added_while_the_tap_runs_is_taken_up(follower):
    follower.run()
    tap = follower.tap()
    assert tap.streams["shop-things"].table.columns
    follower.database.execute(
        "begin; insert into shop.things values (1, 'a'); alter table shop.things add price numeric(10, 2);"
        " insert into shop.things values (2, 'b', 'n', 1.50); commit"
    )
    follower.run(tap)
    assert follower.held("things", "id, name, price::text") == [(1, "a", None), (2, "b", "1.50")]
    assert len(follower.versions("things", "id")) == 2


def test_a_column_that_is_not_selected_stays_away(follower):
    tap = follower.tap([("shop-things", "note")])
    follower.run(tap)
    follower.database.execute("insert into shop.things values (1, 'a', 'secret')")
    follower.run(follower.tap([("shop-things", "note")]))
    assert "note" not in [row[0] for row in follower.home.query("describe raw_shop.things")]


def test_a_partitioned_table_is_followed_through_its_root(follower):
    follower.database.execute(
        "create table shop.parts (id integer primary key, name text) partition by range (id)",
        "create table shop.parts_1 partition of shop.parts for values from (0) to (100)",
        "create table shop.parts_2 partition of shop.parts for values from (100) to (200)",
    )
    assert "publish_via_partition_root" in follower.send().faults[0]
    follower.database.execute(
        "alter publication warehouse set (publish_via_partition_root = true)", "insert into shop.parts values (1, 'a')"
    )
    follower.run()
    follower.database.execute("update shop.parts set id = 150", "insert into shop.parts values (2, 'b')")
    follower.run()
    assert follower.held("parts", "id, name") == [(2, "b"), (150, "a")]


# Everything at once


def test_raw_has_each_version_once_and_in_order_after_runs_under_concurrent_writers(follower):
    """Each row counts its own versions, so raw says by itself whether one is missing, twice or out of order."""
    tables = ("things", "others")
    follower.database.execute(
        "alter table shop.things add version integer",
        "create table shop.others (id integer primary key, name text, note text, version integer)",
        "create sequence shop.versions",
        "create table public.log (number bigserial, source text, id integer, operation text, version integer)",
        """create function public.note() returns trigger language plpgsql as $$ begin
            if tg_op <> 'INSERT' and (tg_op = 'DELETE' or old.id <> new.id) then
                insert into public.log (source, id, operation) values (tg_table_name, old.id, 'delete');
            end if;
            if tg_op <> 'DELETE' then
                insert into public.log (source, id, operation, version)
                values (tg_table_name, new.id, 'upsert', new.version);
            end if;
            return null; end $$""",
        *(f"create trigger note after insert or update or delete on shop.{table} for each row"
          " execute function public.note()" for table in tables),
    )  # fmt: skip
    stop, failures = threading.Event(), []

    def write(seed: int) -> None:
        chance = random.Random(seed)
        connection = follower.database.connect()
        try:
            while not stop.is_set():
                with connection, connection.cursor() as cursor:
                    for _ in range(chance.choice((1, 1, 2, 5))):
                        table, row, other = chance.choice(tables), chance.randrange(40), chance.randrange(40)
                        statement = chance.choice(
                            (
                                "insert into shop.{0} values ({1}, 'new', repeat('z', {3}), nextval('shop.versions'))"
                                " on conflict (id) do update set version = excluded.version, name = 'again'",
                                "update shop.{0} set name = '{2}', version = nextval('shop.versions') where id = {1}",
                                "update shop.{0} set note = repeat('{2}', {3}), version = nextval('shop.versions')"
                                " where id = {1}",
                                "update shop.{0} set id = {2}, version = nextval('shop.versions') where id = {1}"
                                " and {1} <> {2}",
                                "delete from shop.{0} where id = {1}",
                            )
                        )
                        cursor.execute(statement.format(table, row, other, chance.choice((10, 9000))))
                    if chance.random() < 0.1:
                        connection.rollback()
                time.sleep(chance.random() * 0.01)
        except (psycopg2.errors.UniqueViolation, psycopg2.errors.DeadlockDetected):
            connection.close()
            write(chance.randrange(1_000_000))
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2, 3)]
    for writer in writers:
        writer.start()
    for _ in range(4):
        follower.run()
    stop.set()
    for writer in writers:
        writer.join()
    follower.run()
    assert failures == []
    count = 0
    for table in tables:
        names = "id, name, note, version"
        current = follower.database.query(f"select {names} from shop.{table} order by id")
        assert follower.held(table, names) == current
        snapshot = follower.home.query(f"select min(_sdc_load_id) from raw_shop.{table}")[0][0]
        held = dict(follower.home.query(f"select id, version from raw_shop.{table} where _sdc_load_id = {snapshot}"))
        found: dict[int, list[tuple[str, int | None]]] = {}
        for operation, row, version in follower.home.query(
            "select _sdc_operation, id, case when _sdc_operation = 'upsert' then version end"
            f" from raw_shop.{table} where _sdc_load_id > {snapshot}"
            " order by _sdc_load_id, _sdc_sequence, _sdc_operation"
        ):
            found.setdefault(row, []).append((operation, version))
        log: dict[int, list[tuple[str, int | None]]] = {}
        for row, operation, version in follower.database.query(
            f"select id, operation, version from public.log where source = '{table}' order by number"
        ):
            log.setdefault(row, []).append((operation, version))
        for row, versions in log.items():
            after, seen = versions, found.get(row, [])
            # What the snapshot has is the log up to some version; the rest is what must have come after it.
            assert seen == after[len(after) - len(seen) :]
            before = after[: len(after) - len(seen)]
            # Rows from before the triggers have no version.
            assert (before[-1][1] if before else None) == held.get(row)
            count += len(seen)
    assert count > 50


# What cannot be


def fault(follower: Follower) -> str:
    (line,) = follower.send().faults
    assert "\n" not in line
    return line


def test_a_publication_that_is_missing_or_leaves_out_changes_is_refused(follower):
    follower.config["publication_name"] = "missing"
    assert "there is no publication missing" in fault(follower)
    follower.database.execute("create publication partly for all tables with (publish = 'insert')")
    follower.config["publication_name"] = "partly"
    assert "leaves out update, delete, truncate" in fault(follower)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("create publication other for table shop.others", "is not in the publication other"),
        ("create publication other for table shop.things where (id > 1)", "only published in part"),
        ("create publication other for table shop.things (id, name)", "only published in part"),
        ("alter table shop.things replica identity nothing", "replica identity without its key"),
        ("alter table shop.things drop constraint things_pkey", "has no key"),
        ("create table shop.child (more text) inherits (shop.things)", "child tables by inheritance"),
        ("alter table shop.things set unlogged", "is unlogged"),
    ],
)
def test_a_table_whose_log_is_not_whole_is_refused_and_the_others_go_on(follower, statement, said):
    follower.database.execute(
        "create table shop.others (id integer primary key)", "create publication base for table shop.others", statement
    )
    if "publication other" in statement and "others" not in statement:
        follower.database.execute("alter publication other add table shop.others")
    if "publication other" in statement:
        follower.config["publication_name"] = "other"
    lines = follower.send().faults
    assert [said in line for line in lines if "shop.things" in line] == [True]
    assert all("shop.others" not in line for line in lines)


def test_a_slot_that_was_dropped_is_a_fault_and_without_state_a_new_beginning(follower):
    follower.database.execute("insert into shop.things values (1, 'a'), (2, 'b')")
    follower.run()
    follower.database.execute(
        f"select pg_drop_replication_slot('{follower.slot}')", "delete from shop.things where id = 1"
    )
    line = fault(follower)
    assert "was dropped" in line and "TAP_POSTGRES_COMPARE_ALL" in line
    follower.state = None
    follower.run()
    follower.database.execute("insert into shop.things values (3, 'c')")
    follower.run()
    assert follower.held("things", "id, name") == [(2, "b"), (3, "c")]
    assert len(follower.versions("things", "id")) == 4


def test_a_slot_that_another_read_is_a_fault(follower):
    follower.run()
    follower.database.execute(
        "insert into shop.things values (1)",
        f"select pg_replication_slot_advance('{follower.slot}', pg_current_wal_lsn())",
    )
    assert "was read by another" in fault(follower)


def test_a_slot_of_another_kind_is_a_fault(follower):
    follower.database.execute(f"select pg_create_physical_replication_slot('{follower.slot}')")
    assert "is a physical one" in fault(follower)


def test_a_slot_that_somebody_reads_is_a_fault(follower, monkeypatch):
    monkeypatch.setattr("ingestion.taps.postgres_log.ACTIVE_SECONDS", 0.3)
    follower.run()
    log = postgres_replication.Log({"dsn": follower.database.dsn})

    def read() -> None:
        with contextlib.suppress(psycopg2.Error):
            list(log.changes(follower.slot, "warehouse", 0, 1 << 62))

    reader = threading.Thread(target=read)
    reader.start()
    while not follower.database.query(f"select active from pg_replication_slots where slot_name = '{follower.slot}'")[
        0
    ][0]:
        time.sleep(0.01)
    assert "another process reads it" in fault(follower)
    follower.database.execute(
        f"select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{follower.slot}'"
    )
    reader.join()


def test_another_server_is_a_fault(follower):
    follower.run()
    follower.state["bookmarks"]["shop-things"]["system"] = "1"
    assert "the server is another one" in fault(follower)


def test_a_role_that_may_only_log_in_replicate_and_select_suffices(follower):
    follower.database.execute(
        "drop role if exists reader",
        "create role reader login replication password 'secret'",
        "alter role reader replication",
        "grant usage on schema shop to reader",
        "grant select on all tables in schema shop to reader",
    )
    server = follower.database.server
    follower.config["sqlalchemy_url"] = (
        f"postgresql://reader:secret@{server.host}:{server.port}/{follower.database.name}"
    )
    follower.database.execute("insert into shop.things values (1, 'a')")
    follower.run()
    follower.database.execute("update shop.things set name = 'b'")
    follower.run()
    follower.run()
    assert follower.held("things", "id, name") == [(1, "b")]
    follower.database.execute("alter role reader noreplication")
    assert "alter role reader replication" in fault(follower)
    follower.database.execute("drop owned by reader", "drop role reader")


def test_conditions_of_the_settings_are_refused(follower):
    follower.config["stream_options"] = {"shop-things": {"custom_where_clauses": ["id > 1"]}}
    assert "custom_where_clauses do not reach the log" in fault(follower)


def test_a_stream_whose_log_cannot_be_read_fails_alone_until_all_is_compared(follower):
    follower.database.execute("create table shop.other (id integer primary key)")
    follower.run()
    follower.database.execute(
        "alter table shop.things replica identity nothing",
        "insert into shop.things values (1, 'a')",
        "alter table shop.things replica identity default",
        "insert into shop.other values (1)",
    )
    sent = follower.send()
    assert len(sent.faults) == 1 and "TAP_POSTGRES_COMPARE_ALL" in sent.faults[0]
    follower.load(sent)
    assert follower.held("other", "id") == [(1,)]
    compare_all(follower)
    assert follower.held("things", "id, name") == [(1, "a")]


@pytest.mark.parametrize("lost", ["nothing", "slot", "log", "position"])
def test_compare_all_mends_what_state_slot_and_lake_do_not_know(follower, lost):
    follower.database.execute("insert into shop.things values (1, 'a'), (2, 'b')")
    follower.run()
    drop = f"select pg_drop_replication_slot('{follower.slot}')"
    advance = f"select pg_replication_slot_advance('{follower.slot}', pg_current_wal_lsn())"
    follower.database.execute(
        # A change that no log carries.
        "alter publication warehouse set (publish = 'insert')",
        "update shop.things set name = 'c' where id = 1",
        "alter publication warehouse set (publish = 'insert, update, delete, truncate')",
        {"slot": drop, "log": advance}.get(lost, "select 1"),
    )
    if lost == "position":
        follower.state["bookmarks"]["shop-things"]["lsn"] = None
    compare_all(follower)
    assert follower.held("things", "id, name") == [(1, "c"), (2, "b")]
    assert len(follower.versions("things", "id")) == 3


def compare_all(follower: Follower) -> None:
    """One run that compares all, after which runs go on as before."""
    follower.config["compare_all"] = True
    follower.run()
    follower.config["compare_all"] = False
    follower.run()
