"""A database brings no erased person back: by none of the methods, on neither wire."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2 import sql

from ingestion import erased, settings
from ingestion.erased import Persons
from ingestion.lake import Lake, Stream, connect
from ingestion.lake.checking import check_stream
from ingestion.lake.erasure import redact
from ingestion.target.rebuild import rebuild
from orchestration.erasure.postgres_warehouse import _normalised
from tests.integration.log_based_runs import Follower
from tests.integration.postgres_runs import Source
from tests.postgres import Database

USERS = Stream("shop", "users")
PERSONS = Persons("user_id", ("name", "email", "bio"), is_integer=True)
TABLE = (
    "create schema shop",
    "create table shop.users (user_id integer primary key, name text not null, email text, bio text, country text,"
    " born date, updated_at timestamptz not null default now())",
    # Stored outside the row, so that the log leaves it out where an update does not touch it.
    "alter table shop.users alter bio set storage external",
    "create publication warehouse for tables in schema shop",
    "insert into shop.users select i, 'Name ' || i, 'n' || i || '@shop.example', repeat('b' || i, 3000), 'DE', null"
    " from generate_series(1, 20) as i",
)
VALUES = ("Name 17", "n17@shop.example", "b17b17", "New Name", "new@shop.example", "Odd Name")


def erase(lake: Lake, *numbers: int) -> None:
    """Erase persons from the lake, as the command does: the list first."""
    home = settings.load()
    home.home.mkdir(exist_ok=True)
    whom = replace(erased.begin(home), streams={USERS.id: PERSONS}).with_persons(map(str, numbers))
    with connect(lake.root / "_spill") as con:
        whom = whom.with_values(f"Name {number}" for number in numbers)
        whom.save(home)
        redact(lake, con, USERS, whom)
    if lake.manifest(USERS):
        rebuild(home, memory_limit="256MB", threads=2, report=lambda _: None)


def texts(lake: Lake) -> str:
    """Everything that the stream's rows and quarantined records say."""
    parts = []
    with connect(lake.root / "_spill") as con:
        assert list(check_stream(lake, con, USERS, None)) == []
        for path in sorted((lake.root / USERS.folder).glob("*.parquet")):
            parts.append(json.dumps(con.execute(f"from '{path}'").fetchall(), default=str))
    return "\n".join(parts)


def rows(source: Source | Follower, lake: Lake, beyond: int) -> list[tuple[Any, ...]]:
    """What loads after that one brought."""
    files = [str(batch.file) for batch in lake.manifest(USERS) if batch.load_id > beyond and batch.rows_loaded]
    if not files:
        return []
    with connect(lake.root / "_spill") as con:
        return con.execute(
            "select user_id, name, email, left(bio, 3), country, _sdc_operation from read_parquet($files)"
            " order by _sdc_load_id, _sdc_sequence, user_id",
            {"files": files},
        ).fetchall()


def last(lake: Lake) -> int:
    return lake.manifest(USERS)[-1].load_id


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL"])
def test_extracts_compare_without_what_is_erased(postgres, warehouse, method):
    postgres.execute(*TABLE)
    shop = Source(postgres, warehouse)

    def run() -> None:
        key = {"replication_key": "updated_at"} if method == "INCREMENTAL" else {}
        shop.run(shop.catalog(**key), filter_schemas=["shop"])

    run()
    erase(warehouse.lake, 17, 3)
    loaded = last(warehouse.lake)
    run()
    assert rows(shop, warehouse.lake, loaded) == []
    postgres.execute(
        "update shop.users set name = 'New Name', email = 'new@shop.example' where user_id = 17",
        "update shop.users set country = 'FR', updated_at = now() where user_id in (3, 4)",
        "update shop.users set name = 'New Name' where user_id = 3",
        # Of a date that the lake cannot hold: this row waits in quarantine.
        "insert into shop.users values (21, 'Name 21', 'x', 'y', 'DE', 'infinity')",
    )
    run()
    assert sorted(rows(shop, warehouse.lake, loaded)) == [
        (3, None, None, None, "FR", "upsert"),
        (4, "Name 4", "n4@shop.example", "b4b", "FR", "upsert"),
    ]
    loaded = last(warehouse.lake)
    run()
    assert rows(shop, warehouse.lake, loaded) == []
    found = texts(warehouse.lake)
    assert "Name 4" in found
    assert not [value for value in VALUES if value in found]


def test_an_unfit_row_of_an_erased_person_waits_without_what_is_personal(postgres, warehouse):
    postgres.execute(*TABLE)
    shop = Source(postgres, warehouse)
    shop.run(filter_schemas=["shop"])
    erase(warehouse.lake, 17)
    postgres.execute("update shop.users set name = 'Odd Name', born = 'infinity' where user_id = 17")
    loaded = last(warehouse.lake)
    shop.run(filter_schemas=["shop"])
    ((payload,),) = warehouse.query("select payload from ops.quarantine")
    assert {name: json.loads(payload)[name] for name in ("user_id", "name", "bio", "born")} == {
        "user_id": 17,
        "name": None,
        "bio": None,
        "born": "infinity",
    }
    assert rows(shop, warehouse.lake, loaded) == []
    assert not [value for value in VALUES if value in texts(warehouse.lake)]


def test_the_log_brings_changes_without_what_is_personal(postgres, warehouse):
    postgres.execute(*TABLE)
    follower = Follower(postgres, warehouse)
    follower.run()
    erase(warehouse.lake, 17, 3)
    loaded = last(warehouse.lake)
    follower.run()
    assert rows(follower, warehouse.lake, loaded) == []
    postgres.execute(
        # The log leaves the large value out, and the lake has it no more.
        "update shop.users set name = 'New Name', email = 'new@shop.example' where user_id = 17",
        "update shop.users set country = 'FR' where user_id in (3, 4)",
        "update shop.users set bio = 'new@shop.example' where user_id = 3",
        "delete from shop.users where user_id = 17",
    )
    follower.run()
    assert rows(follower, warehouse.lake, loaded) == [
        (17, None, None, None, "DE", "upsert"),
        (3, None, None, None, "FR", "upsert"),
        (4, "Name 4", "n4@shop.example", "b4b", "FR", "upsert"),
        (3, None, None, None, "FR", "upsert"),
        (17, None, None, None, None, "delete"),
    ]
    assert warehouse.query("select payload from ops.quarantine") == []
    postgres.execute("alter table shop.users replica identity full", "delete from shop.users where user_id in (3, 5)")
    follower.run()
    assert rows(follower, warehouse.lake, loaded)[5:] == [
        (3, None, None, None, "FR", "delete"),
        (5, "Name 5", "n5@shop.example", "b5b", "DE", "delete"),
    ]
    assert not [value for value in VALUES if value in texts(warehouse.lake)]


@pytest.mark.parametrize("method", ["FULL_TABLE", "LOG_BASED"])
def test_who_was_erased_since_the_tap_began_does_not_come_back(postgres, warehouse, method):
    postgres.execute(*TABLE)
    follower = Follower(postgres, warehouse, default_replication_method=method)
    tap = follower.tap()
    assert tap.erased is None
    erase(warehouse.lake, 17)
    assert follower.send(tap).faults == []
    found = texts(warehouse.lake)
    assert "Name 4" in found
    assert not [value for value in VALUES if value in found]


def test_records_come_without_what_is_personal(postgres, warehouse):
    postgres.execute(*TABLE)
    shop = Source(postgres, warehouse)
    erase(warehouse.lake, 17)
    run = shop.extract(wire="records", filter_schemas=["shop"])
    names = {message["record"]["user_id"]: message["record"]["name"] for message in run.of_type("RECORD")}
    assert names == {number: None if number == 17 else f"Name {number}" for number in range(1, 21)}
    # Whoever checks them finds that the column may be null, whatever the table says.
    (schema,) = run.of_type("SCHEMA")
    assert schema["schema"]["properties"]["name"]["type"] == ["string", "null"]


@given(st.lists(st.text(st.sampled_from("+-0127. \t\v\u00a0"), max_size=7), min_size=50, max_size=50))
@hypothesis.settings(
    max_examples=5, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_the_server_and_python_read_the_same_numbers(postgres: Database, texts: list[str]) -> None:
    persons = Persons("v", (), is_integer=True)
    with closing(postgres.connect()) as connection, connection.cursor() as cursor:
        query = sql.SQL("select {} from unnest(%s::text[]) with ordinality as t(v, n) order by n")
        cursor.execute(query.format(_normalised(sql.Identifier("v"), persons)), (texts,))
        assert [row[0] for row in cursor.fetchall()] == [persons.normalised(text) for text in texts]
