"""A PostgreSQL database that changes all the time, and what raw must hold of it.

Every version of a row has a number of its own (`n`), so that none is like another. Triggers keep the history of the
tables that are read from the log: each committed version in the order of its key.
"""

from __future__ import annotations

import json
import random
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.integration.conftest import TargetHome
from tests.postgres import Database

Ask = Callable[[str], list[tuple[Any, ...]]]
"""Runs SQL in the warehouse and returns its rows."""

METHODS = {
    "full_rows": "FULL_TABLE",
    "full_plain": "FULL_TABLE",
    "inc_rows": "INCREMENTAL",
    "log_rows": "LOG_BASED",
    "log_pairs": "LOG_BASED",
}
KEYS = {"full_rows": ["id"], "inc_rows": ["id"], "log_rows": ["id"], "log_pairs": ["a", "b"]}
CONTENT = {
    "full_rows": "id, n, word",
    "full_plain": "n, word",
    "inc_rows": "id, n, word",
    "log_rows": "id, n, word",
    "log_pairs": "a, b, n",
}

_TABLES = """
create schema shop;
create schema history;
create sequence history.n;
create table shop.full_rows (id int primary key, n bigint default nextval('history.n'), word text);
create table shop.full_plain (n int, word text);
create table shop.inc_rows (
    id int primary key, n bigint default nextval('history.n'), word text,
    changed_at timestamptz default clock_timestamp()
);
create table shop.log_rows (id int primary key, n bigint default nextval('history.n'), word text);
create table shop.log_pairs (a int, b int, n bigint default nextval('history.n'), primary key (a, b));
create table history.versions (
    place bigint generated always as identity, stream text, operation text, key text, n bigint,
    xid bigint default (pg_current_xact_id()::text::numeric % 4294967296)
);
create function history.note() returns trigger language plpgsql as $$
declare
    old_key text; new_key text;
begin
    if tg_op <> 'INSERT' then
        old_key := case when tg_table_name = 'log_rows' then to_jsonb(old) ->> 'id'
            else (to_jsonb(old) ->> 'a') || ',' || (to_jsonb(old) ->> 'b') end;
    end if;
    if tg_op <> 'DELETE' then
        new_key := case when tg_table_name = 'log_rows' then to_jsonb(new) ->> 'id'
            else (to_jsonb(new) ->> 'a') || ',' || (to_jsonb(new) ->> 'b') end;
    end if;
    if tg_op = 'DELETE' or old_key <> new_key then
        insert into history.versions (stream, operation, key) values (tg_table_name, 'delete', old_key);
    end if;
    if tg_op <> 'DELETE' then
        insert into history.versions (stream, operation, key, n) values (tg_table_name, 'upsert', new_key, new.n);
    end if;
    return null;
end $$;
create function history.note_truncate() returns trigger language plpgsql as $$
begin
    insert into history.versions (stream, operation, key)
    select 'log_pairs', 'delete', a || ',' || b from shop.log_pairs;
    return null;
end $$;
create trigger note after insert or update or delete on shop.log_rows for each row execute function history.note();
create trigger note after insert or update or delete on shop.log_pairs for each row execute function history.note();
create trigger note_truncate before truncate on shop.log_pairs for each statement
    execute function history.note_truncate();
create publication kills for table shop.log_rows, shop.log_pairs;
"""


class PostgresSource:
    """The database and its changes; `slot` is the replication slot that the tap shall make."""

    def __init__(self, database: Database, chance: random.Random, rows: int) -> None:
        self.database = database
        self.chance = chance
        self.rows = rows
        self.slot = f"kills_{database.name}"
        self._witness = f"witness_{database.name}"
        database.execute(_TABLES)
        database.execute(
            f"insert into shop.full_rows (id, word) select i, repeat('x', i % 50) from generate_series(1, {rows}) i",
            f"insert into shop.full_plain select i % {rows // 3}, 'w' || i % 3 from generate_series(1, {rows}) i",
            f"insert into shop.inc_rows (id, word) select i, 'first' from generate_series(1, {rows}) i",
            f"insert into shop.log_rows (id, word) select i, 'first' from generate_series(1, {rows}) i",
            f"insert into shop.log_pairs (a, b) select i, i % 3 from generate_series(1, {rows}) i",
            f"select pg_create_logical_replication_slot('{self._witness}', 'pgoutput')",
        )

    def environment(self) -> dict[str, str]:
        """The tap's settings."""
        return {
            "TAP_POSTGRES_SQLALCHEMY_URL": self.database.dsn,
            "TAP_POSTGRES_FILTER_SCHEMAS": '["shop"]',
            "TAP_POSTGRES_REPLICATION_SLOT_NAME": self.slot,
            "TAP_POSTGRES_PUBLICATION_NAME": "kills",
            "TAP_POSTGRES_LOOK_BACK_SECONDS": "5",
            "TAP_POSTGRES_BATCH_SIZE_ROWS": str(self.rows // 3),
        }

    # Changes

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Two connections to write with."""
        with closing(self.database.connect()) as quick, closing(self.database.connect()) as slow:
            self._quick, self._slow = quick, slow
            yield
            slow.commit()

    def step(self) -> None:
        """A transaction; beside it another one may stay open for a while, on rows of its own."""
        if self.chance.random() < 0.2:
            self._slow.commit()
        if self.chance.random() < 0.5:
            self._change(self._slow, odd=1)
        for _ in range(self.chance.choice([1, 1, 1, 5, 40])):
            self._change(self._quick, odd=0)
        if self.chance.random() < 0.03:
            self._slow.commit()
            self._execute(self._quick, "truncate shop.log_pairs")
            # Never empty: the check needs a row of the table's snapshot.
            self._execute(self._quick, "insert into shop.log_pairs (a, b) values (-1, 0)")
        if self.chance.random() < 0.1:
            self._quick.rollback()
        else:
            self._quick.commit()
        time.sleep(self.chance.uniform(0, 0.02))

    def _execute(self, connection: Any, sql: str, *values: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql, values)

    def _change(self, connection: Any, odd: int) -> None:
        """One change of one row, whose id is odd or even: two transactions never wait for one another."""
        identity = 2 * self.chance.randrange(self.rows) + odd
        other = 2 * self.chance.randrange(self.rows) + odd
        word = self.chance.choice(["", "a", "ä€", "x" * 300])
        n = "n = nextval('history.n')"
        table = self.chance.choice(list(METHODS))
        kind = self.chance.choice(["insert", "update", "update", "delete", "key"])
        if table == "full_plain":
            if kind == "insert" or kind == "key":
                self._execute(connection, "insert into shop.full_plain values (%s, %s)", identity % 97, word)
            elif odd == 0:  # Without a key the other transaction's rows cannot be told apart.
                one = "(select ctid from shop.full_plain where n = %s and n %% 2 = 0 limit 1)"
                change = "delete from shop.full_plain" if kind == "delete" else "update shop.full_plain set word = 'u'"
                self._execute(connection, f"{change} where ctid = {one}", identity % 97)
        elif table == "log_pairs":
            row = "a = %s and b = %s"
            pair = (identity, identity % 3)
            if kind == "insert":
                self._execute(
                    connection, "insert into shop.log_pairs (a, b) values (%s, %s) on conflict do nothing", *pair
                )
            elif kind == "delete":
                self._execute(connection, f"delete from shop.log_pairs where {row}", *pair)
            elif kind == "key":
                free = "not exists (select from shop.log_pairs where a = %s and b = %s)"
                change = f"update shop.log_pairs set a = %s, b = %s, {n} where {row} and {free}"
                self._execute(connection, change, other, 2, *pair, other, 2)
            else:
                self._execute(connection, f"update shop.log_pairs set {n} where {row}", *pair)
        elif kind == "insert" or (kind in {"delete", "key"} and table == "inc_rows"):
            insert = f"insert into shop.{table} (id, word) values (%s, %s) on conflict do nothing"
            self._execute(connection, insert, identity + 2 * self.rows * self.chance.randrange(3), word)
        elif kind == "delete":
            self._execute(connection, f"delete from shop.{table} where id = %s", identity)
        elif kind == "key":
            free = f"not exists (select from shop.{table} where id = %s)"
            change = f"update shop.{table} set id = %s, {n} where id = %s and {free}"
            self._execute(connection, change, other, identity, other)
        else:
            at = ", changed_at = clock_timestamp()" if table == "inc_rows" else ""
            self._execute(connection, f"update shop.{table} set word = %s, {n}{at} where id = %s", word, identity)

    # What raw must hold

    def check(self, warehouse: TargetHome) -> int:
        """Raw's current state is the source's, no version is there twice, and none of the log's is missing.

        Returns the number of versions in raw.
        """
        total = 0
        with warehouse.connect() as ask:
            for table, keys in KEYS.items():
                total += self._check_keyed(ask, table, keys)
            total += self._check_plain(ask)
            for table in ("log_rows", "log_pairs"):
                self._check_history(ask, table)
        return total

    def _check_keyed(self, ask: Ask, table: str, keys: list[str]) -> int:
        columns = CONTENT[table]
        rows = ask(f"select _sdc_operation, {columns} from raw_shop.{table} order by _sdc_load_id, _sdc_sequence")
        latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for operation, *content in rows:
            key = tuple(content[: len(keys)])
            before = latest.get(key)
            version = (operation, *content) if operation == "upsert" else (operation,)
            assert version != before, f"{table} {key}: {version} twice"
            assert before is not None or operation == "upsert", f"{table} {key}: deleted and never there"
            latest[key] = version
        held = {version[1:] for version in latest.values() if version[0] == "upsert"}
        source = set(self.database.query(f"select {columns} from shop.{table}"))
        assert held == source, f"{table}: {difference(held, source)}"
        return len(rows)

    def _check_plain(self, ask: Ask) -> int:
        rows = ask("select _sdc_operation, n, word from raw_shop.full_plain order by _sdc_load_id, _sdc_sequence")
        held: Counter[tuple[Any, ...]] = Counter()
        for operation, *content in rows:
            held[tuple(content)] += 1 if operation == "upsert" else -1
        source = Counter(self.database.query("select n, word from shop.full_plain"))
        assert +held == source and min(held.values()) >= 0, "full_plain"
        return len(rows)

    def _commits(self) -> dict[int, int]:
        """Where each transaction since the first rows was committed in the log, as a slot of our own says."""
        options = "'proto_version', '1', 'publication_names', 'kills'"
        begins = self.database.query(
            f"select data from pg_logical_slot_peek_binary_changes('{self._witness}', null, null, {options})"
            " where get_byte(data, 0) = ascii('B')"
        )
        # Begin: a letter, the place of the commit, its time, the transaction's id.
        fields = [struct.unpack(">xqqI", bytes(data)) for (data,) in begins]
        return {xid: lsn for lsn, _, xid in fields}

    def _check_history(self, ask: Ask, table: str) -> None:
        """Raw has what was there when the table was read as a whole, then every version, once and in order."""
        key = f"concat_ws(',', {', '.join(KEYS[table])})"
        rows = ask(
            f"select {key}, _sdc_operation, n, _sdc_load_id from raw_shop.{table} order by _sdc_load_id, _sdc_sequence"
        )
        # The table may have been empty then. A reading that was killed between two of its batches is completed by
        # another one, which compares: what came between them is in raw as its result.
        loads = [
            (load_id, json.loads(origin) if isinstance(origin, str) else origin)
            for load_id, origin in ask(
                f"select load_id, origin from ops.loads where source = 'shop' and stream = '{table}' order by load_id"
            )
        ]
        whole = max(load_id for load_id, origin in loads if origin.get("appended"))
        snapshot, lsn = next(
            (load_id, origin["position"]["lsn"])
            for load_id, origin in loads
            if load_id >= whole and origin.get("position", {}).get("complete")
        )
        start = int(lsn.split("/")[0], 16) << 32 | int(lsn.split("/")[1], 16)
        held: dict[str, int] = {}
        logged: defaultdict[str, list[tuple[str, int | None]]] = defaultdict(list)
        for text, operation, n, load_id in rows:
            if load_id > snapshot:
                logged[text].append((operation, n if operation == "upsert" else None))
            elif operation == "upsert":
                held[text] = n
            else:
                del held[text]
        commits = self._commits()
        before: dict[str, int] = {}
        after: defaultdict[str, list[tuple[str, int | None]]] = defaultdict(list)
        for text, operation, n, xid in self.database.query(
            f"select key, operation, n, xid from history.versions where stream = '{table}' order by place"
        ):
            if commits.get(xid, 0) >= start:
                after[text].append((operation, n))
            elif operation == "upsert":
                before[text] = n
            else:
                del before[text]
        assert held == before, f"{table}: {difference(set(held.items()), set(before.items()))}"
        for text in after.keys() | logged.keys():
            assert logged[text] == after[text], f"{table} {text}: {logged[text]} and not {after[text]}"


def difference(held: set[Any], source: set[Any]) -> str:
    """A few rows of what is only here or only there."""
    return f"only in raw {sorted(held - source, key=str)[:5]}, only in the source {sorted(source - held, key=str)[:5]}"


def write_catalog(discovered: str, file: Path) -> None:
    """A catalog in which every stream has the method that METHODS says."""
    catalog = json.loads(discovered)
    for stream in catalog["streams"]:
        method = METHODS[stream["tap_stream_id"].removeprefix("shop-")]
        root = next(each["metadata"] for each in stream["metadata"] if not each["breadcrumb"])
        root |= {"selected": True, "replication-method": method}
        if method == "INCREMENTAL":
            root["replication-key"] = "changed_at"
    assert len(catalog["streams"]) == len(METHODS)
    file.write_text(json.dumps(catalog))
