"""What is published of personal data: keyed hashes and ranges, unless this warehouse is told to publish it plain.

Columns are told by their kind, `meta.pii` in the models' yml, which dbt notes in `ops.personal_columns` of the marts.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb

from ingestion.errors import UserError
from ingestion.keys import checked_key, install_hash, kept_key, padded_keys
from ingestion.settings import Settings

PLAIN = "plain"
CHOICE, KEY = "WAREHOUSE_PUBLISHED_PERSONAL_DATA", "WAREHOUSE_PERSONAL_DATA_KEY"
_HIDDEN = "hidden"
#: Of these kinds a keyed hash is published: equal values stay equal, in every table, and so joins hold.
_HASHED = ("name", "email", "phone")
_HASH_LENGTH = 32


Personal = Mapping[tuple[str, str], str]
"""The kind of each column with personal data, by model and column, both in lower case."""


@dataclass(frozen=True)
class Disguise:
    """How personal data is published."""

    _key: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """Another key has another name, which does not tell the key."""
        return (
            PLAIN if self.is_plain else f"hidden, key {hmac.digest(self._key, b'name of the key', 'sha256').hex()[:8]}"
        )

    def form(self, personal: Personal) -> str:
        """What `meta.publish_info` says of a version: another key, or other columns (model and column, kind), and it
        is another one."""
        columns = hashlib.sha256(repr(sorted(personal.items())).encode()).hexdigest()[:8]
        return PLAIN if self.is_plain else f"{self.name}, columns {columns}"

    def hides(self, form: str) -> bool:
        """Whether a version of this form shows no more than is to be shown, as far as the key tells."""
        return self.is_plain or form.startswith(self.name)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is hidden."""
        return not self._key

    def install(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make `keyed_hash` known to a connection; the key goes there as a parameter, and stands in no SQL."""
        if self.is_plain:
            return
        install_hash(connection, self._key, "hash_of_personal_data")
        connection.execute(
            "create temp macro keyed_hash(kind, plain) as"
            f" substr(hash_of_personal_data(kind || ':' || plain), 1, {_HASH_LENGTH})"
        )

    def install_in_postgres(self, cursor: Any) -> None:
        """Make the key known to a transaction of psycopg2's; it goes there as a COPY's data, which no log has."""
        if self.is_plain:
            return
        keys = padded_keys(self._key)
        cursor.execute("create temporary table padded_keys (inner_key bytea, outer_key bytea) on commit drop")
        line = "\t".join("\\\\x" + keys[name].hex() for name in ("inner_key", "outer_key"))
        cursor.copy_expert("copy pg_temp.padded_keys from stdin", io.StringIO(line))

    def postgres_sql(self, column: str, kind: str, column_type: str) -> str:
        """As `sql`, for PostgreSQL: the same values."""
        if self.is_plain:
            return column
        if kind in _HASHED:
            inner, outer = (f"(select {name} from pg_temp.padded_keys)" for name in ("inner_key", "outer_key"))
            plain = f"convert_to('{kind}:' || {column}, 'UTF8')"
            return f"left(encode(sha256({outer} || sha256({inner} || {plain})), 'hex'), {_HASH_LENGTH})"
        return (
            f"cast(floor({column} / 10.0) * 10 as {column_type})" if kind == "age" else f"cast(null as {column_type})"
        )

    def sql(self, column: str, kind: str) -> str:
        """The published form of a column that holds personal data of this kind. Null stays null."""
        if self.is_plain:
            return column
        if kind in _HASHED:
            return f"keyed_hash('{kind}', {column})"
        return "null" if self.is_null(kind) else f"floor({column} / 10) * 10"

    def is_null(self, kind: str) -> bool:
        """Whether nothing of personal data of this kind is published."""
        return not self.is_plain and kind not in (*_HASHED, "age")


def disguise(home: Settings) -> Disguise:
    """What the environment asks for; its key is made once, where none is given.

    Raises:
        UserError: the environment asks for something else, or the key is none, or may be read by others.
    """
    choice = os.environ.get(CHOICE) or _HIDDEN
    if choice == PLAIN:
        return Disguise(b"")
    if choice != _HIDDEN:
        raise UserError(f"{CHOICE} is neither {_HIDDEN} nor {PLAIN}. Set it to one of them, or unset it ({_HIDDEN}).")
    given = os.environb.get(KEY.encode())
    if given:
        return Disguise(checked_key(given, KEY))
    return Disguise(kept_key(home.personal_data_key_file, "the key of personal data"))
