"""The server of orchestration/services/postgres.py: it starts, survives what happens to servers, and leaks nothing."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from ingestion.errors import UserError
from orchestration.services.postgres import HOST, OTHER_PROGRAMS, PostgresServer, programs
from tests.postgres import Database, create_database, drop_database


@pytest.fixture
def folder(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / request.node.name


def start(folder: Path, **options) -> PostgresServer:
    return PostgresServer.start(folder, durable=False, temporary=True, **options)


def admin(server: PostgresServer) -> Database:
    return Database(server, "postgres")


def test_each_database_is_fresh_and_ready_for_logical_replication(postgres):
    assert postgres.query("select count(*) from pg_tables where schemaname = 'public'") == [(0,)]
    assert postgres.query("show wal_level") == [("logical",)]
    postgres.execute("select pg_create_logical_replication_slot('left_behind', 'pgoutput')")


def test_a_database_goes_with_the_slots_that_a_test_left(postgres_server):
    database = create_database(postgres_server)
    database.execute("select pg_create_logical_replication_slot('left_behind', 'pgoutput')")
    drop_database(database)
    assert admin(postgres_server).query("select 1 from pg_replication_slots where slot_name = 'left_behind'") == []


def test_only_the_loopback_and_only_with_the_password(postgres_server):
    assert admin(postgres_server).query("show listen_addresses") == [("127.0.0.1",)]
    assert admin(postgres_server).query("show unix_socket_directories") == [("",)]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres_server.dsn(password="wrong"))


def test_what_was_committed_survives_a_kill(folder):
    server = start(folder)
    admin(server).execute("create table kept (number int)", "insert into kept values (1)")
    server.kill()
    with start(folder) as again:
        assert again.port == server.port
        assert admin(again).query("select * from kept") == [(1,)]


def test_starting_what_runs_returns_it(folder):
    with start(folder) as server:
        assert start(folder).pid == server.pid
    assert PostgresServer.find(folder) is None


def test_a_lock_file_whose_process_is_another_one_does_not_block(folder):
    start(folder).stop()
    other = subprocess.Popen(["sleep", "60"])
    try:
        (folder / "data" / "postmaster.pid").write_text(f"{other.pid}\n{folder / 'data'}\n1\n1\n\n{HOST}\n1 1\nready\n")
        assert PostgresServer.find(folder) is None
        start(folder).stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_port_that_was_asked_for_and_is_taken_is_said(folder):
    with closing(socket.create_server((HOST, 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of {HOST} is taken"):
            start(folder, port=port)


def test_a_remembered_port_that_is_taken_now_is_replaced(folder):
    server = start(folder)
    server.stop()
    with closing(socket.create_server((HOST, server.port))), start(folder) as again:
        assert again.port != server.port


def test_an_interrupted_first_start_is_begun_anew(folder):
    (folder / "data.unfinished" / "base").mkdir(parents=True)
    start(folder).stop()


def test_a_folder_of_something_else_is_refused(folder):
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no whole PostgreSQL server"):
        start(folder)
    assert (folder / "data" / "mine.txt").read_text() == "mine"


def test_a_server_that_does_not_start_says_why(folder):
    with pytest.raises(UserError, match="max_connections"):
        start(folder, options={"max_connections": "none"})


def test_version_16_can_be_had_and_stays(folder):
    with start(folder, version=16) as server:
        assert admin(server).query("show server_version")[0][0].startswith("16.")
    with pytest.raises(UserError, match="PostgreSQL 16, not 18"):
        start(folder, version=18)
    with start(folder) as server:
        assert server.version == 16


def test_programs_of_ones_own_are_those_of_new_servers(folder, server_folder, monkeypatch):
    monkeypatch.setenv(OTHER_PROGRAMS, str(programs(16)))
    with start(folder) as server:
        assert admin(server).query("show server_version")[0][0].startswith("16.")
    with pytest.raises(UserError, match="no PostgreSQL 15 here: choose one of 16, 18"):
        start(server_folder / "another", version=15)
    monkeypatch.setenv(OTHER_PROGRAMS, str(folder))
    with pytest.raises(UserError, match=f"POSTGRES_PROGRAMS is '{folder}', which has no program postgres that runs"):
        start(server_folder / "another")


def test_the_password_is_in_nothing_that_others_can_read(folder):
    with start(folder) as server:
        for file in (folder / "settings.json", folder / "data"):
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
        assert server.password not in (folder / "server.log").read_text()
        assert server.password not in repr(server)
        assert server.password not in subprocess.check_output(["ps", "-eo", "args"], text=True)


def test_a_folder_closed_to_others_stays_closed_and_roots_server_lives_elsewhere(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with start(closed / "postgres") as server:
        assert (server.folder == closed / "postgres") == (os.geteuid() != 0)
        assert PostgresServer.find(closed / "postgres") == server
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    shutil.rmtree(server.folder)
