"""Rows as RECORD messages have them, for other projects' targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
from singer_sdk.singerlib.json import deserialize_json

from ingestion.errors import UserError
from ingestion.taps.postgres_types import TEXT, Column, Converted


def record_columns(columns: Sequence[Column], *, dates_as_string: bool) -> list[Column]:
    """The columns as they are read; with `dates_as_string` dates and times are PostgreSQL's text."""
    return [
        column.holding(TEXT) if dates_as_string and pa.types.is_temporal(column.arrow_type) else column
        for column in columns
    ]


def records(
    stream_id: str, columns: Sequence[Column], converted: Converted, *, json_as_object: bool
) -> Iterator[dict[str, Any]]:
    """Rows as JSON values, numbers exactly. Raises UserError for a value that JSON has not."""
    for bad in converted.unfit:
        raise _refused(stream_id, bad.column, bad.reason)
    lists = [
        _values(stream_id, column, array, json_as_object=json_as_object)
        for column, array in zip(columns, converted.rows.columns, strict=True)
    ]
    names = [column.name for column in columns]
    for row in zip(*lists, strict=True):
        yield dict(zip(names, row, strict=True))


def _values(stream_id: str, column: Column, array: pa.Array, *, json_as_object: bool) -> list[Any]:
    kind = array.type
    if pa.types.is_temporal(kind):
        try:
            return [None if value is None else value.isoformat() for value in array.to_pylist()]
        except (ValueError, OverflowError, pa.ArrowInvalid) as error:
            raise _refused(stream_id, column.name, "a date before the year 1 or after 9999") from error
    values = array.to_pylist()
    if pa.types.is_floating(kind):
        if any(value is not None and not math.isfinite(value) for value in values):
            raise _refused(stream_id, column.name, "JSON knows neither NaN nor infinity")
        if pa.types.is_float32(kind):  # The shortest number that is the same float of 32 bits.
            return [None if text is None else Decimal(text) for text in array.cast(pa.string()).to_pylist()]
        return values
    if pa.types.is_binary(kind):
        return [None if value is None else value.hex() for value in values]
    if column.is_array or (json_as_object and column.base in {"json", "jsonb"}):
        return [None if value is None else deserialize_json(value) for value in values]
    return values


def _refused(stream_id: str, column: str, reason: str) -> UserError:
    return UserError(
        f"stream {stream_id}: column {column}: {reason}; RECORD messages cannot carry it: set dates_as_string where it"
        " is a date or time, deselect the column, or use wire: lake, which quarantines such rows"
    )
