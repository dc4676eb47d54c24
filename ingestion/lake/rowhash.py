"""The content hash of a row, and quoting for the SQL around it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence


def identifier(name: str) -> str:
    """Quote an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def row_hash_sql(columns: Sequence[str]) -> str:
    """An SQL expression for `_sdc_row_hash` over columns of any type.

    md5 of `<length>:<name><length>:<value>` for each column that is not null, sorted by name; lengths are in characters
    and keep ("ab", "c") apart from ("a", "bc"). A column that is absent hashes as one that is null.
    """
    parts = []
    for name in sorted(columns):
        text = f"cast({identifier(name)} as varchar)"
        prefix = literal(f"{len(name)}:{name}")
        parts.append(
            f"case when {identifier(name)} is null then '' else {prefix} || length({text}) || ':' || {text} end"
        )
    return f"md5({' || '.join(parts) or literal('')})"


def row_hash(values: Mapping[str, str | None]) -> str:
    """The same hash for values that are text already: `row_hash_sql`'s result for text columns."""
    content = "".join(
        f"{len(name)}:{name}{len(value)}:{value}" for name, value in sorted(values.items()) if value is not None
    )
    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
