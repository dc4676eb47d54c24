"""Connections to a PostgreSQL database, from a tap's settings or by name, and libpq's own defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adbc_driver_manager
import adbc_driver_postgresql.dbapi
import psycopg2
import psycopg2.extensions

from ingestion import postgres_service
from ingestion.errors import UserError
from ingestion.taps.postgres_types import SESSION_OPTIONS

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection as ArrowConnection

# A reading transaction sees one state of the database, and changes nothing. Rows that a policy would hide are an error:
# they would count as deleted.
READING_OPTIONS = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
    "row_security": "off",
}
# More does not read faster, and some batches of this size are in memory at once.
ARROW_BATCH_BYTES = 4 * 1024 * 1024

_NAMES = {"host": "host", "port": "port", "user": "user", "password": "password", "database": "dbname"}

# What the driver puts before the server's own words.
_NOISE = re.compile(r"^(?:[A-Z_]+: )?\[libpq\] (?:Execution error \[\w+\]: |Failed to [^:]*: )?|^[A-Z_]+: (?=Failed)")

Connection = psycopg2.extensions.connection
# What reads by ADBC makes UserErrors of its errors.
DatabaseError = psycopg2.Error


class Server:
    """The database of a tap's settings, or of a connection's name in the service file (`{"service": name}`)."""

    def __init__(self, config: Mapping[str, Any], program: str = "tap-postgres") -> None:
        """Check the settings; raises UserError for those that cannot be. The server sees the program's name."""
        if (config.get("ssh_tunnel") or {}).get("enable"):
            raise UserError(
                "ssh_tunnel is not supported; open the tunnel outside (ssh -N -L 5433:database:5432 bastion) and set"
                " host and port to its near end"
            )
        self._config = config
        self._program = program

    @cached_property
    def parameters(self) -> dict[str, str]:
        """libpq's parameters; what is not set is left to libpq: PGHOST, PGPASSFILE, PGSERVICE and others."""
        url = self._config.get("sqlalchemy_url")
        parameters = _url_parameters(url) if url else self._setting_parameters()
        return postgres_service.with_defaults(parameters, self._program)

    def _setting_parameters(self) -> dict[str, str]:
        config = self._config
        parameters = postgres_service.connection(config["service"]) if config.get("service") else {}
        parameters |= {name: str(config[key]) for key, name in _NAMES.items() if config.get(key) not in (None, "")}
        if config.get("ssl_enable"):
            parameters["sslmode"] = config.get("ssl_mode") or "verify-full"
            authority = config.get("ssl_certificate_authority")
            if authority:
                parameters["sslrootcert"] = self._certificate("ssl_certificate_authority", authority, "root.crt")
        if config.get("ssl_client_certificate_enable"):
            for setting, parameter, file in (
                ("ssl_client_certificate", "sslcert", "cert.crt"),
                ("ssl_client_private_key", "sslkey", "pkey.key"),
            ):
                if value := config.get(setting):
                    parameters[parameter] = self._certificate(setting, value, file)
        return parameters

    def _certificate(self, setting: str, value: str, file: str) -> str:
        """The path of a certificate or key that is given as a path or as its content."""
        if "-----BEGIN" not in value:
            path = Path(value).expanduser()
            if not path.is_file():
                # It may be a key's content without its first line.
                named = "" if setting == "ssl_client_private_key" else f" {path}:"
                raise UserError(f"{setting}:{named} no such file; set it to the file's path or to its content")
            return str(path)
        path = Path(self._config.get("ssl_storage_directory") or ".secrets").expanduser() / file
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as written:
            written.write(value)
        return str(path.resolve())

    def arguments(self, options: Mapping[str, str] = SESSION_OPTIONS) -> dict[str, str]:
        """libpq's parameters with session settings. They hold the password: never for a log."""
        settings = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in options.items())
        given = self.parameters.get("options") or os.environ.get("PGOPTIONS") or ""
        return {**self.parameters, "options": f"{given} {settings}".strip()}

    def connect(self) -> Connection:
        """Open a connection by psycopg2. Raises UserError when that cannot be."""
        try:
            return psycopg2.connect(**self.arguments())
        except psycopg2.Error as error:
            raise self.unreachable(error) from None

    def connect_arrow(
        self, options: Mapping[str, str] = READING_OPTIONS, *, autocommit: bool = False
    ) -> ArrowConnection:
        """Open a connection by ADBC, by default for one reading transaction. Raises UserError when that cannot be."""
        try:
            dsn = psycopg2.extensions.make_dsn(**self.arguments({**SESSION_OPTIONS, **options}))
            return adbc_driver_postgresql.dbapi.connect(dsn, autocommit=autocommit)
        except adbc_driver_manager.Error as error:
            raise self.unreachable(error) from None

    def unreachable(self, error: BaseException) -> UserError:
        """A failed connection as one line."""
        return UserError(
            f"cannot connect to PostgreSQL: {self.reason(error)}; check host, port, user, password and database"
        )

    def reason(self, error: BaseException) -> str:
        """What an error of the database says, in one line and without the password."""
        text = _NOISE.sub("", postgres_service.one_line(error, self.parameters))
        if "row-level security policy" in text:
            text += "; give the tap's user BYPASSRLS, or deselect the stream and read a view whose owner sees the rows"
        return text


def _url_parameters(url: str) -> dict[str, str]:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in {"postgresql", "postgres"}:
        raise UserError("sqlalchemy_url is not a PostgreSQL URL; write postgresql://user:password@host:5432/database")
    # A message of libpq's repeats what it could not read, which may be a part of the password.
    unreadable = UserError(
        "sqlalchemy_url cannot be read; write postgresql://user:password@host:5432/database, with special"
        " characters percent-encoded"
    )
    try:
        parameters: dict[str, str] = psycopg2.extensions.parse_dsn(f"postgresql://{rest}")
    except psycopg2.ProgrammingError:
        raise unreadable from None
    ports = parameters.get("port", "").split(",")
    if _is_misread(rest) or any(port and not port.isdecimal() for port in ports):
        raise unreadable
    return parameters


def _is_misread(rest: str) -> bool:
    """Whether libpq takes a part of the password for host, port, database or setting: it has an `@` or `/` or `?`."""
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, _ = authority.rpartition("@")
    if "@" in login or "@" in path:
        return True
    settings = (item for item in query.split("&") if not item.startswith(("user=", "password=")))
    return not at and any("@" in item for item in settings)
