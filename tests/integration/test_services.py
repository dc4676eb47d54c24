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

from ingestion.postgres_service import read_services
from orchestration.services.postgres import HOST, PostgresServer
from tests.pipeline import Pipeline, differences, read_truth
from tests.postgres import Database

SHOP = ("--seed", "3", "--lines", "3000", "--days", "90")


@pytest.fixture
def pipeline(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """A warehouse whose home the server's user can reach; its services are stopped at the end."""
    home = server_folder / request.node.name
    pipeline = Pipeline(home, extra_env={"MELTANO_SYS_DIR_ROOT": str(home / "meltano")})
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
