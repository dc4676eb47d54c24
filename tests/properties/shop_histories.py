"""Random histories of a small shop, as raw may receive them: hypothesis draws them, row by row.

A history is some dozen rows over so few keys that they collide: new versions of any age, deletes, withdrawals of rows
of a file, rows that are repeated, all in any order over the loads. Its ids are its own, counted from 1; `received`
gives each of many histories a range of ids, and splits all of them into the same loads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from tests.integration.dbt_warehouse import STREAMS
from tests.oracles.demo_shop_raw import KEYS, Received

IDS_OF_A_HISTORY = 1000
TWELFTHS = 12
"""A row says in which twelfth of the loads it comes, so that a history fits any number of loads."""

ID_COLUMNS = {"order_id", "order_line_id", "refund_id", "user_id", "product_id", "event_id"}
EXTRACTED_AT = datetime(2026, 1, 1)


@dataclass(frozen=True)
class Cell:
    """A value and how the source writes it; of an id, only what stands around it."""

    value: Any
    text: str


@dataclass(frozen=True)
class Row:
    """One row of a history: `file` is None for a row of a database."""

    stream: str
    operation: str
    cells: dict[str, Cell]
    twelfth: int
    file: str | None
    occurrence: int
    deleted_at: datetime | None = None


History = list[Row]

# What the sources say

# Midnights of the shop around a change of the clock, a month's end and a year's; few, so that times are often equal.
MOMENTS = [
    datetime(2024, 3, 15, 12),
    datetime(2023, 12, 31, 22, 59),
    datetime(2023, 12, 31, 23),
    datetime(2024, 1, 1),
    datetime(2024, 1, 31, 23),
    datetime(2024, 2, 29, 10),
    datetime(2024, 3, 30, 23),
    datetime(2024, 3, 31, 0, 59),
    datetime(2024, 3, 31, 1),
    datetime(2024, 3, 31, 21, 59, 59, 999999),
    datetime(2024, 3, 31, 22),
]
#: The edges of windows of five minutes and of the hour in which clicks count as trending.
CLICKS_AFTER = [
    timedelta(0),
    timedelta(minutes=4, seconds=59, microseconds=999999),
    timedelta(minutes=5),
    timedelta(minutes=59, seconds=59, microseconds=999999),
    timedelta(minutes=60),
    timedelta(minutes=61),
    timedelta(hours=9),
]
DELAYS = [timedelta(0), timedelta(hours=1), timedelta(hours=1, microseconds=1), timedelta(days=2)]
TO_THE_MINUTE = ["%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%b %d, %Y %H:%M"]
TO_THE_MICROSECOND = ["%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f+00:00"]


def written(moment: datetime, style: int) -> str:
    """A moment in one of the formats of docs/contracts.md, "Staging interface", that lose nothing of it."""
    forms = list(TO_THE_MICROSECOND)
    if not moment.second and not moment.microsecond:
        forms += ["%Y-%m-%dT%H:%M:%SZ", *TO_THE_MINUTE, "%b %d, %Y %H:%M:%S", "epoch", "epoch ms", "+05:30"]
    if moment.time() == datetime.min.time():
        forms.append("%Y-%m-%d")
    form = forms[style % len(forms)]
    epoch = int(moment.replace(tzinfo=UTC).timestamp())
    if form == "+05:30":
        return (moment + timedelta(hours=5, minutes=30)).strftime("%Y-%m-%dT%H:%M:%S+05:30")
    return {"epoch": str(epoch), "epoch ms": f"{epoch}000"}.get(form) or moment.strftime(form)


def at(moments: st.SearchStrategy[datetime]) -> st.SearchStrategy[Cell]:
    return st.builds(lambda moment, style: Cell(moment, written(moment, style)), moments, st.integers(0, 13))


def said(*texts: str | None) -> st.SearchStrategy[Cell | None]:
    """Text as it is; None and an empty text are nothing."""
    return st.sampled_from([None if text is None else Cell(text, text) for text in texts])


def number(*texts: str | None) -> st.SearchStrategy[Cell | None]:
    return st.sampled_from([None if text is None else Cell(Decimal(text) if text else None, text) for text in texts])


def whole(*values: int) -> st.SearchStrategy[Cell]:
    return st.sampled_from([Cell(value, str(value)) for value in values])


def own_id(last: int) -> st.SearchStrategy[Cell]:
    """An id from 1 to `last`, sometimes with blanks around it."""
    return st.sampled_from([*[Cell(value, "{}") for value in range(1, last + 1)], Cell(1, " {} ")])


def named_id(last: int) -> st.SearchStrategy[Cell | None]:
    """An id from 1 to `last`, most often 1; sometimes one more, which no row has, or none."""
    known = [Cell(value, "{}") for value in range(1, last + 1)]
    # Hypothesis draws the first and the last most.
    return st.sampled_from([known[0], *known * 2, Cell(last + 1, "{} "), None, *known, known[0]])


moment = st.sampled_from(MOMENTS)
any_time = at(moment)
version = {"updated_at": any_time}
status = said("completed", "paid", "cancelled", " VOID", "PENDING", "open", " Shipped ", "Delivered")
occurred = st.builds(
    lambda start, after: start + after,
    st.sampled_from([MOMENTS[1], MOMENTS[6], MOMENTS[1]]),
    st.sampled_from(CLICKS_AFTER),
)


def delivered(event: dict[str, Cell | None], delay: timedelta, style: int) -> dict[str, Cell | None]:
    """A delivery of an event, so long after it."""
    received_at = event["occurred_at"].value + delay
    return event | {"received_at": Cell(received_at, written(received_at, style))}


#: Two users, three products and orders, eight lines; where a row may name one more, nobody knows it.
SAYS: dict[str, st.SearchStrategy[dict[str, Cell | None]]] = {
    "shop.orders": st.fixed_dictionaries(
        {
            "order_id": own_id(3),
            "user_id": named_id(2),
            "status": status,
            "ordered_at": any_time,
            "cancelled_at": st.none() | any_time,
            "shipping_cost": number("0", "5.00", "0.07", "", None, "1e1", "0.01"),
            "currency": said("EUR", " eur ", None),
        }
        | version
    ),
    "shop.order_items": st.fixed_dictionaries(
        {
            "order_line_id": own_id(8),
            "order_id": named_id(3),
            "product_id": named_id(3),
            "quantity": whole(1, 2, 3, 0, -1, 2, 3, 1),
            "unit_price": number("10.00", "3.33", "0", "0.0001", "-2.50", " 7 ", "1e1", "20"),
            "discount": number("0", "0", "0.50", "12", "", "0.01", "", None),
            "created_at": st.none() | any_time,
        }
        | version
    ),
    "shop.refunds": st.fixed_dictionaries(
        {
            "refund_id": own_id(3),
            "order_line_id": named_id(8),
            "order_id": named_id(3),
            "amount": number("4.00", "10", "0.01", "99.9"),
            "reason": said("broken", "", None),
            "refunded_at": any_time,
        }
        | version
    ),
    "crm.users": st.fixed_dictionaries(
        {
            "user_id": own_id(2),
            "name": said("Anna", " Zoë ", "", None),
            "email": said("a@example.com", " B.C@Example.ORG ", "nobody", None),
            "phone": said("+49 (30) 12", "none", None),
            "age": said("1", "18", "30", "31", "77", "100", "101", "0", "-5", "34.5", "old", "", None),
            "country": said("Germany", " Österreich ", "", None),
            "registered_at": any_time,
        }
        | version
    ),
    "catalog.products": st.fixed_dictionaries(
        {
            "product_id": own_id(3),
            "name": said("Ball", " Hut "),
            "category": said("Toys", " Sports", "", None),
            "price": number("10.00", "11", "0.99", None),
        }
        | version
    ),
    "web.events": st.builds(
        delivered,
        st.fixed_dictionaries(
            {
                "event_id": own_id(20),
                "user_id": named_id(2),
                "product_id": named_id(3),
                "event_type": said("click", "view", " Click ", "purchase", "add_to_cart"),
                "occurred_at": at(occurred),
            }
        ),
        st.sampled_from(DELAYS),
        st.integers(0, 13),
    ),
    "stock.stock_levels": st.fixed_dictionaries(
        {"product_id": own_id(4), "quantity_on_hand": whole(5, 100, 0, -2), "recorded_at": any_time}
    ),
}
TURNS = st.sampled_from(
    [stream for stream, turns in zip(SAYS, (6, 12, 4, 3, 4, 9, 2), strict=True) for _ in range(turns)]
)
FATES = st.sampled_from(["new"] * 5 + ["delete", "withdraw", "withdraw", "repeat"] + ["new"] * 5)
twelfth = st.integers(0, TWELFTHS - 1)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """One history. Orders, lines and refunds are of files, or of a database: never of both, for one key."""
    # The first that is drawn never equals that of hypothesis's first example, so it is no boolean.
    of_database = draw(st.integers(0, 999)) % 2 == 1
    rows: History = []
    for _ in range(draw(st.integers(40, 80))):
        stream, fate = draw(TURNS), draw(FATES)
        is_of_database = of_database and stream.startswith("shop.")
        earlier = [row for row in rows if row.stream == stream and row.operation != "withdraw"]
        if fate in ("withdraw", "repeat") and earlier:
            again = replace(draw(st.sampled_from(earlier)), twelfth=draw(twelfth))
            if fate == "withdraw" and not is_of_database:
                again = replace(again, operation="withdraw", deleted_at=EXTRACTED_AT)
            rows.append(again)
            continue
        cells = {name: cell for name, cell in draw(SAYS[stream]).items() if cell is not None}
        operation, deleted_at = "upsert", None
        if is_of_database and draw(st.integers(0, 5)) == 0:
            cells.pop("updated_at")
        if fate == "delete" and stream not in ("web.events", "stock.stock_levels"):
            gone = draw(any_time)
            # A file's soft delete is a delete for the tap; a database's is a version, or a delete of its log.
            is_soft = not is_of_database or draw(st.booleans())
            if is_soft:
                cells["deleted_at"] = gone
            if not is_soft and draw(st.booleans()):
                cells = {name: cells[name] for name in KEYS[stream]}
            if not (is_of_database and is_soft):
                operation, deleted_at = "delete", gone.value
        file = None if is_of_database else draw(st.sampled_from(["one.csv", "two.csv"]))
        rows.append(Row(stream, operation, cells, draw(twelfth), file, draw(st.sampled_from([1, 1, 2])), deleted_at))
    return rows


# From histories to raw


def received(all_histories: Sequence[History], rounds: int, late: Container[tuple[int, str]]) -> list[list[Received]]:
    """The rows of raw by round, in each of which a stream has at most one load.

    Those of `late` (round, stream) got their ids before the round before was loaded.
    """
    result: list[list[Received]] = [[] for _ in range(rounds)]
    seen: set[tuple] = set()
    for place, history in enumerate(all_histories, start=1):
        for row in history:
            turn = row.twelfth * rounds // TWELFTHS
            load_id = 100 * turn + list(STREAMS).index(row.stream) + (10 if (turn, row.stream) in late else 150)
            one = _received(row, place * IDS_OF_A_HISTORY, load_id, len(result[turn]) + 1, turn)
            # A load does not have a row of a file twice, nor does it both bring and withdraw it.
            identity = (turn, one.stream, one.file, one.row_hash, one.occurrence)
            if row.file is None or identity not in seen:
                seen.add(identity)
                result[turn].append(one)
    return result


def _received(row: Row, first_id: int, load_id: int, sequence: int, turn: int) -> Received:
    values, texts = {}, {}
    for name, cell in row.cells.items():
        is_id = name in ID_COLUMNS
        value = first_id + cell.value if is_id else cell.value
        texts[name] = cell.text.format(value) if is_id else cell.text
        values[name] = str(value) if name == "event_id" else value
    content = repr(sorted(texts.items()))
    of_file = {
        "row_hash": hashlib.md5(content.encode(), usedforsecurity=False).hexdigest(),
        "file": f"{row.stream}/{row.file}",
        "occurrence": row.occurrence,
    }
    extracted_at = EXTRACTED_AT + timedelta(days=turn)
    return Received(
        row.stream,
        row.operation,
        values,
        texts,
        load_id,
        sequence,
        extracted_at,
        extracted_at if row.operation == "withdraw" else row.deleted_at,
        **(of_file if row.file else {}),
    )
