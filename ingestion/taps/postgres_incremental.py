"""Extracts by a replication key: what is new since the bookmark, and a look behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.errors import UserError
from ingestion.lake import Batch, identifier, literal
from ingestion.lake.comparison import Held
from ingestion.taps.postgres_extracts import Extract, Observer, held_files, select_query
from ingestion.taps.postgres_reading import Snapshot
from ingestion.taps.postgres_types import TEXT, Column, json_token

METHOD = "INCREMENTAL"
_CLOCKS = {
    "timestamp with time zone": "now()",
    "timestamp without time zone": "localtimestamp",
    "date": "current_date",
}
_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")


class KeyRange(Observer):
    """The smallest and greatest finite replication key of a batch's rows, and whether some had none.

    There is no range where the lake's order of the values is not the database's.
    """

    def __init__(self, column: Column) -> None:
        self._column = column
        self._min: pa.Scalar | None = None
        self._max: pa.Scalar | None = None
        self._nulls = False
        self.greatest: pa.Scalar | None = None
        self.has_seen_nulls = False

    def see(self, rows: pa.RecordBatch) -> None:
        """Take rows into account."""
        if not _has_lake_order(self._column):
            return
        values = rows.column(self._column.name)
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_finite(values), values, None)
        self._nulls = self._nulls or values.null_count > 0
        self.has_seen_nulls = self.has_seen_nulls or self._nulls
        bounds = pc.min_max(values)
        if bounds["min"].is_valid:
            self._min = _least(self._min, bounds["min"])
            self._max = _greatest(self._max, bounds["max"])
            self.greatest = _greatest(self.greatest, bounds["max"])

    def origin(self) -> dict[str, Any]:
        """The range so far, and begin a new one."""
        if not _has_lake_order(self._column):
            return {}
        described = {"min": _text(self._min), "max": _text(self._max), "nulls": self._nulls}
        self._min = self._max = None
        self._nulls = False
        return {"replication_key_range": described}


def _least(left: pa.Scalar | None, right: pa.Scalar) -> pa.Scalar:
    return right if left is None or pc.less(right, left).as_py() else left


def _greatest(left: pa.Scalar | None, right: pa.Scalar) -> pa.Scalar:
    return right if left is None or pc.greater(right, left).as_py() else left


def _text(value: pa.Scalar | None) -> str | None:
    """A value as PostgreSQL writes it."""
    if value is None:
        return None
    token = json_token(value)
    return json.loads(token) if token.startswith('"') else token


def _has_lake_order(column: Column) -> bool:
    """Whether the lake's values of a column compare as the database's do; texts follow its collation."""
    return column.held is None and column.warehouse_type != TEXT


def _is_by(batch: Batch, column: Column) -> bool:
    """Whether a batch is of an extract by this column, with the type that it has now."""
    position = batch.origin.get("position", {})
    by = [position.get(name) for name in ("method", "replication_key", "replication_key_type")]
    return by == [METHOD, column.name, column.type]


def bookmark_of(manifest: list[Batch], column: Column) -> str | None:
    """The value of a column up to which everything is in the lake, as PostgreSQL writes it.

    None where the last extract was by another column or type.
    """
    # The batches of replays have no position.
    last = next((batch for batch in reversed(manifest) if "position" in batch.origin), None)
    if last is None or not _is_by(last, column):
        return None
    return last.origin["position"]["replication_key_value"]


class IncrementalExtract(Extract):
    """Rows at and beyond the bookmark less the look-back, and those without finite replication key, in one snapshot."""

    def incremental(self, replication_key: str, look_back: str | None) -> Iterator[Batch]:
        """`look_back` is an SQL expression to subtract from the bookmark; None: none."""
        target = self.target
        column = next(column for column in target.lake_columns if column.name == replication_key)
        if column.is_array or column.base in {"json", "xml", "point", "box"}:
            raise UserError(
                f"{self._subject}: the replication-key {replication_key} is {column.type}, which has no order; choose"
                " another column"
            )
        bookmark = bookmark_of(target.manifest, column)
        observer = KeyRange(column)
        with Snapshot(self.server, self._subject, snapshot=self.snapshot) as snapshot:
            low = None if bookmark is None else low_end(snapshot, column, bookmark, look_back)
            beyond = [] if low is None else [_beyond(snapshot, column, low)]
            server_time = clock(column)
            now, server_bookmark = None, None
            if not _has_lake_order(column):
                server_bookmark = self._server_bookmark(snapshot, column, beyond, bookmark, server_time)
            elif server_time:
                now = snapshot.values(f"select ({server_time})::text as now")[0]

            def position(complete: bool) -> dict[str, Any]:
                value = bookmark
                if complete:
                    value = server_bookmark or _later(column, bookmark, _text(observer.greatest), now)
                return {
                    "method": METHOD,
                    "replication_key": replication_key,
                    "replication_key_type": column.type,
                    "replication_key_value": value,
                    "complete": complete,
                }

            query = select_query(target.table, target.lake_columns, [*target.conditions, *beyond])
            if not any(batch.rows_loaded or batch.rows_quarantined for batch in target.manifest):
                yield from self._appended(snapshot, [query], position, observer)
            else:
                yield from self._compared(
                    snapshot,
                    [query],
                    position,
                    lambda: _holding(target.manifest, column, low, with_nulls=observer.has_seen_nulls),
                    deletes=False,
                    observe=observer,
                )

    def _server_bookmark(
        self, snapshot: Snapshot, column: Column, beyond: list[str], bookmark: str | None, server_time: str | None
    ) -> str | None:
        """The next bookmark by the database's order: `_later` where the lake has another."""
        name = identifier(column.name)
        conditions = [*self.target.conditions, *beyond, f"{name} is not null"]
        if column.base in {"numeric", "real", "double precision"}:
            conditions.append(f"{name}::text not in ('NaN', 'Infinity', '-Infinity')")
        elif server_time or column.base.startswith("interval"):
            conditions.append(f"isfinite({name})")
        where = " and ".join(f"({condition})" for condition in conditions)
        value = f"least({name}, {server_time})" if server_time else name
        value = value if bookmark is None else f"greatest({value}, {literal(bookmark)}::{column.type})"
        last = f"select {name} from {self.target.table.sql} where {where} order by {name} desc limit 1"
        query = f"select {column.text_sql} from (select {value} as {name} from ({last}) as last) as bounded"
        return snapshot.values(f"select ({query}) as bookmark")[0]


def clock(column: Column) -> str | None:
    """The server's time in a column's type, as SQL; None where it is no time."""
    return _CLOCKS.get(column.base)


def low_end(snapshot: Snapshot, column: Column, bookmark: str, look_back: str | None) -> str:
    """Where an extract begins, as PostgreSQL writes it; `look_back` is SQL to subtract from the bookmark."""
    if look_back is None:
        return bookmark
    low, least = f"{literal(bookmark)}::{column.type} - {look_back}", _least_number(column)
    if least is not None:
        low = f"greatest({low}, {least})"
    # A date less an interval is a timestamp.
    return snapshot.values(f"select ({low})::{column.type}::text as low")[0]


def _least_number(column: Column) -> str | None:
    """The least value that a number's type can hold; None where a look-back cannot pass it, or it is no number."""
    if bits := _BITS.get(column.base):
        return str(-(1 << bits - 1))
    if match := _NUMERIC.fullmatch(column.type):
        return f"-{'9' * int(match[1])}e{-int(match[2])}"
    return None


def _beyond(snapshot: Snapshot, column: Column, low: str) -> str:
    """What rows from `low` on meet, and those without finite value, as the database's SQL."""
    name = identifier(column.name)
    conditions = [f"{name} >= {literal(low)}::{column.type}", f"{name} is null"]
    # NaN and infinity are beyond every value.
    lowest = column.base in {"real", "double precision", *_CLOCKS}
    if column.base == "numeric":
        lowest = snapshot.values("select current_setting('server_version_num')::integer as version")[0] >= 140_000
    if lowest:
        conditions.append(f"{name} = '-infinity'")
    return " or ".join(conditions)


def _later(column: Column, bookmark: str | None, greatest: str | None, now: str | None) -> str | None:
    """The next bookmark: the greatest value, but not beyond the server's clock, and never back."""
    if greatest is None:
        return bookmark
    candidates = [_ordered(column, greatest)] + ([_ordered(column, now)] if now else [])
    least = min(candidates)
    if bookmark is not None:
        least = max(least, _ordered(column, bookmark))
    return least[1]


def _ordered(column: Column, text: str) -> tuple[Any, str]:
    """A value in its order, beside its text."""
    return column.value_of(text), text


def _holding(manifest: list[Batch], column: Column, low: str | None, *, with_nulls: bool) -> list[Held]:
    """What can equal a row from `low` on, or one without finite value `with_nulls`.

    That is the first batch with such a row and all after it, as a later one may hold a newer version of the same key
    with a smaller value. In the first extract no key came twice, so there only such rows count.
    """
    if low is None or not _has_lake_order(column):
        return [held_files(manifest)]
    least = column.value_of(low)

    def can_hold(batch: Batch) -> bool:
        bounds = batch.origin.get("replication_key_range") if _is_by(batch, column) else None
        if bounds is None or batch.shares_file:
            return True
        return (with_nulls and bounds["nulls"]) or (
            bounds["max"] is not None and column.value_of(bounds["max"]) >= least
        )

    def is_first(batch: Batch) -> bool:
        return bool(batch.origin.get("appended")) and not batch.shares_file and _is_by(batch, column)

    first = list(takewhile(is_first, manifest))
    others = manifest[len(first) :]
    first = [batch for batch in first if can_hold(batch)]
    holding = (number for number, batch in enumerate(others) if can_hold(batch))
    start = 0 if first else next(holding, len(others))
    name = identifier(column.name)
    condition = f"{name} >= {literal(low)}::{column.warehouse_type}"
    if with_nulls:
        condition += f" or {name} is null"
        if pa.types.is_floating(column.arrow_type):
            condition += f" or not isfinite({name})"
    return [held_files(first, condition), held_files(others[start:])]
