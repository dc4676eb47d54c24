"""What only an administrator of a PostgreSQL server can have forgotten: its statistics, and its log of changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import psycopg2

from ingestion import postgres_service
from ingestion.settings import Settings
from orchestration.services.postgres import PostgresServer

_STATISTICS = "vacuum (full) pg_catalog.pg_statistic"
# The server reuses files of its log as they are. Each is passed, so that the next checkpoint removes it.
_PASSED = "select pg_switch_wal() from (select pg_logical_emit_message(true, 'erase-user', '')) as written"


def own_server(home: Settings) -> PostgresServer | None:
    """The server of `scripts/services` that has the warehouse; None where it is another."""
    server = PostgresServer.find(home.home / "services" / "postgres")
    warehouse = postgres_service.connection(postgres_service.TRANSFORMER)
    is_its = server and (server.host, str(server.port)) == (warehouse.get("host"), warehouse.get("port"))
    return server if is_its else None


def forget(home: Settings, administrator: Mapping[str, Any] | None) -> list[str]:
    """Have the server forget what was in its statistics, and on a server of `scripts/services` in its log of changes.

    `administrator`: libpq's parameters; by default those of such a server. Returns what was not done, and how to.
    """
    warehouse = postgres_service.connection(postgres_service.TRANSFORMER)
    own = own_server(home)
    if administrator is None and own:
        administrator = {"host": own.host, "port": own.port, "user": own.user, "password": own.password}
    database = warehouse.get("dbname", "")
    left = []
    if administrator is None:
        left.append(
            f"As the owner of the database {database} or as superuser, type: {_STATISTICS}; checkpoint; (until then,"
            " common values of columns that are no more may stand in the file of PostgreSQL's statistics)"
        )
    else:
        try:
            with closing(postgres_service.connect({**administrator, "dbname": database}, "erase-user")) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(_STATISTICS)
                    if own:
                        _forget_log(cursor)
                    cursor.execute("checkpoint")
        except psycopg2.Error as error:
            left.append(f"The administrator could not do all: {postgres_service.one_line(error, administrator)}")
    if not own:
        left.append(
            "The server's log of changes (WAL), its archive, its replicas and its backups have what was written before,"
            " until they are overwritten or removed (docs/erasure.md)"
        )
    return left


def _forget_log(cursor: Any) -> None:
    """Have no file of the log that was written before; as long as no replication slot needs one."""

    def ask(statement: str) -> Any:
        cursor.execute(statement)
        return cursor.fetchall()[0][0]

    cursor.execute("alter system set wal_recycle = off")
    try:
        _reload(ask)
        for _ in range(ask("select count(*) from pg_ls_waldir()") + 1):
            ask(_PASSED)
        for _ in range(2):  # The first one's own record is in a file of before.
            cursor.execute("checkpoint")
    finally:
        cursor.execute("alter system reset wal_recycle")
        _reload(ask)


def _reload(ask: Callable[[str], Any]) -> None:
    ask("select pg_reload_conf()")
    # The checkpointer reads it within its own time.
    ask("select pg_sleep(0.3) is null")
