"""Which versions stand in raw, and in which order: docs/contracts.md, "Raw tables", in plain Python.

It reads nothing of the warehouse: its rows are what a test told the sources to say, with their values beside the text
that raw holds of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pandas as pd

from ingestion.demo_shop import reading

KEYS = {
    "shop.orders": ("order_id",),
    "shop.order_items": ("order_line_id",),
    "shop.refunds": ("refund_id",),
    "crm.users": ("user_id",),
    "catalog.products": ("product_id",),
    "web.events": ("event_id",),
    "stock.stock_levels": ("product_id", "recorded_at"),
}
_OWN_TIME = {"web.events": "received_at", "stock.stock_levels": "recorded_at"}


@dataclass(frozen=True)
class Received:
    """One row of raw: its values as numbers, Decimals, naive UTC datetimes and text.

    A row of a database has no `row_hash`, `file` and `occurrence`. `deleted_at` is `_sdc_deleted_at`.
    """

    stream: str
    operation: str
    values: dict[str, Any]
    texts: dict[str, str]
    load_id: int
    sequence: int
    extracted_at: datetime
    deleted_at: datetime | None = None
    row_hash: str | None = None
    file: str | None = None
    occurrence: int | None = None

    @property
    def key(self) -> tuple:
        return tuple(self.values[column] for column in KEYS[self.stream])

    @property
    def is_delete(self) -> bool:
        """A delete, or a row of a database whose `deleted_at` is set."""
        return self.operation == "delete" or (self.operation == "upsert" and self.deletion is not None)

    @property
    def deletion(self) -> datetime | None:
        return self.deleted_at or self.values.get("deleted_at")

    @property
    def version_at(self) -> datetime:
        """The source's own order; a delete counts from when it happened, a row without a time from its extraction."""
        times = [self.values.get(_OWN_TIME.get(self.stream, "updated_at"))]
        if self.is_delete:
            times.append(self.deletion)
        return max((time for time in times if time is not None), default=self.extracted_at)

    @property
    def place(self) -> tuple:
        """Where it stands among the versions of its key; all of a key are of files, or all of a database."""
        if self.row_hash is None:
            return (self.load_id, self.sequence)
        return (self.version_at, self.row_hash, self.load_id)


@dataclass(frozen=True)
class Version:
    """A version that stands: what is known of its key since then."""

    values: dict[str, Any]
    version_at: datetime
    deleted_at: datetime | None


def versions_of_key(rows: Sequence[Received]) -> tuple[list[Version], list[Received]]:
    """The versions of one key in their order, and the rows that stand.

    A key of which nothing stands has one version: its last known content, deleted when it was withdrawn.
    """
    withdrawn: dict[tuple, int] = {}
    for row in rows:
        if row.operation == "withdraw":
            identity = (row.file, row.row_hash, row.occurrence)
            withdrawn[identity] = max(row.load_id, withdrawn.get(identity, 0))
    standing = [
        row
        for row in rows
        if row.operation != "withdraw" and row.load_id > withdrawn.get((row.file, row.row_hash, row.occurrence), -1)
    ]
    if not standing:
        last = max(rows, key=lambda row: row.place)
        gone_at = max(row.deleted_at for row in rows if row.operation == "withdraw")
        return [Version(last.values, last.version_at, gone_at)], []
    standing.sort(key=lambda row: row.place)
    versions, known = [], {}
    for row in standing:
        # A database's delete may bring the key alone.
        has_content = len(row.values) > len(KEYS[row.stream])
        known = row.values if has_content or not known else known
        versions.append(Version(known, row.version_at, row.deletion if row.is_delete else None))
    return versions, standing


def source(rows: Iterable[Received]) -> reading.Source:
    """What the demo shop's truth computes the marts from: of orders, lines, refunds and counts the current
    version alone."""
    of_key: dict[str, dict[tuple, list[Received]]] = {stream: defaultdict(list) for stream in KEYS}
    for row in rows:
        of_key[row.stream][row.key].append(row)
    versions = {stream: [versions_of_key(of_one) for of_one in by_key.values()] for stream, by_key in of_key.items()}
    tables = {}
    for name, stream in reading.STREAMS.items():
        entity = name.partition("-")[2]
        of_keys = [of_one for of_one, _ in versions[name.replace("-", ".")]]
        if entity in ("users", "products"):
            said = [version for of_one in of_keys for version in of_one]
        else:
            said = [of_one[-1] for of_one in of_keys]
        if entity == "stock_levels":
            said = [version for version in said if version.deleted_at is None]
        tables[entity] = _table(said, stream)
    return reading.Source(tables, {}, _deliveries(versions["web.events"]), is_ordered=True)


def _table(said: list[Version], stream: reading.Stream) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for name in stream.columns:
        values = [_value(version, name) for version in said]
        kind = stream.checked.get(name)
        if kind == reading.MOMENT:
            columns[name] = pd.Series(pd.to_datetime(values), dtype="datetime64[us]")
        elif kind == reading.MONEY:
            whole = [None if value is None else int(Decimal(value).scaleb(4)) for value in values]
            columns[name] = pd.Series(whole, dtype="Int64")
        elif kind == reading.INTEGER:
            columns[name] = pd.Series(values, dtype="Int64")
        else:
            columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns)


def _value(version: Version, name: str) -> Any:
    """A value as staging's interface has it: trimmed text, no empty one, defaults where the source says nothing."""
    value = version.values.get(name)
    if name == "updated_at":
        return version.version_at
    if name == "deleted_at":
        return version.deleted_at
    if isinstance(value, str):
        value = value.strip() or None
    if name == "currency" and value:
        value = value.upper()
    missing = {
        "discount": 0,
        "shipping_cost": 0,
        "currency": "EUR",
        "created_at": version.version_at,
    }
    return missing.get(name) if value is None else value


def _deliveries(events: list[tuple[list[Version], list[Received]]]) -> pd.DataFrame:
    """The current content of each event that stands, once for each of its deliveries that stand."""
    rows = []
    for versions, standing in events:
        if versions[-1].deleted_at is None:
            content = versions[-1].values
            content = content | {"event_type": content["event_type"].strip().lower()}
            rows += [content | {"received_at": row.version_at} for row in standing]
    columns = ["event_id", "user_id", "product_id", "event_type", "occurred_at", "received_at"]
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    types = {"user_id": "Int64", "product_id": "Int64"}
    return table.astype(types | dict.fromkeys(("occurred_at", "received_at"), "datetime64[us]"))
