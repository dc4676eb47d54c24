"""Secret keys of this warehouse, each in a file of its own, and keyed hashes (HMAC of SHA-256, RFC 2104) in DuckDB.

DuckDB has no HMAC; its own sha256 takes a third of the time that Python's takes for millions of values.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

import duckdb

from ingestion.errors import UserError

#: In characters.
LEAST_KEY_LENGTH = 32
#: In bytes, of SHA-256.
_BLOCK = 64


def kept_key(file: Path, what: str) -> bytes:
    """The key that a file holds, which is made where there is none; messages call it `what`.

    Raises:
        UserError: it can be neither read nor made, is too short, or may be read by others.
    """
    try:
        if not file.exists():
            _make_key(file)
        if file.stat().st_mode & 0o077:
            raise UserError(f"{file} may be read by others. Make it your own again: chmod 600 {file}")
        return checked_key(file.read_bytes(), str(file))
    except OSError as error:
        what = what[0].upper() + what[1:]
        raise UserError(f"{what}, {file}, can be neither read nor made: {error.strerror}.") from error


def checked_key(key: bytes, where: str) -> bytes:
    """A key without the blanks around it. Raises UserError for one that is too short to be one."""
    key = key.strip()
    if len(key) < LEAST_KEY_LENGTH:
        raise UserError(f"{where} holds no key of {LEAST_KEY_LENGTH} characters or more. Put a longer one there.")
    return key


def _make_key(file: Path) -> None:
    """A key that nobody else may read, whole or not there at all."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-") as new:
        new.write(secrets.token_hex(32).encode())
        new.flush()
        os.fsync(new.fileno())
        os.link(new.name, file)


def padded_keys(key: bytes) -> Mapping[str, bytes]:
    """The two blocks that HMAC puts before what it hashes, by the names `inner_key` and `outer_key`."""
    key = key if len(key) <= _BLOCK else hashlib.sha256(key).digest()
    pads = {"inner_key": 0x36, "outer_key": 0x5C}
    return {name: bytes(byte ^ pad for byte in key.ljust(_BLOCK, b"\0")) for name, pad in pads.items()}


def install_hash(connection: duckdb.DuckDBPyConnection, key: bytes, macro: str) -> None:
    """Make `<macro>(text)`, 64 hexadecimal digits, known to a connection.

    The key goes there as a parameter, and stands in no SQL.
    """
    for name, padded in padded_keys(key).items():
        connection.execute(f"set variable {macro}_{name} = $1", [padded])
    connection.execute(
        f"create or replace temp macro {macro}(plain) as sha256(getvariable('{macro}_outer_key') ||"
        f" unhex(sha256(getvariable('{macro}_inner_key') || encode(plain))))"
    )
