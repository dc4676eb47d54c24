"""Connections by name, from PostgreSQL's service file: where a server is and who may connect, kept out of meltano.yml.

The file is the one that PGSERVICEFILE names, else the one that `scripts/services up` wrote below WAREHOUSE_HOME.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ingestion import settings
from ingestion.errors import UserError


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
