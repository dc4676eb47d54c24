"""What is PostgreSQL's own in target-warehouse: its types, its limits, its connections, its transactions.

What holds on both engines is in test_target_loading.py, test_target_faults.py and test_target_replay.py.
"""

from __future__ import annotations

import datetime as dt
import math
import random
import signal
import subprocess
import time
from contextlib import closing, contextmanager
from decimal import Decimal

import psycopg2
import pytest

from ingestion import settings
from ingestion.errors import UserError
from ingestion.lake import connect
from ingestion.postgres_service import read_services, service_file, write_services
from ingestion.settings import POSTGRES
from ingestion.target.engines import open_warehouse
from orchestration.services import warehouse_database
from orchestration.services.postgres import PostgresServer
from tests.integration.conftest import TARGET, TargetHome, text
from tests.integration.tap_files_runs import Shop
from tests.integration.test_target_loading import ORDERS, TEXT_SCHEMA, batch, record, schema, state
from tests.postgres import Database

pytestmark = pytest.mark.parametrize("engine", [POSTGRES], indirect=True)


def write_rows(warehouse, columns, rows, batch_id):
    """A closed batch with columns of DuckDB's types; `rows` are their values in SQL."""
    with connect(warehouse.home / "spill") as con:
        con.execute(f"create table rows ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
        for row in rows:
            con.execute(f"insert into rows values ({row})")
        return warehouse.lake.write(
            con, ORDERS, rows="rows", batch_id=batch_id, origin={}, extracted_at=dt.datetime.now(dt.UTC)
        )


def load_rows(warehouse, columns, rows, batch_id="one"):
    warehouse.load([TEXT_SCHEMA, batch(write_rows(warehouse, columns, rows, batch_id).file)])


# Types


TYPES = {
    "tinyint": ("-128", "SMALLINT", -128),
    "smallint": ("-32768", "SMALLINT", -32768),
    "integer": ("-2147483648", "INTEGER", -(2**31)),
    "bigint": ("-9223372036854775808", "BIGINT", -(2**63)),
    "utinyint": ("255", "SMALLINT", 255),
    "usmallint": ("65535", "INTEGER", 65535),
    "uinteger": ("4294967295", "BIGINT", 2**32 - 1),
    "ubigint": ("18446744073709551615", "DECIMAL(20,0)", Decimal(2**64 - 1)),
    "decimal(18,4)": ("-12345678901234.5678", "DECIMAL(18,4)", Decimal("-12345678901234.5678")),
    "decimal(38,10)": ("9999999999999999999999999999.9999999999", "DECIMAL(38,10)",
                       Decimal("9999999999999999999999999999.9999999999")),
    "decimal(38,0)": ("-" + "9" * 38, "DECIMAL(38,0)", Decimal("-" + "9" * 38)),
    "double": ("5e-324", "DOUBLE", 5e-324),
    "float": ("'-inf'", "FLOAT", -math.inf),
    "boolean": ("false", "BOOLEAN", False),
    "date": ("'0001-01-01'", "DATE", dt.date(1, 1, 1)),
    "timestamp": ("'9999-12-31 23:59:59.999999'", "TIMESTAMP", dt.datetime(9999, 12, 31, 23, 59, 59, 999999)),
    "timestamptz": ("'1969-12-31 23:59:59.999999Z'", "TIMESTAMP WITH TIME ZONE",
                    dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC)),
    "time": ("'23:59:59.999999'", "TIME", dt.time(23, 59, 59, 999999)),
    "blob": (r"'\x00\xFFa'", "BLOB", b"\0\xffa"),
    "uuid": ("'00112233-4455-6677-8899-aabbccddeeff'", "VARCHAR", "00112233-4455-6677-8899-aabbccddeeff"),
    "json": ("""'{"a": [1, null]}'""", "VARCHAR", '{"a": [1, null]}'),
    "varchar": ("'äß\U0001f600'", "VARCHAR", "äß\U0001f600"),
    "integer[]": ("[1, null]", "VARCHAR", "[1,null]"),
    "struct(a integer, b varchar)": ("{'a': 1, 'b': 'x'}", "VARCHAR", '{"a":1,"b":"x"}'),
    "map(varchar, integer)": ("map {'k': 1}", "VARCHAR", '{"k":1}'),
    "timestamp_ns": ("'2026-01-01 00:00:00.123456789'", "VARCHAR", "2026-01-01 00:00:00.123456789"),
}  # fmt: skip


def test_every_type_arrives_exactly(warehouse):
    columns = {f"c{n}": kind for n, kind in enumerate(TYPES)}
    values = [value for value, _, _ in TYPES.values()]
    load_rows(warehouse, {"id": "integer", **columns}, [f"1, {', '.join(values)}", f"2{', null' * len(columns)}"])
    found = warehouse.columns(ORDERS)
    assert {kind: found[name] for name, kind in columns.items()} == {kind: own for kind, (_, own, _) in TYPES.items()}
    full, empty = warehouse.query(f"select {', '.join(columns)} from raw_shop.orders order by id")
    got = [bytes(value) if isinstance(value, memoryview) else value for value in full]
    assert dict(zip(TYPES, got, strict=True)) == {kind: value for kind, (_, _, value) in TYPES.items()}
    assert empty == (None,) * len(columns)


def test_a_column_whose_name_is_the_path_of_an_empty_field_keeps_its_values(warehouse):
    columns = {"id": "integer", "s": "struct(a integer, b integer)", '"s.a"': "integer", '"l.list.element"': "integer"}
    load_rows(
        warehouse, columns | {"l": "integer[]"}, ["1, {'a': null, 'b': 2}, 7, 8, [null]", "2, null, 9, null, null"]
    )
    rows = warehouse.query('select s, "s.a", "l.list.element", l from raw_shop.orders order by id')
    assert rows == [('{"a":null,"b":2}', 7, 8, "[null]"), (None, 9, None, None)]


def test_decimals_of_any_digits_arrive_exactly(warehouse):
    seeded = random.Random(5)
    values = [
        Decimal(seeded.randrange(10 ** seeded.randint(1, 38)) * seeded.choice((1, -1))).scaleb(-10) for _ in range(300)
    ]
    rows = [f"{n}, '{value:f}'" for n, value in enumerate(values)]
    load_rows(warehouse, {"id": "integer", "v": "decimal(38,10)"}, rows)
    assert [value for (value,) in warehouse.query("select v from raw_shop.orders order by id")] == values


@pytest.mark.parametrize(
    ("old", "value", "new", "text_of_old"),
    [
        ("double", "1", "varchar", "1.0"),
        ("double", "0.1", "varchar", "0.1"),
        ("double", "1e15", "varchar", "1000000000000000.0"),
        ("double", "1234567890123456.7", "varchar", "1234567890123456.8"),
        ("double", "1e16", "varchar", "1e+16"),
        ("float", "1234567", "varchar", "1234567.0"),
        ("float", "-1e15", "varchar", "-1000000000000000.0"),
        ("float", "1e-5", "varchar", "1e-05"),
        ("decimal(5,5)", "-0.9", "varchar", "-.90000"),
        ("blob", r"'a\x00\xFF\x5C\x22'", "varchar", r"a\x00\xFF\x5C\x22"),
        ("blob", "''", "varchar", ""),
        ("double", "'nan'", "varchar", "nan"),
        ("double", "'-inf'", "varchar", "-inf"),
        ("decimal(18,4)", "1.5", "varchar", "1.5000"),
        ("boolean", "true", "varchar", "true"),
        ("timestamptz", "'2026-01-01 00:00:00.5Z'", "varchar", "2026-01-01 00:00:00.5+00"),
        ("date", "'2026-01-01'", "timestamptz", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("integer", "7", "decimal(12,2)", Decimal("7.00")),
    ],
)
def test_a_widened_column_has_the_values_that_duckdb_would_have(warehouse, old, value, new, text_of_old):
    load_rows(warehouse, {"id": "integer", "v": old}, [f"1, {value}"])
    load_rows(warehouse, {"id": "integer", "v": new}, ["2, null", f"3, cast({value} as {old})::{new}"], "two")
    assert warehouse.query("select v from raw_shop.orders order by id") == [(text_of_old,), (None,), (text_of_old,)]


def test_a_column_that_views_of_dbt_read_is_widened_and_they_go_with_it(warehouse, caplog):
    load_rows(warehouse, {"id": "integer", "n": "integer", "v": "double"}, ["1, 5, 1"])
    warehouse.database.execute(
        "create schema staging",
        "create view staging.one as select id, v from raw_shop.orders",
        "create view staging.two as select id from staging.one",
        "create view staging.other as select id from raw_shop.orders",
        "create materialized view staging.kept as select n from raw_shop.orders",
    )
    load_rows(warehouse, {"id": "integer", "n": "integer", "v": "varchar"}, ["2, 6, 'x'"], "two")
    assert warehouse.query("select id, n, v from raw_shop.orders order by id") == [(1, 5, "1.0"), (2, 6, "x")]
    assert warehouse.query("select viewname from pg_views where schemaname = 'staging'") == [("other",)]
    assert warehouse.query("select n from staging.kept") == [(5,)]
    assert "column v is VARCHAR now" in caplog.text
    assert "until the next `dbt build` makes them: staging.one, staging.two" in caplog.text
    warehouse.check_identities()


def test_a_column_that_views_of_others_read_is_not_widened(warehouse):
    load_rows(warehouse, {"id": "integer", "v": "double"}, ["1, 1"])
    warehouse.database.execute("create view public.mine as select v from raw_shop.orders")
    with pytest.raises(UserError, match=r"column v becomes VARCHAR, and public\.mine read it.*drop these views"):
        load_rows(warehouse, {"id": "integer", "v": "varchar"}, ["2, 'x'"], "two")
    assert warehouse.query("select v from public.mine") == [(1.0,)]
    assert warehouse.query("select count(*) from ops.loads") == [(1,)]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("date", "'5881580-07-10'", "date out of range"),
        ("timestamp", "'5000-01-01 (BC) 00:00:00'", "timestamp out of range"),
        ("date", "'-infinity'", "infinity, which a time of raw cannot be"),
        ("timestamp", "'infinity'", "infinity, which a time of raw cannot be"),
        ("timestamptz", "'-infinity'", "infinity, which a time of raw cannot be"),
        ("varchar", "'a' || chr(0)", "0x00; the lake has text with NUL characters from a time with another engine"),
    ],
)
def test_a_value_that_postgresql_cannot_hold_is_one_line_and_loads_nothing(warehouse, kind, value, message):
    closed = write_rows(warehouse, {"id": "integer", "v": kind}, [f"1, {value}"], "one")
    with pytest.raises(UserError, match=rf"stream shop-orders: {closed.file.name}: .*{message}"):
        warehouse.load([TEXT_SCHEMA, batch(closed.file)])
    assert warehouse.query("select count(*) from ops.loads") == [(0,)]
    assert warehouse.query("select to_regclass('raw_shop.orders') is null") == [(True,)]


def test_text_with_nul_is_quarantined(warehouse):
    properties = {"id": {"type": "integer"}, "note": {"type": "string"}}
    records = [record(id=1, note="fine"), record(id=2, note="a\0b"), record(id=3, more={"x": "\0"}), record(id=4)]
    records[3]["record"]["n\0me"] = 1
    warehouse.load([schema(properties), *records])
    assert warehouse.query("select id from raw_shop.orders order by id") == [(1,), (3,)]
    assert warehouse.query("select column_name, reason, payload from ops.quarantine order by quarantine_id") == [
        ("note", "text with a NUL character, which PostgreSQL cannot hold", '{"id":2,"note":"a\\u0000b"}'),
        (None, "a field's name has a NUL character, which PostgreSQL cannot hold", '{"id":4,"n\\u0000me":1}'),
    ]
    warehouse.check_identities()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1.csv", b"id,note\n1,fine\n2,a\0b\n3,fine\n"),
        ("1.jsonl", b'{"id": "1"}\n{"id": "2", "note": "a\\u0000b"}\n{"id": "3"}\n{"id": "4", "n\\u0000": 1}\n'),
    ],
)
def test_files_with_nul_are_quarantined_by_the_record(warehouse, tmp_path, file, content):
    shop = Shop(tmp_path, name="shop-orders", path=f"*.{file[2:]}", format=file[2:], keys=["id"])
    shop.lake = warehouse.lake
    shop.put(file, content)
    warehouse.load(shop.run().messages, max_quarantine_share=1)
    assert warehouse.query("select id from raw_shop.orders order by id") == [("1",), ("3",)]
    assert all("NUL" in reason for (reason,) in warehouse.query("select reason from ops.quarantine"))
    warehouse.check_identities()


def test_names_that_postgresql_would_cut_are_refused(warehouse):
    long = "ä" * 32
    with pytest.raises(UserError, match=f"column {long} has a name of more than 63 bytes"):
        warehouse.load([schema({"id": {"type": "integer"}, long: {"type": "string"}})])
    with pytest.raises(UserError, match=f"{long} is a name of more than 63 bytes"):
        warehouse.load([schema(stream=f"shop-{long}")])
    warehouse.load([schema(), record(id=1, **{long: 1})])
    assert warehouse.query("select column_name from ops.quarantine") == [(long,)]
    with pytest.raises(UserError, match=f"{long} is a name of more than 63 bytes"):
        load_rows(warehouse, {"id": "integer", long: "integer"}, ["1, 1"])


def test_names_of_system_columns_are_refused(warehouse):
    with pytest.raises(UserError, match="column ctid has a name that PostgreSQL needs for itself; rename it"):
        warehouse.load([schema({"id": {"type": "integer"}, "ctid": {"type": "string"}})])
    warehouse.load([schema(), record(id=1, xmin=1), record(id=2, XMIN=1)])
    assert warehouse.query('select id, "XMIN" from raw_shop.orders') == [(2, "1")]
    assert warehouse.query("select column_name from ops.quarantine") == [("xmin",)]


def test_names_keep_their_spelling_and_differ_not_by_case(warehouse):
    load_rows(warehouse, {"Id": "integer", '"a ""b"': "varchar"}, ["1, 'x'"])
    load_rows(warehouse, {"iD": "bigint"}, ["5000000000"], "two")
    assert warehouse.columns(ORDERS) == {"Id": "BIGINT", 'a "b': "VARCHAR"}
    assert warehouse.query('select "Id" from raw_shop.orders order by 1') == [(1,), (5000000000,)]


# Connections


def alter_service(monkeypatch, tmp_path, **parameters):
    """Have the loader's connection with other parameters; returns what it was."""
    services = read_services(service_file())
    file = tmp_path / "other.conf"
    write_services(file, {"warehouse_loader": services["warehouse_loader"] | parameters})
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return services["warehouse_loader"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"password": "not-the-password"}, 'password authentication failed for user "warehouse_loader"'),
        ({"port": "1"}, "Connection refused; check host, port"),
        ({"host": "nowhere.invalid"}, "cannot connect to PostgreSQL: could not translate host name"),
        ({"dbname": "nothing"}, 'database "nothing" does not exist'),
        ({"dbname": "postgres"}, "permission denied for database postgres; prepare the database"),
    ],
)
def test_a_connection_that_cannot_be_is_one_line_without_password(
    warehouse, monkeypatch, tmp_path, parameters, message
):
    service = alter_service(monkeypatch, tmp_path, **parameters)
    done = warehouse.run(text([schema(), record(id=1)]))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not any(secret in done.stderr for secret in (service["password"], "not-the-password"))


def test_a_missing_service_is_one_line(warehouse, monkeypatch, tmp_path):
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "none.conf"))
    done = warehouse.run("")
    assert done.returncode == 1
    assert "none.conf has no connection warehouse_loader: run `scripts/services up`" in done.stderr.splitlines()[-1]


def test_a_wrong_engine_is_one_line(warehouse):
    done = warehouse.run("", WAREHOUSE_ENGINE="mysql")
    assert done.returncode == 1
    assert "WAREHOUSE_ENGINE is mysql: set it to duckdb or postgres" in done.stderr.splitlines()[-1]


def test_two_runs_at_once_are_refused_and_the_lock_goes_with_its_holder(warehouse, monkeypatch):
    holder = subprocess.Popen([TARGET], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: warehouse.query("select 1 from pg_locks where locktype = 'advisory' and granted"))
        with monkeypatch.context() as patch, pytest.raises(UserError, match="is in use by another process"):
            patch.setattr("ingestion.lifeline.LEAVING_SECONDS", 0.3)
            warehouse.load([schema()])
    finally:
        holder.kill()
        holder.wait()
    assert warehouse.load([schema(), record(id=1), state(1)]) == [{"at": 1}]


# Transactions


@contextmanager
def blocked_at(database, table):
    """Let nobody write a table meanwhile; yields a function that waits until somebody tries to."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"lock table {table} in share mode")
        waiting = f"select 1 from pg_locks where not granted and relation = '{table}'::regclass"
        yield lambda: wait_for(lambda: database.query(waiting))


def started(lines):
    process = subprocess.Popen(
        [TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdin.write(lines)
    process.stdin.close()
    process.stdin = None
    return process


@pytest.mark.parametrize("table", ["raw_shop.orders", "ops.quarantine", "ops.loads"])
def test_a_kill_in_the_middle_of_a_load_leaves_nothing_and_the_next_run_completes_it(warehouse, table):
    warehouse.load([schema(), record(id=0, amount=0)])
    wider = schema({"id": {"type": "integer"}, "amount": {"type": "number"}, "note": {"type": "string"}})
    lines = text([wider, *(record(id=n, note="x") for n in range(1, 100)), record(id=100, note=7), state(1)])
    with blocked_at(warehouse.database, table) as wait:
        process = started(lines)
        wait()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert warehouse.query("select count(*), max(id) from raw_shop.orders") == [(1, 0)]
    assert "note" not in warehouse.columns(ORDERS)
    done = warehouse.run(lines)
    assert (done.returncode, done.stdout) == (0, '{"at": 1}\n')
    assert warehouse.query("select count(*), count(distinct id) from raw_shop.orders") == [(100, 100)]
    # The batch that was closed, and the records that the tap sent again, of which all are known but the bad one.
    assert warehouse.query("select rows_loaded, rows_quarantined, rows_dropped from ops.loads order by load_id") == [
        (1, 0, 0), (99, 1, 0), (0, 1, 99),
    ]  # fmt: skip
    warehouse.check_identities()


def test_a_server_that_dies_is_one_line_and_the_next_run_completes_the_load(warehouse, monkeypatch, server_folder):
    with PostgresServer.start(server_folder / "dying", durable=False, temporary=True) as server:
        services = server_folder / "dying.conf"
        warehouse_database.prepare(psycopg2.extensions.parse_dsn(server.dsn()), services)
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        own = TargetHome(warehouse.home, Database(server, "warehouse"))
        own.load([schema()])
        with blocked_at(own.database, "ops.loads") as wait:
            process = started(text([schema(), record(id=1), state(1)]))
            wait()
            server.kill()
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (1, "")
        assert "Traceback" not in stderr
        assert "target-warehouse: the database warehouse of 127.0.0.1: " in stderr.splitlines()[-1]
        with PostgresServer.start(server_folder / "dying", durable=False, temporary=True):
            assert own.load([schema(), record(id=1), state(1)]) == [{"at": 1}]
            assert own.query("select id from raw_shop.orders") == [(1,)]
            own.check_identities()


def test_a_connection_that_is_lost_between_two_batches_fails_the_run_and_notes_it(warehouse):
    process = subprocess.Popen(
        [TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdin.write(text([schema(), record(id=1)]))
    process.stdin.flush()
    wait_for(lambda: warehouse.query("select to_regclass('ops.streams') is not null")[0][0])
    wait_for(lambda: warehouse.query("select 1 from ops.streams"))
    warehouse.query("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "terminating connection due to administrator command" in stderr.splitlines()[-1], stderr
    assert warehouse.query("select status from ops.syncs") == [("failed",)], stderr


def test_every_session_of_a_run_commits_to_disk_and_has_its_time(warehouse):
    name = warehouse.database.name
    warehouse.database.execute(
        f"alter database {name} set synchronous_commit = off", f"alter database {name} set statement_timeout = 1000"
    )
    with closing(open_warehouse(settings.load(), memory_limit="256MB", threads=1)) as engine:
        assert engine._rows("select current_setting('synchronous_commit')") == [("on",)]
        with pytest.raises(UserError, match="division by zero"):
            engine._rows("select 1 / 0")  # From here on it is another session.
        asked = "select current_setting('synchronous_commit'), current_setting('statement_timeout')"
        assert engine._rows(asked) == [("on", "0")]


def test_a_database_of_another_encoding_is_refused(warehouse, monkeypatch, tmp_path):
    warehouse.database.execute("create database ascii encoding 'SQL_ASCII' template template0")
    alter_service(monkeypatch, tmp_path, dbname="ascii")
    with pytest.raises(UserError, match=r"the database ascii of .* has the encoding SQL_ASCII"):
        warehouse.load([schema()])
    warehouse.database.execute("drop database ascii")


def test_the_loader_needs_no_more_than_its_role_has(warehouse):
    warehouse.load([schema(), record(id=1)])
    attributes = "select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls from pg_roles"
    assert warehouse.query(f"{attributes} where rolname = 'warehouse_loader'") == [(False,) * 5]
    owners = "select distinct tableowner from pg_tables where schemaname in ('ops', 'raw_shop')"
    assert warehouse.query(owners) == [("warehouse_loader",)]


def wait_for(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
