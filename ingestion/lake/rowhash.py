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


def row_hash_sql(columns: Sequence[str], *, texts: bool = False) -> str:
    """An SQL expression for `_sdc_row_hash` over columns of any type; `texts` are sure to be text without NUL.

    md5 of NUL, name, NUL, value for each column that is not null, sorted by name: NUL keeps ("ab", "c") apart from
    ("a", "bc"). A row with a NUL in a value, which files and most databases cannot have, is hashed as `1` and
    `<length>:<name><length>:<value>` for each column, lengths in characters. A column that is absent hashes as one that
    is null.
    """
    if not columns:
        return f"md5({literal('')})"
    values = {name: identifier(name) if texts else f"cast({identifier(name)} as varchar)" for name in sorted(columns)}
    plain, counted = [], ["'1'"]
    for name, text in values.items():
        given = f"case when {identifier(name)} is not null then"
        plain.append(f"{given} chr(0) || {literal(name)} || chr(0) end, {text}")
        counted.append(f"{given} {literal(f'{len(name)}:{name}')} || length({text}) || ':' || {text} end")
    if texts:
        return f"md5(concat({', '.join(plain)}))"
    # One look at all values together, and each value copied once, is what makes this cheap.
    return (
        f"case when contains(concat({', '.join(values.values())}), chr(0))"
        f" then md5(concat({', '.join(counted)})) else md5(concat({', '.join(plain)})) end"
    )


def row_hash(values: Mapping[str, str | None]) -> str:
    """The same hash for values that are text already: `row_hash_sql`'s result for text columns."""
    given = [(name, value) for name, value in sorted(values.items()) if value is not None]
    if any("\0" in value for _, value in given):
        content = "1" + "".join(f"{len(name)}:{name}{len(value)}:{value}" for name, value in given)
    else:
        content = "".join(f"\0{name}\0{value}" for name, value in given)
    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
