"""Extracts by a replication key: what is new since the bookmark, and a look behind it."""

from __future__ import annotations

import json
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


class KeyRange(Observer):
    """The smallest and greatest replication key of a batch's rows, and whether some had none.

    Values are in the lake's type of the column; for text, whose order is the database's collation, there are none.
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
        values = rows.column(self._column.name)
        self._nulls = self._nulls or values.null_count > 0
        self.has_seen_nulls = self.has_seen_nulls or self._nulls
        if self._column.warehouse_type == TEXT:
            return
        bounds = pc.min_max(values)
        if bounds["min"].is_valid:
            self._min = _least(self._min, bounds["min"])
            self._max = _greatest(self._max, bounds["max"])
            self.greatest = _greatest(self.greatest, bounds["max"])

    def origin(self) -> dict[str, Any]:
        """The range so far, and begin a new one."""
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


def bookmark_of(manifest: list[Batch], replication_key: str) -> str | None:
    """The value up to which everything is in the lake, as PostgreSQL writes it."""
    if not manifest:
        return None
    position = manifest[-1].origin.get("position", {})
    same = position.get("method") == METHOD and position.get("replication_key") == replication_key
    return position.get("replication_key_value") if same else None


class IncrementalExtract(Extract):
    """Rows at and beyond the bookmark less the look-back, and those without replication key, in one snapshot."""

    def incremental(self, replication_key: str, look_back: str | None) -> Iterator[Batch]:
        """`look_back` is an SQL expression to subtract from the bookmark; None: none."""
        target = self.target
        column = next(column for column in target.lake_columns if column.name == replication_key)
        if column.is_array or column.base in {"json", "xml", "point", "box"}:
            raise UserError(
                f"{self._subject}: the replication-key {replication_key} is {column.type}, which has no order; choose"
                " another column"
            )
        bookmark = bookmark_of(target.manifest, replication_key)
        name = identifier(replication_key)
        observer = KeyRange(column)
        with Snapshot(self.server, self._subject, snapshot=self.snapshot) as snapshot:
            low = self._low(snapshot, column, bookmark, look_back)
            greatest = self._known_greatest(snapshot, column, low)
            clock = _CLOCKS.get(column.base)
            now = snapshot.values(f"select ({clock})::text as now")[0] if clock else None

            def position(complete: bool) -> dict[str, Any]:
                value = bookmark
                if complete:
                    value = _later(column, bookmark, greatest or _text(observer.greatest), now)
                return {
                    "method": METHOD,
                    "replication_key": replication_key,
                    "replication_key_value": value,
                    "complete": complete,
                }

            beyond = [] if low is None else [f"{name} >= {literal(low)}::{column.type} or {name} is null"]
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

    def _low(self, snapshot: Snapshot, column: Column, bookmark: str | None, look_back: str | None) -> str | None:
        if bookmark is None or look_back is None:
            return bookmark
        # A date less an interval is a timestamp.
        query = f"select ({literal(bookmark)}::{column.type} - {look_back})::{column.type}::text as low"
        return snapshot.values(query)[0]

    def _known_greatest(self, snapshot: Snapshot, column: Column, low: str | None) -> str | None:
        """The greatest value by the database's order, where the lake's type has another."""
        if column.warehouse_type != TEXT:
            return None
        name = identifier(column.name)
        conditions = [*self.target.conditions, f"{name} is not null"]
        if low is not None:
            conditions.append(f"{name} >= {literal(low)}::{column.type}")
        where = " and ".join(f"({condition})" for condition in conditions)
        query = f"select {column.text_sql} from {self.target.table.sql} where {where} order by {name} desc limit 1"
        return snapshot.values(f"select ({query}) as greatest")[0]


def _later(column: Column, bookmark: str | None, greatest: str | None, now: str | None) -> str | None:
    """The next bookmark: the greatest value, but not beyond the server's clock, and never back."""
    if greatest is None:
        return bookmark
    if column.warehouse_type == TEXT:
        return greatest
    candidates = [_ordered(column, greatest)] + ([_ordered(column, now)] if now else [])
    least = min(candidates)
    if bookmark is not None:
        least = max(least, _ordered(column, bookmark))
    return least[1]


def _ordered(column: Column, text: str) -> tuple[Any, str]:
    """A value in its order, beside its text."""
    return column.value_of(text), text


def _holding(manifest: list[Batch], column: Column, low: str | None, *, with_nulls: bool) -> list[Held]:
    """What can equal a row from `low` on, or one without value `with_nulls`.

    That is the first batch with such a row and all after it, as a later one may hold a newer version of the same key
    with a smaller value. In the first extract no key came twice, so there only such rows count.
    """
    if low is None or column.warehouse_type == TEXT:
        return [held_files(manifest)]
    least = column.value_of(low)

    def can_hold(batch: Batch) -> bool:
        bounds = batch.origin.get("replication_key_range")
        if bounds is None or batch.shares_file:
            return True
        return (with_nulls and bounds["nulls"]) or (
            bounds["max"] is not None and column.value_of(bounds["max"]) >= least
        )

    first = list(takewhile(lambda batch: batch.origin.get("appended") and not batch.shares_file, manifest))
    others = manifest[len(first) :]
    start = next((number for number, batch in enumerate(others) if can_hold(batch)), len(others))
    name = identifier(column.name)
    condition = f"{name} >= {literal(low)}::{column.warehouse_type}" + (f" or {name} is null" if with_nulls else "")
    return [held_files([batch for batch in first if can_hold(batch)], condition), held_files(others[start:])]
