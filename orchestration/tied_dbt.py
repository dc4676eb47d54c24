"""dbt as Meltano runs it (`scripts/dbt`): it ends when Meltano does.

After `kill -9` of Meltano it would build on to its end, and hold the warehouse against the next run. With `--if-new`
first, a complete build that would find nothing new is left out (orchestration/nothing_new.py).

Where the warehouse is a database of PostgreSQL, dbt is told where: it cannot read PostgreSQL's service file. And no
load commits beside a build, nor does another build begin: DuckDB's file is one process's anyway.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ingestion import lifeline, postgres_service, settings
from ingestion.errors import UserError

if TYPE_CHECKING:
    import psycopg2.extensions

IF_NEW = "--if-new"
BUILDING = ("build", "run", "retry")
"""The commands of dbt that write models."""
VARIABLES = {"host": "HOST", "port": "PORT", "dbname": "DATABASE", "user": "USER", "password": "PASSWORD"}
"""libpq's parameters, and the variables of dbt_project/profiles.yml: WAREHOUSE_POSTGRES_<name>."""


def is_needless() -> bool:
    """Whether the build would only repeat what is published; if it would not, dbt is told the hash of its inputs."""
    from orchestration import nothing_new

    home = settings.load()
    wanted = nothing_new.inputs_hash(home.shop, sys.argv[1:])
    if wanted is None or "--full-refresh" in sys.argv or os.environ.get("DBT_FULL_REFRESH"):
        return False
    if found := nothing_new.published_as_it_is(home, wanted):
        published, built_at = found
        print(
            f"Nothing was loaded since the build of {built_at:%Y-%m-%d %H:%M:%S} UTC, which is published as version"
            f" {published.version}: nothing to build. (`dbt build` builds all the same.)"
        )
        return True
    os.environ[nothing_new.VARIABLE] = wanted
    return False


def connect_to_postgres() -> dict[str, str]:
    """Set what is unset of the variables by which dbt finds the database; returns libpq's parameters.

    Raises UserError when the connection is needed and the service file has none.
    """
    variables = {name: f"WAREHOUSE_POSTGRES_{variable}" for name, variable in VARIABLES.items()}
    if not all(os.environ.get(variable) for variable in variables.values()):
        for name, value in postgres_service.connection(postgres_service.TRANSFORMER).items():
            # All else (sslmode, sslcert, passfile, ...) libpq itself takes from the environment, in whatever program.
            variable = variables.get(name) or f"PG{name.replace('_', '').upper()}"
            if not os.environ.get(variable):
                os.environ[variable] = value
    return {name: os.environ[variable] for name, variable in variables.items() if variable in os.environ}


def hold_raw(parameters: dict[str, str], command: str) -> psycopg2.extensions.connection:
    """A session with the locks of this command (docs/contracts.md, "In PostgreSQL"): to be kept until it ends.

    Raises UserError when the database cannot be reached, or another process has it and goes on.
    """
    import psycopg2

    locks = [("pg_try_advisory_lock_shared", postgres_service.RAW_LOCK)]
    locks += [("pg_try_advisory_lock", postgres_service.BUILD_LOCK)] if command in BUILDING else []
    try:
        connection = postgres_service.connect(parameters, "dbt")
        connection.autocommit = True
        with connection.cursor() as cursor:
            # It has nothing to say until the build has ended.
            cursor.execute("set idle_session_timeout = 0")
            for lock in locks:
                lifeline.once_free(lambda lock=lock: _take(cursor, *lock), lambda error: isinstance(error, _InUseError))
    except _InUseError:
        raise UserError(
            f"the database {connection.info.dbname} of {connection.info.host} is in use by another process (a run of"
            " ingestion or dbt): wait until it has ended, then run again"
        ) from None
    except psycopg2.Error as error:
        raise UserError(postgres_service.one_line(error, parameters)) from None
    return connection


class _InUseError(Exception):
    """Another process has a lock."""


def _take(cursor: psycopg2.extensions.cursor, function: str, lock: tuple[int, int]) -> None:
    cursor.execute(f"select {function}(%s, %s)", lock)
    if not cursor.fetchall()[0][0]:
        raise _InUseError


if __name__ == "__main__":
    lifeline.tie("dbt")
    session = None
    try:
        if settings.load().engine == settings.POSTGRES:
            parameters = connect_to_postgres()
            commands = [argument for argument in sys.argv[1:] if argument in (*BUILDING, "test")]
            session = hold_raw(parameters, commands[0]) if commands else None
    except UserError as error:
        sys.exit(f"dbt: {error}")
    if sys.argv[1:2] == [IF_NEW]:
        del sys.argv[1]
        if is_needless():
            sys.exit()
    from dbt.cli.main import cli

    cli(prog_name="dbt")
