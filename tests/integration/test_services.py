"""`scripts/services`, and the environment `services` from end to end: managed PostgreSQL, and the marts of files."""

from __future__ import annotations

import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from ingestion.postgres_service import read_services, write_services
from orchestration.services import warehouse_database
from orchestration.services.postgres import HOST, PostgresServer
from tests.pipeline import Pipeline, differences, read_truth
from tests.postgres import Database

SHOP = ("--seed", "3", "--lines", "3000", "--days", "90")


@pytest.fixture
def pipeline(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """A warehouse whose home the server's user can reach; its services are stopped at the end."""
    home = server_folder / request.node.name
    pipeline = Pipeline(home)
    yield pipeline
    services(pipeline, "down")
    shutil.rmtree(home, ignore_errors=True)


def services(pipeline: Pipeline, *arguments: str, check: bool = True):
    return pipeline.run("python", "-m", "orchestration.services", *arguments, check=check)


def service_file(pipeline: Pipeline) -> Path:
    return pipeline.home / "services" / "pg_service.conf"


def connect(pipeline: Pipeline, role: str):
    return psycopg2.connect(**read_services(service_file(pipeline))[role])


def query(pipeline: Pipeline, role: str, sql: str) -> list[tuple]:
    with closing(connect(pipeline, role)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def test_up_twice_down_and_up_again_keep_data_connections_and_port(pipeline):
    assert services(pipeline, "status", check=False).returncode == 1
    services(pipeline, "up")
    written = service_file(pipeline).read_text()
    query(pipeline, "shop_owner", "create table shop.kept as select 1 as number")
    assert "meltano --environment=services run daily" in services(pipeline, "up").stdout
    assert services(pipeline, "status").returncode == 0
    services(pipeline, "down")
    assert services(pipeline, "status", check=False).returncode == 1
    assert "No PostgreSQL runs" in services(pipeline, "down").stdout
    services(pipeline, "up")
    assert service_file(pipeline).read_text() == written
    assert query(pipeline, "shop_owner", "select number from shop.kept") == [(1,)]


def test_a_taken_port_is_one_line_and_exit_code_1(pipeline):
    with closing(socket.create_server((HOST, 0))) as other:
        port = other.getsockname()[1]
        result = services(pipeline, "up", "--port", str(port), check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"scripts/services: port {port} of {HOST} is taken")
    assert len(result.stderr.splitlines()) == 1


def test_the_reader_is_what_a_managed_postgresql_gives(pipeline):
    services(pipeline, "up")
    query(pipeline, "shop_owner", "create table shop.made_later (number int primary key)")
    attributes = "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolcanlogin, rolreplication from pg_roles"
    assert query(pipeline, "warehouse_reader", f"{attributes} where rolname = current_user") == [
        (False, False, False, False, True, True)
    ]
    assert query(pipeline, "warehouse_reader", "select * from shop.made_later") == []
    tables = "select schemaname, tablename from pg_publication_tables where pubname = 'warehouse'"
    assert query(pipeline, "warehouse_reader", tables) == [("shop", "made_later")]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(pipeline, "warehouse_reader", "insert into shop.made_later values (1)")
    assert stat.S_IMODE(service_file(pipeline).stat().st_mode) == 0o600


# The warehouse's database


@pytest.fixture
def own_server(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server of the user's own, with an administrator who is no superuser."""
    folder = server_folder / f"own-{hash(request.node.nodeid)}"
    version = getattr(request, "param", None)
    with PostgresServer.start(
        folder, version=version, durable=False, temporary=True, options={"log_statement": "all"}
    ) as server:
        Database(server, "postgres").execute("create role admin login createdb createrole password 'of-the-admin'")
        yield server


@pytest.mark.parametrize("own_server", [16, 18], indirect=True)
def test_a_server_of_ones_own_becomes_a_warehouse_with_no_more_rights_than_needed(own_server, tmp_path):
    pipeline = Pipeline(tmp_path / "home", extra_env={"PGPASSWORD": "of-the-admin"})
    administrator = f"host={own_server.host} port={own_server.port} user=admin dbname=postgres"
    prepare = ("warehouse", administrator, "--database", "Shop's own")
    printed = [services(pipeline, *prepare).stdout]
    written = service_file(pipeline).read_text()
    assert stat.S_IMODE(service_file(pipeline).stat().st_mode) == 0o600

    query(pipeline, "warehouse_loader", "create schema raw_shop; create table raw_shop.made_before as select 1 as n")
    taken = "revoke usage on schema raw_shop from warehouse_transformer; revoke all on raw_shop.made_before from"
    query(pipeline, "warehouse_loader", f"{taken} warehouse_transformer")
    printed.append(services(pipeline, *prepare).stdout)  # repeated, it changes nothing
    assert service_file(pipeline).read_text() == written

    query(pipeline, "warehouse_loader", "create schema raw_crm; create table raw_crm.made_after as select 2 as n")
    query(pipeline, "warehouse_loader", "create table ops.loads as select 3 as n")
    made = "select n from raw_shop.made_before union all select n from raw_crm.made_after union all table ops.loads"
    assert query(pipeline, "warehouse_transformer", made) == [(1,), (2,), (3,)]
    query(pipeline, "warehouse_transformer", "create schema staging; create table ops.builds (n int)")
    for role, refused in (
        ("warehouse_transformer", "insert into raw_shop.made_before values (2)"),
        ("warehouse_transformer", "drop table ops.loads"),
        ("warehouse_loader", "table ops.builds"),
        ("warehouse_reporter", "table raw_shop.made_before"),
        ("warehouse_reporter", "table ops.loads"),
        ("warehouse_reporter", "create schema mine"),
        ("warehouse_reporter", "create temporary table mine (n int)"),
        ("warehouse_reporter", "create table public.mine (n int)"),
        ("warehouse_loader", "create role another"),
        ("warehouse_loader", "set role admin"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(pipeline, role, refused)
    database = Database(own_server, "postgres")
    database.execute("create role stranger login password 'a-stranger'")
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(own_server.dsn("Shop's own", "stranger", "a-stranger"))

    secrets = {service["password"] for service in read_services(service_file(pipeline)).values()} | {"of-the-admin"}
    log = (own_server.folder / "server.log").read_text()
    assert "alter role" in log.lower()
    assert not any(secret in text for secret in secrets - {"of-the-admin"} for text in [log, *printed])


def test_passwords_of_another_warehouse_are_not_changed_by_the_way(own_server, tmp_path):
    environment = {"PGPASSWORD": "of-the-admin"}
    first, second = (Pipeline(tmp_path / name, extra_env=environment) for name in ("first", "second"))
    administrator = f"host={own_server.host} port={own_server.port} user=admin dbname=postgres"
    services(first, "warehouse", administrator)
    refused = services(second, "warehouse", administrator, "--database", "second", check=False)
    assert refused.returncode == 1
    assert f"has {', '.join(sorted(warehouse_database.ROLES))} already" in refused.stderr
    assert query(first, "warehouse_loader", "select 1") == [(1,)]
    services(second, "warehouse", administrator, "--database", "second", "--new-passwords")
    assert query(second, "warehouse_loader", "select current_database()") == [("second",)]


@pytest.mark.parametrize(
    ("administrator", "message"),
    [
        ("host=127.0.0.1 port=1 user=admin", "Connection refused"),
        ("host=127.0.0.1 password='not closed", "the administrator's connection cannot be read"),
    ],
)
def test_an_administrator_who_cannot_connect_is_one_line(pipeline, administrator, message):
    done = services(pipeline, "warehouse", administrator, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "not closed" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_connections_that_are_not_ours_stay_in_the_service_file(tmp_path):
    file = tmp_path / "pg_service.conf"
    file.write_text("# mine\n[one]\nhost=a\n# of one\n\n[two]\nhost=b\n")
    write_services(file, {"one": {"host": "c", "port": 1}, "three": {"host": "d"}})
    assert file.read_text() == "# mine\n[one]\nhost=c\nport=1\n\n[two]\nhost=b\n\n[three]\nhost=d\n"
    write_services(file, {"three": {"host": "d"}})
    assert file.read_text().count("[three]") == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_environment_services_gives_the_marts_of_the_files_day_by_day(pipeline, tmp_path):
    """And no password stands in anything that was written or printed on the way."""
    printed = [services(pipeline, "up").stdout]
    as_files = Pipeline(tmp_path / "files")
    for day in ("init", "advance"):
        options = SHOP if day == "init" else ()
        as_files.run("demo-shop", day, *options)
        as_files.run("demo-shop", "truth", "--out", str(tmp_path / day))
        pipeline.run("demo-shop", day, "--into", "postgres", *options)
        done = pipeline.run("meltano", "--environment=services", "run", "daily")
        printed.append(done.stdout + done.stderr)
        assert differences(pipeline.marts(), read_truth(tmp_path / day)) == []
    assert "changes, 0 quarantined" in printed[-1]  # the second day came from the log

    server = PostgresServer.find(pipeline.home / "services" / "postgres")
    slots = Database(server, "shop").query("select plugin, slot_type from pg_replication_slots")
    assert slots == [("pgoutput", "logical")]
    secrets = [server.password] + [service["password"] for service in read_services(service_file(pipeline)).values()]
    files = [file for file in pipeline.home.rglob("*") if file.is_file() and "services/postgres" not in str(file)]
    written = [file.read_bytes() for file in files if file != service_file(pipeline)]
    written.append((server.folder / "server.log").read_bytes())
    assert not any(secret.encode() in text for secret in secrets for text in written)
    assert not any(secret in text for secret in secrets for text in printed)
