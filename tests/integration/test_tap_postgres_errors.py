"""What goes wrong is one clear line, exit status 1, and no secret in any log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ingestion.errors import UserError
from ingestion.taps.postgres import TapPostgres
from ingestion.taps.postgres_connection import Server
from tests.integration.postgres_runs import Source
from tests.postgres import PostgresServer, create_database

SECRET = "hunter2-s3cr3t"


@pytest.fixture
def shop(postgres, warehouse) -> Source:
    return Source(postgres, warehouse)


def tap(tmp_path: Path, warehouse, *arguments: str, **config) -> subprocess.CompletedProcess[str]:
    """Run the tap as Meltano does, with all that it can log."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    return subprocess.run(
        [sys.executable, "-m", "ingestion.taps.postgres", "--config", str(file), *arguments],
        env=os.environ | {"TAP_POSTGRES_LOGLEVEL": "DEBUG", "WAREHOUSE_HOME": str(warehouse.home)},
        capture_output=True,
        text=True,
    )


def the_error(run: subprocess.CompletedProcess[str]) -> str:
    """The one error line."""
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert SECRET not in run.stderr + run.stdout
    lines = [line for line in run.stderr.splitlines() if " ERROR " in line]
    return lines[0]


def test_wrong_password(postgres, tmp_path, warehouse):
    postgres.execute(f"create role reader login password '{SECRET}x'")
    server = postgres.server
    run = tap(
        tmp_path, warehouse, host=server.host, port=server.port, user="reader", password=SECRET, database=postgres.name
    )
    postgres.execute("drop role reader")
    assert "password authentication failed" in the_error(run)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"postgresql+psycopg2://u:{SECRET}@127.0.0.1:1/x", "cannot connect to PostgreSQL: .*Connection refused"),
        (f"postgresql://u:{SECRET}@no-such-host.invalid/x", "cannot connect to PostgreSQL: .*could not translate host"),
        (f"mysql://u:{SECRET}@localhost/x", "sqlalchemy_url is not a PostgreSQL URL"),
        (f"postgresql://u:{SECRET} @localhost:port/x?nonsense=1", "sqlalchemy_url cannot be read"),
    ],
)
def test_server_that_cannot_be_reached(tmp_path, warehouse, url, message):
    import re

    assert re.search(message, the_error(tap(tmp_path, warehouse, sqlalchemy_url=url)))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:{}/x@localhost:5432/d",
        "postgresql://u:12/{}@localhost:5432/d",
        "postgresql://u:x@{}@localhost:5432/d",
        "postgresql://u:{}@x/y@localhost/d",
        "postgresql://u:{}?x@localhost/d",
        "postgresql://u:1?sslmode={}@localhost/d",
        "postgresql://u:{}#x/y@localhost/d",
        "postgresql://u:100%{}@localhost/d",
        "postgresql://u:x//{}@localhost/d",
        "postgresql://u:{}",
    ],
)
def test_url_whose_password_is_not_encoded(url):
    with pytest.raises(UserError, match="sqlalchemy_url cannot be read") as raised:
        Server({"sqlalchemy_url": url.format(SECRET)}).connect()
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:a%2Fb%40c:d@h:1,i:2/d%40b?sslmode=require",
        "postgresql://h:5432/d?user=u@h&password=p@q",
        "postgres+psycopg2://u@[::1]/d",
        "postgresql:///d?host=/tmp",
    ],
)
def test_url_that_can_be_read(url):
    assert Server({"sqlalchemy_url": url}).parameters["dbname"] in {"d", "d@b"}


@pytest.mark.parametrize("name", ["password", "sqlalchemy_url", "ssl_client_private_key"])
@pytest.mark.parametrize("value", [98765432, [SECRET], {"value": SECRET}])
def test_secret_of_a_wrong_type(name, value):
    with pytest.raises(UserError, match=f"^the setting {name} must be text; put it in quotes$"):
        TapPostgres(config={name: value})


def test_secret_of_a_wrong_type_is_one_line(tmp_path, warehouse):
    assert "the setting password must be text" in the_error(tap(tmp_path, warehouse, password=[SECRET]))


def test_client_key_that_is_no_file():
    with pytest.raises(UserError, match="ssl_client_private_key: no such file") as raised:
        Server({"ssl_client_certificate_enable": True, "ssl_client_private_key": SECRET}).connect()
    assert SECRET not in str(raised.value)


def test_unknown_database(postgres, tmp_path, warehouse):
    error = the_error(tap(tmp_path, warehouse, sqlalchemy_url=postgres.server.dsn("nowhere")))
    assert 'database "nowhere" does not exist' in error


def test_ssh_tunnel_is_refused():
    with pytest.raises(UserError, match="ssh_tunnel is not supported"):
        TapPostgres(config={"ssh_tunnel": {"enable": True, "host": "bastion"}, "source": "shop"})


def test_revoked_table_fails_and_the_others_go_on(shop):
    database = shop.database
    database.execute(
        "create table a (id int primary key)",
        "create table b (id int primary key)",
        "insert into a values (1)",
        "insert into b values (1)",
        "drop role if exists clerk",
        f"create role clerk login password '{SECRET}'",
        "grant select on a, b to clerk",
    )
    try:
        server = database.server
        config = {"sqlalchemy_url": f"postgresql://clerk:{SECRET}@{server.host}:{server.port}/{database.name}"}
        shop.run(**config)
        database.execute("revoke select on a from clerk", "insert into b values (2)")
        run = shop.try_run(**config)
        assert run.faults == ["stream shop-a: no right to select from public.a; grant it, or deselect the stream"]
        assert shop.current("b", "id") == [(1,), (2,)]
    finally:
        database.execute("drop owned by clerk", "drop role clerk")


def test_rows_that_a_policy_hides_are_not_deletes(shop):
    database = shop.database
    database.execute(
        "create table t (id int primary key)",
        "insert into t select generate_series(1, 10)",
        "create role tenant login password 'pw'",
        "grant select on t to tenant",
    )
    try:
        url = database.server.dsn(database.name, "tenant", "pw")
        shop.run(sqlalchemy_url=url)
        database.execute("alter table t enable row level security", "create policy few on t using (id > 3)")
        (fault,) = shop.try_run(sqlalchemy_url=url).faults
        assert "row-level security policy" in fault and "BYPASSRLS" in fault
        assert len(shop.current("t", "id")) == 10
    finally:
        database.execute("drop table t", "drop owned by tenant", "drop role tenant")


def test_table_never_allowed_is_left_out(shop, caplog):
    caplog.set_level("INFO", logger="tap-postgres")
    database = shop.database
    database.execute("create table a (id int)", f"create role clerk login password '{SECRET}'")
    try:
        database.execute("create table b (id int)", "grant select on b to clerk")
        server = database.server
        config = {"host": server.host, "port": server.port, "user": "clerk", "password": SECRET}
        discovered = TapPostgres(config=config | {"database": database.name, "source": "shop"}).catalog_dict["streams"]
        assert [stream["tap_stream_id"] for stream in discovered] == ["shop-b"]
        assert "public.a is left out" in caplog.text
    finally:
        database.execute("drop owned by clerk", "drop role clerk")


def test_catalog_with_a_table_that_is_gone(shop):
    shop.database.execute("create table a (id int)", "create table b (id int)")
    catalog = shop.catalog()
    shop.database.execute("drop table a")
    run = shop.try_run(catalog)
    assert run.faults == [
        "stream shop-a: no such table, or no right to select from it; grant it or deselect the stream"
    ]


def test_statement_timeout(shop):
    shop.database.execute(
        "create table a (id int)", "insert into a values (1)", "create view slow as select id, pg_sleep(5)::text from a"
    )
    shop.database.execute(f"alter database {shop.database.name} set statement_timeout = '300ms'")
    run = shop.try_run()
    assert run.faults == ["stream shop-slow: public.slow: ERROR:  canceling statement due to statement timeout"]


def test_server_that_stops_in_the_middle(server_folder, warehouse):
    with PostgresServer.start(server_folder / "stopping", durable=False, temporary=True) as server:
        database = create_database(server)
        shop = Source(database, warehouse)
        database.execute(
            "create table a (id int primary key, t text)",
            "insert into a select i, repeat('x', 1000) from generate_series(1, 20000) as i",
            "create view slow as select a.*, pg_sleep(0.001)::text as slept from a",
        )
        catalog = shop.catalog()
        catalog["streams"] = [stream for stream in catalog["streams"] if stream["tap_stream_id"] == "shop-slow"]

        def stop() -> None:
            with closing(database.connect()) as connection, connection.cursor() as cursor:
                cursor.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tap-postgres'"
                )

        timer = threading.Timer(2, stop)
        timer.start()
        run = shop.try_run(catalog)
        timer.join()
    (fault,) = run.faults
    assert fault.startswith("stream shop-slow: public.slow: ")
    assert "\n" not in fault
    assert "terminat" in fault or "closed the connection" in fault


def test_lake_that_cannot_be_written(shop, monkeypatch):
    shop.database.execute("create table a (id int primary key)", "insert into a values (1)")
    from ingestion.lake import row_groups

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_groups, "sync", full)
    run = shop.try_run()
    assert "the lake cannot be written: No space left on device" in run.faults[0]
    assert shop.manifest("a") == []
    monkeypatch.undo()
    monkeypatch.setenv("WAREHOUSE_HOME", str(shop.warehouse.home))
    shop.run()
    assert shop.current("a", "id") == [(1,)]


# Names


def test_names_of_any_kind(shop):
    shop.database.execute(
        'create table "Bestellungen Ä-1" ("Id" int primary key, "a ""quoted"" name" text, "größe" int, "a-b" int,'
        ' "select" int, "a.b" text)',
        """insert into "Bestellungen Ä-1" values (1, 'x', 2, 3, 4, 'dot')""",
    )
    shop.run()
    columns = '"Id", "a ""quoted"" name", "größe", "a-b", "select", "a.b"'
    assert shop.current('"Bestellungen Ä-1"', columns, key='"Id"') == [(1, "x", 2, 3, 4, "dot")]
    shop.database.execute("""update "Bestellungen Ä-1" set "größe" = 5, "a.b" = null""")
    shop.run()
    assert shop.current('"Bestellungen Ä-1"', columns, key='"Id"') == [(1, "x", 5, 3, 4, None)]


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (['create table "T" (id int)', "create table t (id int)"], "public.T and public.t would be one table"),
        (
            ["create table t (a int)", "create schema x", "create table x.t (a int)"],
            "public.t and x.t would be one table",
        ),
        (['create table t ("A" int, a int)'], "its columns A and a differ only by case"),
        (["create table t (_sdc_sequence int)"], "its column _sdc_sequence has a name of raw's metadata"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(shop, statements, message):
    shop.database.execute(*statements, "create table fine (id int)")
    run = shop.try_run()
    assert len(run.faults) == 1 and message in run.faults[0]
    assert [stream["stream"] for stream in run.of_type("SCHEMA")] == ["shop-fine"]


def test_replication_metadata_that_cannot_be(shop):
    shop.database.execute("create table t (id int primary key)")
    for metadata, message in [
        ({"replication-method": "INCREMENTAL"}, "INCREMENTAL needs a replication-key"),
        (
            {"replication-method": "INCREMENTAL", "replication-key": "nothing"},
            "replication-key nothing is not in public.t",
        ),
        ({"replication-method": "SOMETIMES"}, "replication-method SOMETIMES: choose"),
        ({"table-key-properties": ["nothing"]}, "key column nothing is not in public.t"),
    ]:
        run = shop.extract(shop.catalog(**metadata))
        assert len(run.faults) == 1 and message in run.faults[0]
