"""The shop's source files as pandas tables, for the truth: read by plain Python, with no code of the warehouse."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ingestion.demo_shop.postgres import TABLES, OrderDatabase
from ingestion.errors import UserError

INTEGER, MONEY, MOMENT = "integer", "money", "moment"


@dataclass(frozen=True)
class Stream:
    """What a record of a stream must be, not to be quarantined: `keys` present, `checked` columns readable."""

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    checked: dict[str, str] = field(default_factory=dict)


_VERSION = {"updated_at": MOMENT, "deleted_at": MOMENT}
STREAMS = {
    "shop-orders": Stream(
        ("order_id",),
        ("order_id", "user_id", "status", "ordered_at", "cancelled_at", "shipping_cost", "currency", *_VERSION),
        {
            "order_id": INTEGER,
            "user_id": INTEGER,
            "ordered_at": MOMENT,
            "cancelled_at": MOMENT,
            "shipping_cost": MONEY,
            **_VERSION,
        },
    ),
    "shop-order_items": Stream(
        ("order_line_id",),
        (
            *("order_line_id", "order_id", "product_id", "quantity", "unit_price", "discount", "created_at"),
            *_VERSION,
        ),
        {
            "order_line_id": INTEGER,
            "order_id": INTEGER,
            "product_id": INTEGER,
            "quantity": INTEGER,
            "unit_price": MONEY,
            "discount": MONEY,
            "created_at": MOMENT,
            **_VERSION,
        },
    ),
    "shop-refunds": Stream(
        ("refund_id",),
        ("refund_id", "order_line_id", "order_id", "amount", "reason", "refunded_at", *_VERSION),
        {
            "refund_id": INTEGER,
            "order_line_id": INTEGER,
            "order_id": INTEGER,
            "amount": MONEY,
            "refunded_at": MOMENT,
            **_VERSION,
        },
    ),
    "crm-users": Stream(
        ("user_id",),
        ("user_id", "name", "email", "phone", "age", "country", "registered_at", *_VERSION),
        {"user_id": INTEGER, "registered_at": MOMENT, **_VERSION},
    ),
    "catalog-products": Stream(
        ("product_id",),
        ("product_id", "name", "category", "price", *_VERSION),
        {"product_id": INTEGER, "price": MONEY, **_VERSION},
    ),
    "stock-stock_levels": Stream(
        ("product_id", "recorded_at"),
        ("product_id", "quantity_on_hand", "recorded_at"),
        {"product_id": INTEGER, "quantity_on_hand": INTEGER, "recorded_at": MOMENT},
    ),
}
"""The text streams; events are Parquet and carry no broken records."""

# (pattern, pandas format or the unit of an epoch); every moment is UTC unless it says otherwise.
_DAY, _TIME = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}:\d{2}"
_MOMENTS = (
    (rf"{_DAY}[ T]{_TIME}(?:\.\d{{1,6}})?(?:Z|[+-]\d{{2}}:\d{{2}})?", "ISO8601"),
    (_DAY, "%Y-%m-%d"),
    (r"\d{2}/\d{2}/\d{4} \d{2}:\d{2}", "%d/%m/%Y %H:%M"),
    (rf"\d{{2}}/\d{{2}}/\d{{4}} {_TIME}", "%d/%m/%Y %H:%M:%S"),
    (r"\d{4}/\d{2}/\d{2} \d{2}:\d{2}", "%Y/%m/%d %H:%M"),
    (rf"\d{{4}}/\d{{2}}/\d{{2}} {_TIME}", "%Y/%m/%d %H:%M:%S"),
    (r"[A-Z][a-z]{2} \d{2}, \d{4} \d{2}:\d{2}", "%b %d, %Y %H:%M"),
    (rf"[A-Z][a-z]{{2}} \d{{2}}, \d{{4}} {_TIME}", "%b %d, %Y %H:%M:%S"),
    (r"\d{10}", "s"),
    (r"\d{13}", "ms"),
)


def moments(text: pd.Series) -> pd.Series:
    """Moments in any of the documented notations as naive UTC datetime64[us]; NaT for null and for anything else."""
    codes, distinct = pd.factorize(text)
    known = pd.Series(distinct, dtype=object)
    result = pd.Series(pd.NaT, index=known.index, dtype="datetime64[us, UTC]")
    for pattern, form in _MOMENTS:
        chosen = known[known.str.fullmatch(pattern).eq(True)]
        if chosen.empty:
            continue
        if form in ("s", "ms"):
            parsed = pd.to_datetime(chosen.astype("int64"), unit=form, utc=True)
        else:
            parsed = pd.to_datetime(chosen, format=form, utc=True, errors="coerce")
        result[chosen.index] = parsed.astype("datetime64[us, UTC]")
    return pd.Series(result.dt.tz_localize(None).array.take(codes, allow_fill=True), index=text.index)


def money(text: pd.Series) -> pd.Series:
    """Decimal text as ten-thousandths (Int64); null stays null."""
    codes, distinct = pd.factorize(text)
    whole, fraction = [], []
    for value in distinct:
        sign = -1 if value.startswith("-") else 1
        units, _, decimals = value.lstrip("+-").partition(".")
        whole.append(sign * int(units or 0) * 10_000)
        fraction.append(sign * int(decimals.ljust(4, "0") or 0))
    ten_thousandths = pd.Series(whole, dtype="Int64") + pd.Series(fraction, dtype="Int64")
    return pd.Series(ten_thousandths.array.take(codes, allow_fill=True), index=text.index)


@dataclass(frozen=True)
class Source:
    """The good records per entity (`orders`), one row per version; the broken ones per stream (`shop-orders`).

    Money is in ten-thousandths (Int64), moments are naive UTC, ids Int64, all else text or null. A broken record is
    {"source_file", "line_number", "reason"}. `events` has one row per delivery: event_id as text, user_id (null for a
    stranger) and product_id Int64, event_type, occurred_at and received_at datetime64[us].

    `is_ordered`: each key's versions stand in their order already, with `updated_at` as the time from which they count;
    they may then share a time, or step back in it.
    """

    tables: dict[str, pd.DataFrame]
    quarantine: dict[str, list[dict[str, Any]]]
    events: pd.DataFrame
    is_ordered: bool = False


def read(source: Path, database: OrderDatabase | None = None) -> Source:
    """Read all files of a demo shop below `source`, and its order database. Raises UserError when there are none.

    A database has one version of each key, the current one, and no broken records.
    """
    tables, quarantine = {}, {}
    for name, stream in STREAMS.items():
        entity = name.partition("-")[2]
        in_database = database if entity in TABLES else None
        tables[entity], quarantine[name] = _read_stream(_texts(source, entity, in_database), stream)
    if all(table.empty for table in tables.values()):
        raise UserError(f"{source} holds no files of the demo shop: run `demo-shop init` first, or name the folder")
    return Source(tables, quarantine | {"web-events": []}, _read_events(source))


def _read_events(source: Path) -> pd.DataFrame:
    """All deliveries of events, of files in the order of their names."""
    columns = ("event_id", "user_id", "product_id", "event_type", "occurred_at", "received_at")
    files = [pq.read_table(path, columns=list(columns)) for path in sorted((source / "events").glob("*.parquet"))]
    rows = pa.concat_tables(files).to_pydict() if files else {name: [] for name in columns}
    return pd.DataFrame(
        {
            "event_id": pd.Series([str(value) for value in rows["event_id"]], dtype=object),
            "user_id": pd.Series(rows["user_id"], dtype="Int64"),
            "product_id": pd.Series(rows["product_id"], dtype="Int64"),
            "event_type": pd.Series(rows["event_type"], dtype=object),
            "occurred_at": _naive(rows["occurred_at"]),
            "received_at": _naive(rows["received_at"]),
        }
    )


def _naive(moments_of_utc: list[datetime]) -> pd.Series:
    return pd.Series(pd.to_datetime(moments_of_utc, utc=True)).dt.tz_localize(None).astype("datetime64[us]")


def _texts(source: Path, entity: str, database: OrderDatabase | None) -> Iterator[tuple[str, str]]:
    """The name and text of each file of an entity; a table of a database is one CSV file."""
    if database:
        yield f"{entity}.csv", database.read(entity)
    else:
        for path in sorted((source / entity).glob("*")):
            yield path.relative_to(source).as_posix(), _text(path)


def _read_stream(texts: Iterable[tuple[str, str]], stream: Stream) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    rows: list[list[str | None]] = []
    places: list[tuple[str, int]] = []
    broken: list[dict[str, Any]] = []
    for label, text in texts:
        records = _csv_records if ".csv" in label else _json_records
        for number, (record, reason) in enumerate(records(text, stream.columns), 1):
            if record is None:
                broken.append({"source_file": label, "line_number": number, "reason": reason})
            else:
                rows.append(record)
                places.append((label, number))
    table = pd.DataFrame(rows, columns=list(stream.columns), dtype=object)
    reason = pd.Series("", index=table.index)
    typed = table.copy()
    for column in stream.columns:
        kind = stream.checked.get(column)
        if kind is None:
            continue
        typed[column], readable = _typed(table[column], kind)
        reason[~readable & (reason == "")] = f"{column} is no {kind}"
    for key in stream.keys:
        reason[table[key].isna()] = f"{key} is missing"
    broken += [
        {"source_file": places[row][0], "line_number": places[row][1], "reason": reason[row]}
        for row in table.index[reason != ""]
    ]
    broken.sort(key=lambda record: (record["source_file"], record["line_number"]))
    return typed[reason == ""].reset_index(drop=True), broken


def _typed(text: pd.Series, kind: str) -> tuple[pd.Series, pd.Series]:
    """The typed column, and where the text is null or readable."""
    if kind == MOMENT:
        values = moments(text)
        return values, text.isna() | values.notna()
    pattern = r"-?\d+" if kind == INTEGER else r"-?\d+(\.\d{1,4})?"
    readable = text.isna() | text.str.fullmatch(pattern).eq(True)
    good = text.where(readable)
    return (money(good) if kind == MONEY else good.astype("Int64")), readable


def _text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = pa.CompressedInputStream(pa.py_buffer(data), "zstd").read()
    return data.decode("utf-8")


def _csv_records(text: str, columns: tuple[str, ...]) -> Iterator[tuple[list[str | None] | None, str]]:
    lines = csv.reader(io.StringIO(text, newline=""))
    header = next(lines)
    if header != list(columns):
        raise UserError(f"a file of the demo shop has the columns {', '.join(header)}, not {', '.join(columns)}")
    for fields in lines:
        if len(fields) == len(columns):
            yield [value or None for value in fields], ""
        else:
            yield None, f"{len(fields)} fields instead of {len(columns)}"


def _json_records(text: str, columns: tuple[str, ...]) -> Iterator[tuple[list[str | None] | None, str]]:
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            yield None, "no JSON"
            continue
        yield [None if record.get(name) is None else str(record[name]) for name in columns], ""
