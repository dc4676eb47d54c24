"""The warehouse as a database of PostgreSQL: the database, its roles, and what each may do (docs/postgres.md).

For a server that `scripts/services` runs and for one of the user's own alike: an administrator who may make roles and
databases is enough, no superuser. Repeated, it changes nothing; what was taken away it gives again.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from ingestion.errors import UserError
from ingestion.postgres_service import (
    LOADER,
    PERSONAL_REPORTER,
    REPORTER,
    TRANSFORMER,
    connect,
    one_line,
    read_services,
    write_services,
)

DATABASE = "warehouse"
ROLES = (LOADER, TRANSFORMER, REPORTER, PERSONAL_REPORTER)
_OLDEST_VERSION = 140_000


def prepare(
    administrator: Mapping[str, Any], service_file: Path, database: str = DATABASE, *, new_passwords: bool = True
) -> None:
    """Make the database and its roles, and write their connections into `service_file` (mode 600), beside others.

    `administrator` are libpq's parameters of a role that may make databases and roles. A role gets a new password where
    the file has none for it; one that is there already, perhaps for another warehouse of the server, only with
    `new_passwords`. Raises UserError when the server cannot be reached or refuses.
    """
    known = read_services(service_file)
    passwords = {role: known.get(role, {}).get("password") or secrets.token_urlsafe(24) for role in ROLES}
    with _connected(administrator) as connection:
        if connection.server_version < _OLDEST_VERSION:
            raise UserError(
                f"the server is PostgreSQL {connection.server_version // 10_000}: the warehouse needs 14 or later"
            )
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select rolname from pg_roles where rolname = any(%s)", (list(ROLES),))
            there = {name for (name,) in cursor.fetchall()}
            strange = sorted(there - known.keys())
            if strange and not new_passwords:
                raise UserError(
                    f"the server has {', '.join(strange)} already, and {service_file} has no password of theirs: copy"
                    " their connections from another warehouse's file, or add --new-passwords"
                )
            _make_roles(cursor, connection, passwords, there)
            cursor.execute("select from pg_database where datname = %s", (database,))
            if not cursor.fetchall():
                cursor.execute(
                    sql.SQL("create database {} encoding 'UTF8' template template0").format(sql.Identifier(database))
                )
        place = {"host": connection.info.host, "port": connection.info.port}
    with _connected({**administrator, "dbname": database}) as connection, connection, connection.cursor() as cursor:
        cursor.execute("select pg_encoding_to_char(encoding) from pg_database where datname = current_database()")
        if (encoding := cursor.fetchall()[0][0]) != "UTF8":
            raise UserError(f"the database {database} has the encoding {encoding}: make it with encoding UTF8")
        _grant(cursor, database)
    place |= {name: administrator[name] for name in ("sslmode", "sslrootcert") if administrator.get(name)}
    own = {role: {**place, "dbname": database, "user": role, "password": passwords[role]} for role in ROLES}
    write_services(service_file, own)


def _make_roles(cursor: Any, connection: Any, passwords: Mapping[str, str], there: Collection[str]) -> None:
    for role, password in passwords.items():
        verb = "alter" if role in there else "create"
        # What PostgreSQL keeps of a password, so that the password itself is in no log of the server.
        verifier = psycopg2.extensions.encrypt_password(password, role, connection, "scram-sha-256")
        cursor.execute(
            sql.SQL("{} role {} login password {}").format(sql.SQL(verb), sql.Identifier(role), sql.Literal(verifier))
        )


def _grant(cursor: Any, database: str) -> None:
    """Give each role what it needs.

    The loader makes raw_<source>, one for each source that it meets, and its tables of ops; dbt makes its own schemas,
    and its own tables in ops. Who made a table owns it and says who may read it: hence the default privileges, which
    only a member of that role may set.
    """
    cursor.execute("select rolsuper from pg_roles where rolname = current_user")
    is_member_for_now = not cursor.fetchall()[0][0]
    if is_member_for_now:
        cursor.execute(f"grant {LOADER} to current_user")
    cursor.execute("select nspname from pg_namespace where pg_get_userbyid(nspowner) = %s", (LOADER,))
    made = [name for (name,) in cursor.fetchall()]
    statements = [
        "revoke all on database {database} from public",
        f"grant connect, create, temporary on database {{database}} to {LOADER}, {TRANSFORMER}",
        f"grant connect on database {{database}} to {REPORTER}, {PERSONAL_REPORTER}",
        "revoke create on schema public from public",
        # Queries name marts alone, on every engine.
        f"alter role {REPORTER} in database {{database}} set search_path = marts",
        f"alter role {PERSONAL_REPORTER} in database {{database}} set search_path = marts_personal, marts",
        # Of the models' text and dates, whatever the server's own settings are.
        f"alter role {TRANSFORMER} in database {{database}} set standard_conforming_strings = on",
        f"alter role {TRANSFORMER} in database {{database}} set datestyle = 'ISO, YMD'",
        f"create schema if not exists ops authorization {LOADER}",
        f"grant usage, create on schema ops to {TRANSFORMER}",
        f"alter default privileges for role {LOADER} grant usage on schemas to {TRANSFORMER}",
        f"alter default privileges for role {LOADER} grant select on tables to {TRANSFORMER}",
    ]
    for statement in statements:
        cursor.execute(sql.SQL(statement).format(database=sql.Identifier(database)))
    # PostgreSQL 14 makes databases whose schema public a superuser has, and only warns who may not close it.
    cursor.execute("select has_schema_privilege('public', 'public', 'create')")
    if cursor.fetchall()[0][0]:
        raise UserError(
            f"everybody may make tables in the schema public of {database}, as PostgreSQL 14 has it; only a superuser"
            " can change that: let one type `revoke create on schema public from public` there, then run this again"
        )
    for schema in made:
        cursor.execute(sql.SQL(f"grant usage on schema {{}} to {TRANSFORMER}").format(sql.Identifier(schema)))
    # Not of all tables in these schemas: those of dbt's in ops nobody but itself may grant.
    cursor.execute(
        "select nspname, relname from pg_class inner join pg_namespace on relnamespace = pg_namespace.oid"
        " where pg_get_userbyid(relowner) = %s and relkind in ('r', 'p', 'v', 'm')",
        (LOADER,),
    )
    for place in cursor.fetchall():
        cursor.execute(sql.SQL(f"grant select on {{}} to {TRANSFORMER}").format(sql.Identifier(*place)))
    if is_member_for_now:
        cursor.execute(f"revoke {LOADER} from current_user")


@contextmanager
def _connected(parameters: Mapping[str, Any]) -> Iterator[Any]:
    """A connection. Raises UserError, with the server's own first line, for whatever it refuses."""
    try:
        with closing(connect(parameters, "scripts/services")) as connection:
            yield connection
    except psycopg2.Error as error:
        raise UserError(f"the warehouse's database cannot be made: {one_line(error, parameters)}") from None
