"""The shop's order database as a managed PostgreSQL has it: an owner of the tables, and a role that may only read them.

`warehouse_reader` is what a provider gives: no superuser, LOGIN and REPLICATION, `select` on the schema, and a
publication that an administrator made.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2 import sql

from ingestion.postgres_service import read_services, write_services
from orchestration.services.postgres import PostgresServer, scram_verifier

DATABASE = "shop"
SCHEMA = "shop"
PUBLICATION = "warehouse"
OWNER, READER = "shop_owner", "warehouse_reader"
"""The roles, and the names of their connections in the service file."""


def prepare(server: PostgresServer, service_file: Path) -> None:
    """Make the database, its roles and the publication, and write `service_file` (mode 600); repeated, change nothing.

    A role gets a new password where the file has none for it.
    """
    known = read_services(service_file)
    passwords = {role: known.get(role, {}).get("password") or secrets.token_urlsafe(24) for role in (OWNER, READER)}
    with closing(psycopg2.connect(server.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for role, attributes in ((OWNER, "login"), (READER, "login replication")):
                cursor.execute("select from pg_roles where rolname = %s", (role,))
                verb = "alter" if cursor.fetchall() else "create"
                verifier = scram_verifier(server, role, passwords[role])
                cursor.execute(
                    sql.SQL("{} role {} nosuperuser {} password {}").format(
                        sql.SQL(verb), sql.Identifier(role), sql.SQL(attributes), sql.Literal(verifier)
                    )
                )
            cursor.execute("select from pg_database where datname = %s", (DATABASE,))
            if not cursor.fetchall():
                cursor.execute(f"create database {DATABASE} owner {OWNER}")
    with closing(psycopg2.connect(server.dsn(DATABASE))) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"create schema if not exists {SCHEMA} authorization {OWNER}")
        cursor.execute(f"grant usage on schema {SCHEMA} to {READER}")
        cursor.execute(f"grant select on all tables in schema {SCHEMA} to {READER}")
        cursor.execute(
            f"alter default privileges for role {OWNER} in schema {SCHEMA} grant select on tables to {READER}"
        )
        cursor.execute("select from pg_publication where pubname = %s", (PUBLICATION,))
        if not cursor.fetchall():
            # PostgreSQL 14 knows no publication of a schema.
            what = f"tables in schema {SCHEMA}" if server.version >= 15 else "all tables"
            cursor.execute(f"create publication {PUBLICATION} for {what}")
    place = {"host": server.host, "port": server.port, "dbname": DATABASE}
    write_services(service_file, {role: {**place, "user": role, "password": passwords[role]} for role in passwords})
