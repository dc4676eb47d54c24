"""`scripts/services`: start and stop the servers of the environment `services`, and say what to type next."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

import psycopg2.extensions

from ingestion import settings
from ingestion.errors import UserError
from ingestion.postgres_service import service_file
from ingestion.settings import DEFAULT_SHOP, Settings
from orchestration.services import shop_database, warehouse_database
from orchestration.services.postgres import VERSIONS, PostgresServer


def up(home: Settings, port: int | None, version: int | None) -> None:
    """Start PostgreSQL and make the shop's and the warehouse's databases; what is there already stays as it is."""
    server = PostgresServer.start(home.home / "services" / "postgres", port=port, version=version)
    shop_database.prepare(server, home.service_file)
    warehouse_database.prepare(psycopg2.extensions.parse_dsn(server.dsn()), home.service_file)
    print(_description(server))
    if server.folder != home.home / "services" / "postgres":
        print(f"Its data are in {server.folder}: the user who runs it cannot reach {home.home}.")
    names = ", ".join((shop_database.OWNER, shop_database.READER, *warehouse_database.ROLES))
    print(f"Connections, with passwords: {home.service_file} ({names}).")
    variables = _variables()
    print("Next:")
    for command, why in (
        (f"{variables}.venv/bin/demo-shop init --into postgres", "fill it; later: demo-shop advance"),
        (f"{variables}.venv/bin/meltano --environment=services run daily", "load, build, test, publish"),
        (f"{variables}.venv/bin/meltano --environment=postgres run daily", "the same with PostgreSQL as the warehouse"),
        (f"{variables}scripts/services down", "stop it; its data stay"),
    ):
        print(f"    {command:<70}  # {why}")


def warehouse(administrator: str, database: str, new_passwords: bool) -> None:
    """Make the warehouse's database and roles on a server of the user's own."""
    try:
        parameters = psycopg2.extensions.parse_dsn(administrator)
    except psycopg2.ProgrammingError:
        # Its message would repeat what it could not read, which may be a password.
        raise UserError(
            "the administrator's connection cannot be read; write 'host=db.example.com user=admin dbname=postgres',"
            " and its password in PGPASSWORD or ~/.pgpass"
        ) from None
    file = service_file()
    warehouse_database.prepare(parameters, file, database, new_passwords=new_passwords)
    print(f"The database {database} is ready; its connections, with passwords: {file}")


def down(home: Settings) -> None:
    """Stop what runs; data and passwords stay for the next `up`."""
    server = PostgresServer.find(home.home / "services" / "postgres")
    if server is None:
        print(f"No PostgreSQL runs for {home.home}.")
        return
    server.stop()
    print(f"PostgreSQL is stopped; its data stay in {server.folder}.")


def status(home: Settings) -> int:
    """Say what runs; 0 when PostgreSQL does, else 1."""
    server = PostgresServer.find(home.home / "services" / "postgres")
    print(_description(server) if server else f"No PostgreSQL runs for {home.home}: scripts/services up starts it.")
    return 0 if server else 1


def _description(server: PostgresServer) -> str:
    return (
        f"PostgreSQL {server.version} runs on {server.host}:{server.port}, database {shop_database.DATABASE},"
        f" log {server.folder / 'server.log'}"
    )


def _variables() -> str:
    """What has to stand before a command so that it reaches this warehouse."""
    named = {name: os.environ[name] for name in ("WAREHOUSE_SHOP", "WAREHOUSE_HOME") if os.environ.get(name)}
    return "".join(f"{name}={shlex.quote(value)} " for name, value in named.items())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/services",
        description="A PostgreSQL server with the demo shop's order database: on this machine's loopback only, without"
        " Docker, kept in WAREHOUSE_HOME/services.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start it, make the database and its roles, and say what to type next")
    start.add_argument("--port", type=int, help="a port of your choice (default: the one before, else a free one)")
    start.add_argument(
        "--version", type=int, help=f"PostgreSQL's version, {' or '.join(map(str, VERSIONS))} (default: the first)"
    )
    own = commands.add_parser(
        "warehouse", help="make the warehouse's database and roles on a server of your own (docs/postgres.md)"
    )
    own.add_argument(
        "administrator",
        help="libpq's connection of a role that may make databases and roles, as in"
        " 'host=db.example.com user=admin dbname=postgres'; its password in PGPASSWORD or ~/.pgpass",
    )
    own.add_argument("--database", default=warehouse_database.DATABASE, help="its name (%(default)s)")
    own.add_argument(
        "--new-passwords", action="store_true", help="also for roles that the server has and your service file has not"
    )
    commands.add_parser("down", help="stop it; its data stay")
    commands.add_parser("status", help="say whether it runs, and where; exit code 1 when it does not")
    return parser.parse_args(arguments)


def main() -> int:
    """Run one command; a user's mistake is one line and exit code 1."""
    options = parse()
    try:
        home = settings.load()
        if options.command == "warehouse":
            warehouse(options.administrator, options.database, options.new_passwords)
            return 0
        if home.shop != DEFAULT_SHOP:
            raise UserError(f"there are no services for {home.shop}: they are the demo shop's systems")
        if options.command == "up":
            up(home, options.port, options.version)
        elif options.command == "down":
            down(home)
        else:
            return status(home)
    except UserError as error:
        print(f"scripts/services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
