"""PostgreSQL for tests: one real server per test session, a fresh database per test.

A test takes the fixture `postgres` and gets a `Database`; one that stops or kills servers starts its own with
`PostgresServer.start(server_folder / "name", durable=False, temporary=True)`.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from ingestion.postgres_service import LOADER, TRANSFORMER
from ingestion.settings import POSTGRES, Settings
from orchestration.services.postgres import PostgresServer

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """An empty database of a running server; the superuser's unless a role is named."""

    server: PostgresServer
    name: str

    @property
    def dsn(self) -> str:
        """The superuser's URL of this database."""
        return self.server.dsn(self.name)

    def connect(self) -> Any:
        """A connection of psycopg2; the caller closes it."""
        return psycopg2.connect(self.dsn)

    def execute(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        with closing(self.connect()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()


def create_database(server: PostgresServer) -> Database:
    """A new, empty database."""
    database = Database(server, f"test_{next(_NUMBERS)}")
    # PostgreSQL copies it from its template; copying files is quicker than logging each page where nothing is synced.
    # PostgreSQL 14 knows no other way.
    strategy = "strategy file_copy" if server.version > 14 else ""
    Database(server, "postgres").execute(f"create database {database.name} {strategy}")
    return database


def drop_database(database: Database) -> None:
    """Remove a database with its connections and replication slots."""
    admin = Database(database.server, "postgres")
    admin.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots"
        f" where database = '{database.name}' and active_pid is not null"
    )
    # A slot stays active until its walsender is gone, and holds the database.
    for _ in range(100):
        slots = admin.query(f"select slot_name, active from pg_replication_slots where database = '{database.name}'")
        for name, active in slots:
            if not active:
                admin.execute(f"select pg_drop_replication_slot('{name}')")
        if not slots:
            break
        admin.execute("select pg_sleep(0.05)")
    admin.execute(f"drop database {database.name} with (force)")


def warehouse_in(database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, **other: str) -> Settings:
    """Have the warehouse's roles be the superuser of a database, for a test in which roles do not matter.

    `other` are parameters of libpq to connect with instead. Tests of roles use `warehouse_database.prepare`.
    """
    service = "".join(f"{name}={value}\n" for name, value in (parse_dsn(database.dsn) | other).items())
    file = folder / "pg_service.conf"
    file.write_text("".join(f"[{role}]\n{service}" for role in (LOADER, TRANSFORMER)))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return Settings(shop="demo_shop", home=folder, data=folder / "source", engine=POSTGRES)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that a server's user can reach, also when the tests run as root; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="warehouse-postgres-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[PostgresServer]:
    """The session's server: logical replication, nothing synced to disk, gone with the tests."""
    with PostgresServer.start(server_folder / "shared", durable=False, temporary=True) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[Database]:
    """A fresh database of the session's server."""
    database = create_database(postgres_server)
    yield database
    drop_database(database)
