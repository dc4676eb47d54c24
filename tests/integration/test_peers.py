"""Other projects' Singer software, unmodified: MeltanoLabs' tap into our target, and our tap into their target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.environment import peers
from tests.integration.conftest import TargetHome
from tests.postgres import Database

OUR_TAP = Path(sys.executable).with_name("tap-postgres")

THINGS = """
    create type mood as enum ('fine', 'bad');
    create table things (
        id bigint primary key, small smallint, whole integer, price numeric(12, 2), exact numeric(38, 10), free numeric,
        title text, code varchar(20), is_on boolean, day date, moment timestamptz, clock time, token uuid,
        document jsonb, content bytea, numbers integer[], words text[], feeling mood, updated_at timestamptz not null
    );
    insert into things values
    (1, 1, 2, 10.10, 1234567890123456789012345678.0123456789, 0.1, E'é"''\\n\\t\\\\', 'x', true, '2024-02-29',
     '2024-02-29 01:02:03.123456+02', '01:02:03.5', '00000000-0000-0000-0000-000000000001',
     '{"b": 1.10, "a": [1, null, "x"]}', '\\x00ff', '{1,3}', '{a,"b c"}', 'fine', '2024-01-01'),
    (2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
     '2024-01-02'),
    (-9223372036854775808, -32768, -2147483648, -9999999999.99, -0.0000000001,
     123456789012345678901234567890.123456789, '', '', false, '0001-01-01', '1970-01-01 00:00+00', '00:00',
     'ffffffff-ffff-ffff-ffff-ffffffffffff', '[]', '', '{}', '{}', 'bad', '2024-01-03');
"""
COLUMNS = [
    *("id", "small", "whole", "price", "exact", "free", "title", "code", "is_on", "day", "moment", "clock", "token"),
    *("document", "content", "numbers", "words", "feeling", "updated_at"),
]
#: Arrays and JSON are compared as what they say, not as how it is written.
AS_JSON = {"document", "numbers", "words"}
#: The columns in the form in which they are compared, in the source and in the table that their target makes of it.
SOURCE = """
    select id, small, whole, price, exact, free, title, code, is_on, day, moment, clock::text, token::text,
        document::text, encode(content, 'hex'), to_json(numbers)::text, to_json(words)::text, feeling::text, updated_at
    from things order by id
"""
COPIED = """
    select id, small, whole, price, exact, free, title, code, is_on, day, moment at time zone 'UTC', clock, token,
        document, content, numbers::text, words::text, feeling, updated_at at time zone 'UTC'
    from copied.things order by id
"""


@pytest.fixture(scope="session")
def theirs() -> Path:
    """The folder with the other projects' programs."""
    return peers()


@pytest.fixture
def things(postgres: Database) -> Database:
    """A database with a table of many types."""
    postgres.execute(THINGS)
    return postgres


def run(command: Sequence[str | Path], text: str = "", **environment: str) -> list[str]:
    """The lines that a program writes; it must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=text, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode == 0, f"{words[0]} failed:\n{done.stderr[-3000:]}"
    return done.stdout.splitlines()


class Tap:
    """A tap on the one table, run as Meltano does: discovered, selected, and with the state that the target gave."""

    def __init__(self, program: Path, database: Database, folder: Path, method: str, **config: Any) -> None:
        settings = {"sqlalchemy_url": database.dsn, "filter_schemas": ["public"], **config}
        self.folder = folder
        self.write("config", settings)
        self.command = [program, "--config", folder / "config.json"]
        catalog = json.loads("\n".join(run([*self.command, "--discover"])))
        (entry,) = (entry for entry in catalog["streams"] if entry["tap_stream_id"] == "public-things")
        (root,) = (item["metadata"] for item in entry["metadata"] if not item["breadcrumb"])
        root |= {"selected": True, "replication-method": method}
        if method == "INCREMENTAL":
            root["replication-key"] = "updated_at"
        self.write("catalog", {"streams": [entry]})
        self.command += ["--catalog", folder / "catalog.json"]

    def write(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(content))

    def messages(self, state: dict[str, Any] | None) -> str:
        """What it writes."""
        if state is not None:
            self.write("state", state)
        return "\n".join(run([*self.command, *(["--state", self.folder / "state.json"] if state else [])])) + "\n"


def values(rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows by column, each value in the one form in which it is compared."""
    found = []
    for row in rows:
        named = dict(zip(COLUMNS, row, strict=True))
        for name in AS_JSON:
            named[name] = named[name] and json.loads(named[name], parse_float=Decimal)
        named["free"] = named["free"] and Decimal(named["free"])
        named["clock"] = named["clock"] and named["clock"].rstrip("0").rstrip(".") if named["clock"] else None
        found.append(named)
    return found


def source(database: Database) -> list[dict[str, Any]]:
    return values(database.query(SOURCE))


def current(warehouse: TargetHome) -> list[dict[str, Any]]:
    """The last version of each key in raw."""
    names = ", ".join(COLUMNS)
    return values(
        warehouse.query(
            f"select {names} from raw_public.things qualify"
            " row_number() over (partition by id order by _sdc_load_id desc, _sdc_sequence desc) = 1 order by id"
        )
    )


def versions(warehouse: TargetHome) -> int:
    return warehouse.query("select count(*) from raw_public.things")[0][0]


CHANGES = (
    "update things set price = 10.11, updated_at = '2024-01-04' where id = 1",
    "insert into things (id, updated_at) values (3, '2024-01-05')",
)


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL"])
def test_their_tap_fills_raw_with_the_table(theirs, things, warehouse, tmp_path, method):
    tap = Tap(theirs / "tap-postgres", things, tmp_path, method)
    state = warehouse.load_lines(tap.messages(None))[-1]
    assert current(warehouse) == source(things)
    assert versions(warehouse) == 3
    things.execute(*CHANGES)
    warehouse.load_lines(tap.messages(state))
    assert current(warehouse) == source(things)
    assert versions(warehouse) == 5, "only what is new or changed is a version"
    assert warehouse.query("select count(*) from ops.quarantine") == [(0,)]
    warehouse.check_identities()
    types = dict(
        warehouse.query(
            "select column_name, data_type from duckdb_columns()"
            " where schema_name = 'raw_public' and table_name = 'things'"
        )
    )
    exact = {"id": "BIGINT", "small": "BIGINT", "price": "DECIMAL(38,10)", "exact": "DECIMAL(38,10)"}
    others = {"is_on": "BOOLEAN", "day": "DATE", "moment": "TIMESTAMP WITH TIME ZONE", "title": "VARCHAR"}
    assert {name: types[name] for name in exact | others} == exact | others


def test_what_breaks_their_own_schema_waits_in_quarantine(theirs, things, warehouse, tmp_path):
    # Their schema says that an array has no nulls; PostgreSQL's may have.
    things.execute("update things set numbers = '{1,null}' where id = 1")
    warehouse.load_lines(Tap(theirs / "tap-postgres", things, tmp_path, "FULL_TABLE").messages(None))
    ((column, payload),) = warehouse.query("select column_name, payload from ops.quarantine")
    assert column == "numbers"
    assert json.loads(payload)["numbers"] == [1, None]
    assert [row["id"] for row in current(warehouse)] == [-9223372036854775808, 2]


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL"])
def test_our_tap_fills_the_table_of_their_target(theirs, things, tmp_path, method):
    tap = Tap(OUR_TAP, things, tmp_path, method, wire="records")
    url = things.dsn.replace("postgresql:", "postgresql+psycopg2:")
    target = {"sqlalchemy_url": url, "default_target_schema": "copied"}
    (tmp_path / "target.json").write_text(json.dumps(target))
    state, sent = None, []
    for changes in ((), CHANGES) if method == "FULL_TABLE" else ((), CHANGES, ()):
        things.execute(*changes)
        messages = tap.messages(state)
        sent.append(messages.count('"type":"RECORD"'))
        state = json.loads(run([theirs / "target-postgres", "--config", tmp_path / "target.json"], messages)[-1])
        assert values(things.query(COPIED)) == source(things)
    # The row of the bookmark comes again, as with every Singer tap: another of the same moment may have come since.
    assert sent == {"FULL_TABLE": [3, 4], "INCREMENTAL": [3, 3, 1]}[method]
