"""Connections by name, from PostgreSQL's service file: where a server is and who may connect, kept out of meltano.yml.

The file is the one that PGSERVICEFILE names, else the one that `scripts/services up` wrote below WAREHOUSE_HOME.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion import settings
from ingestion.errors import UserError

if TYPE_CHECKING:
    import psycopg2.extensions

LOADER, TRANSFORMER = "warehouse_loader", "warehouse_transformer"
REPORTER, PERSONAL_REPORTER = "warehouse_reporter", "warehouse_personal_reporter"
"""The roles of a warehouse in PostgreSQL, and the names of their connections."""
RAW_LOCK, BUILD_LOCK, PUBLISH_LOCK = ((1_467_045_491, number) for number in (1, 2, 3))
"""The advisory locks of such a database (docs/contracts.md, "In PostgreSQL"), of two numbers each, so that no other
program's is likely to be the same."""
CONNECT_TIMEOUT_SECONDS = "10"


def service_file() -> Path:
    """The file that is read; it need not exist."""
    named = os.environ.get("PGSERVICEFILE")
    return Path(named).expanduser() if named else settings.load().service_file


def read_services(file: Path) -> dict[str, dict[str, str]]:
    """The connections of a file by name, each as libpq's parameters (host, port, dbname, user, password, ...).

    Raises UserError when the file is there and cannot be read.
    """
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # The parser's own words would show the line, and with it perhaps a password.
        raise UserError(f"{file} is not readable as PostgreSQL's service file: mend it, or remove it") from error
    return {name: dict(parser[name]) for name in parser.sections()}


def write_services(file: Path, services: Mapping[str, Mapping[str, object]]) -> None:
    """Have these connections in a file, readable by this user alone; all else in it stays as it is.

    Raises UserError when it cannot be written.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else "# Contains passwords.\n"
    for name, parameters in services.items():
        # libpq takes no blanks around the equals sign.
        section = f"[{name}]\n" + "".join(f"{each}={value}\n" for each, value in parameters.items())
        found = re.search(rf"^\[{re.escape(name)}\]\n(?:(?!\[).*\n?)*", text, re.MULTILINE)
        if found:
            end = "\n" if found[0].endswith("\n\n") else ""
            text = f"{text[: found.start()]}{section}{end}{text[found.end() :]}"
        else:
            text = f"{text.rstrip()}\n\n{section}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.next")
        beside.unlink(missing_ok=True)
        beside.touch(mode=0o600)
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def connection(name: str) -> dict[str, str]:
    """libpq's parameters of one connection. Raises UserError when the file has none of this name."""
    file = service_file()
    services = read_services(file)
    if name not in services:
        raise UserError(
            f"{file} has no connection {name}: run `scripts/services up`, or let PGSERVICEFILE name a file that has it"
        )
    return services[name]


def with_defaults(parameters: Mapping[str, str], program: str) -> dict[str, str]:
    """libpq's parameters, with what this project sets where nobody else did; the server sees the program's name."""
    own = {"client_encoding": "UTF8", "fallback_application_name": program}
    if "PGCONNECT_TIMEOUT" not in os.environ:
        own["connect_timeout"] = CONNECT_TIMEOUT_SECONDS
    return own | dict(parameters)


def connect(parameters: Mapping[str, str], program: str) -> psycopg2.extensions.connection:
    """Open a connection. Raises psycopg2.Error, of which `one_line` may be shown."""
    import psycopg2  # Only who connects needs it.

    return psycopg2.connect(**with_defaults(parameters, program))


def one_line(error: BaseException, parameters: Mapping[str, str]) -> str:
    """What an error of a database says, in one line and without the password of these parameters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    password = parameters.get("password", "")
    return text.replace(password, "***") if len(password) > 3 else text
