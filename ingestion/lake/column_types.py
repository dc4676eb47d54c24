"""Types of raw columns: from a JSON schema, from values, and how one widens to another."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Context, Decimal
from typing import Any

from singer_sdk.singerlib.json import serialize_json

TEXT = "VARCHAR"
# JSON numbers are decimals, never floats: 28 digits before the point and 10 after it hold any money and most measures.
LARGE_INTEGER = "DECIMAL(38,0)"
TIME = "TIMESTAMP WITH TIME ZONE"
NUMBER = "DECIMAL(38,10)"

_INTEGERS = {"TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19}
_BITS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_HEX = re.compile(r"(?:\\x)?(?:[0-9a-fA-F]{2})*")
_EXACT = Context(prec=2000)
# Where a SCHEMA property says DuckDB's name of its type itself; JSON knows fewer types.
WAREHOUSE_TYPE = "x-warehouse-type"
_FLOATS = {"FLOAT", "DOUBLE"}
_PLAIN_TYPES = {*_INTEGERS, *_FLOATS, "BOOLEAN", "DATE", "TIMESTAMP", TIME, "BLOB", TEXT}


def column_type(schema: dict[str, Any]) -> str:
    """The DuckDB type for a property of a JSON schema; text where it allows more than one kind of value.

    Objects and arrays are JSON text. `date-time` is timestamptz (microseconds), `date` is date. A property with
    `x-warehouse-type` has that type.
    """
    named = str(schema.get(WAREHOUSE_TYPE, "")).upper()
    if named in _PLAIN_TYPES or _DECIMAL.fullmatch(named):
        return named
    kinds = _kinds(schema)
    if kinds == {"integer"}:
        return "BIGINT"
    if kinds and kinds <= {"integer", "number"}:
        return NUMBER
    return {
        frozenset({"boolean"}): "BOOLEAN",
        frozenset({"date-time"}): TIME,
        frozenset({"date"}): "DATE",
    }.get(frozenset(kinds), TEXT)


def _kinds(schema: dict[str, Any]) -> set[str]:
    variants = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    if variants:
        return set().union(*(_kinds(variant) for variant in variants))
    declared = schema.get("type", [])
    kinds = {declared} if isinstance(declared, str) else set(declared)
    if "string" in kinds and schema.get("format") in {"date-time", "date"}:
        kinds = (kinds - {"string"}) | {schema["format"]}
    return kinds - {"null"}


def widened(old: str, new: str) -> str | None:
    """The type that holds every value of a column of type `old` and of values of type `new`, or None.

    Text takes everything, but nothing becomes text by a changed schema alone: that would be a change of meaning.
    """
    if old in (new, TEXT):
        return old
    if {old, new} == {"DATE", TIME}:
        return TIME
    if {old, new} == {"DATE", "TIMESTAMP"}:
        return "TIMESTAMP"
    if {old, new} == {"FLOAT", "DOUBLE"}:
        return "DOUBLE"
    left, right = _digits(old), _digits(new)
    if left is None or right is None:
        return None
    whole, fraction = max(left[0], right[0]), max(left[1], right[1])
    if fraction == 0 and old in _INTEGERS and new in _INTEGERS:
        return max(old, new, key=lambda name: _INTEGERS[name])
    return f"DECIMAL({whole + fraction},{fraction})" if whole + fraction <= 38 else TEXT


def column_widened(old: str, new: str) -> str | None:
    """The type for a raw column of type `old` that takes up a closed batch's column of type `new`, or None.

    Beyond `widened`, everything becomes text: a batch has text where one of its numbers fits no decimal, and where its
    tap was told that the column is text from now on.
    """
    return TEXT if new == TEXT else widened(old, new)


def number_widened(old: str, new: str) -> str | None:
    """The type for a column of type `old` whose source says that it has numbers of type `new`, or None.

    Numbers that no decimal holds are text.
    """
    return TEXT if new == TEXT and _digits(old) else widened(old, new)


def _digits(kind: str) -> tuple[int, int] | None:
    """Digits before and after the point of an exact number type."""
    if kind in _INTEGERS:
        return _INTEGERS[kind], 0
    match = _DECIMAL.fullmatch(kind)
    return (int(match[1]) - int(match[2]), int(match[2])) if match else None


def needed_type(kind: str, value: int | Decimal) -> str:
    """The type that a number needs, given its column's: wider where the value does not fit exactly."""
    digits = _digits(kind)
    if digits is None:
        return kind
    if kind in _INTEGERS and isinstance(value, int):
        # Two's complement: there is one more negative number than there are positive ones.
        bits = (~value if value < 0 else value).bit_length() + 1
        fitting = (name for name in _INTEGERS if bits <= _BITS[name] and _BITS[name] >= _BITS[kind])
        # Not HUGEINT: Parquet has none, and DuckDB would write it as a float.
        return next(fitting, LARGE_INTEGER if abs(value) < 10**38 else TEXT)
    whole, fraction = digits
    number = Decimal(value).normalize(_EXACT)
    exponent = number.as_tuple().exponent
    fits = isinstance(exponent, int) and -exponent <= fraction and number.adjusted() < whole
    return kind if fits else TEXT


def as_text(kind: str, value: Any) -> str | None:
    """A JSON value as the text that casts to its column's type without loss, the same for equal values.

    Raises ValueError, with the reason, for a value that is not of the type.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _string_as_text(kind, value)
    if isinstance(value, bool):
        if kind in {"BOOLEAN", TEXT}:
            return "true" if value else "false"
        raise ValueError(f"a boolean where {kind} is expected")
    if isinstance(value, int | Decimal):
        if kind != TEXT and kind not in _FLOATS and _digits(kind) is None:
            raise ValueError(f"a number where {kind} is expected")
        return _number_as_text(value)
    if isinstance(value, float):
        raise ValueError("not a number that JSON knows (NaN or infinity)")
    if kind != TEXT:
        raise ValueError(f"an object or array where {kind} is expected")
    return _unicode(serialize_json(value, ensure_ascii=False))


def _string_as_text(kind: str, value: str) -> str:
    try:
        if kind == TIME:
            moment = dt.datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat()
        if kind == "TIMESTAMP":
            moment = dt.datetime.fromisoformat(value)
            return (moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment).isoformat()
        if kind == "DATE":
            return dt.date.fromisoformat(value).isoformat()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"text that is no {'date' if kind == 'DATE' else 'date and time'}") from error
    if kind == "BLOB":
        if not _HEX.fullmatch(value):
            raise ValueError("text that is no hexadecimal bytes")
        # DuckDB reads bytes as \x00\xFF, PostgreSQL writes them as \x00ff.
        digits = value.removeprefix("\\x")
        return "".join(f"\\x{digits[place : place + 2]}" for place in range(0, len(digits), 2))
    if kind != TEXT:
        raise ValueError(f"text where {kind} is expected")
    return _unicode(value)


def _number_as_text(value: int | Decimal) -> str:
    if isinstance(value, int):
        return str(value)
    if not value.is_finite():
        raise ValueError("not a number that JSON knows (NaN or infinity)")
    number = value.normalize(_EXACT)
    # Written out in full where a column could hold it; 1e999999 would be a megabyte.
    return format(number, "f") if -60 < number.adjusted() < 60 else str(number)


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("text with half a surrogate pair, which is not Unicode") from error
    return text


def json_value(value: Any) -> Any:
    """A value of a Parquet file as the JSON value that a RECORD message would have carried."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [json_value(item) for item in value]
    return value
