"""What the marts of clicks and stock should hold, click by click and day by day (docs/contracts.md, "Marts")."""

from __future__ import annotations

from collections import defaultdict, deque
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa

TIME_ZONE = ZoneInfo("Europe/Berlin")
UNKNOWN = -1
HOUR = timedelta(hours=1)
TRENDING_CLICKS_MIN = 100
SOLD_DAYS = 28

Click = tuple[datetime, str, int | None, bool]
"""occurred_at, event_id, user_id (None for a stranger), whether it came late."""


def marts(
    events: pd.DataFrame, counts: pd.DataFrame, products: pd.DataFrame, sales: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The marts by name, from the deliveries of events and the counts of stock, dim_products and fact_orders."""
    known = set(products["product_id"]) - {UNKNOWN}
    clicks = clicks_of_products(events, known)
    return {
        "fact_product_clicks": product_clicks(clicks),
        "mart_trending_products": trending_products(clicks),
        "fact_inventory_daily": inventory_daily(counts, products, sales),
    }


def clicks_of_products(events: pd.DataFrame, known: set[int]) -> dict[int, list[Click]]:
    """Each product's clicks in the order (occurred_at, event_id), an event counted once."""
    received: dict[str, list[datetime]] = defaultdict(list)
    content: dict[str, tuple[Any, Any, str, datetime]] = {}
    ordered = events.sort_values("received_at", kind="stable")
    for event, user, product, kind, occurred, at in zip(
        ordered["event_id"],
        ordered["user_id"],
        ordered["product_id"],
        ordered["event_type"],
        _moments(ordered["occurred_at"]),
        _moments(ordered["received_at"]),
        strict=True,
    ):
        received[event].append(at)
        content[event] = (user, product, kind, occurred)
    clicks: dict[int, list[Click]] = defaultdict(list)
    for event, (user, product, kind, occurred) in content.items():
        if kind in ("click", "view") and not pd.isna(product):
            is_late = min(received[event]) - occurred > HOUR
            member = int(product) if int(product) in known else UNKNOWN
            clicks[member].append((occurred, event, None if pd.isna(user) else int(user), is_late))
    return {product: sorted(of_product, key=lambda click: click[:2]) for product, of_product in clicks.items()}


def product_clicks(clicks: dict[int, list[Click]]) -> pd.DataFrame:
    """fact_product_clicks."""
    rows = []
    for product, of_product in clicks.items():
        windows: dict[datetime, list[Click]] = defaultdict(list)
        for click in of_product:
            at = click[0]
            windows[at.replace(minute=at.minute // 5 * 5, second=0, microsecond=0)].append(click)
        for start, inside in windows.items():
            users = {user for _, _, user, _ in inside if user is not None}
            late = sum(is_late for *_, is_late in inside)
            rows.append((product, start, _date_id(_day(start)), len(inside), len(users), late))
    columns = ["product_id", "window_start", "date_id", "clicks", "known_users", "late_clicks"]
    return _table(rows, columns, moments=["window_start"])


def trending_products(clicks: dict[int, list[Click]]) -> pd.DataFrame:
    """mart_trending_products: each product's clicks are gone through with those of the last hour in a queue."""
    latest = max((of_product[-1][0] for of_product in clicks.values()), default=None)
    rows = []
    for product, of_product in clicks.items():
        if product == UNKNOWN:
            continue
        episode: list[tuple[datetime, int]] = []
        for at, count in [*_counts_within_an_hour([click[0] for click in of_product]), (None, 0)]:
            if count >= TRENDING_CLICKS_MIN:
                episode.append((at, count))
            elif episode:
                (start, _), (end, _) = episode[0], episode[-1]
                peak = max(count for _, count in episode)
                peak_at = next(at for at, count in episode if count == peak)
                day = _date_id(_day(start))
                rows.append((product, start, end, day, len(episode), peak, peak_at, latest - end < HOUR))
                episode = []
    columns = ["product_id", "started_at", "ended_at", "date_id", "clicks", "peak_clicks", "peak_at", "is_alert"]
    return _table(rows, columns, moments=["started_at", "ended_at", "peak_at"])


def _counts_within_an_hour(moments: list[datetime]) -> list[tuple[datetime, int]]:
    """Each moment (in order) with how many of them lie less than an hour before it or at it."""
    result, queue, coming = [], deque[datetime](), deque(moments)
    for moment in moments:
        while coming and coming[0] <= moment:
            queue.append(coming.popleft())
        while moment - queue[0] >= HOUR:
            queue.popleft()
        result.append((moment, len(queue)))
    return result


def inventory_daily(counts: pd.DataFrame, products: pd.DataFrame, sales: pd.DataFrame) -> pd.DataFrame:
    """fact_inventory_daily; a repeated count is one, and two counts of a product at one moment raise ValueError."""
    counts = counts.drop_duplicates()
    if counts.duplicated(["product_id", "recorded_at"]).any():
        raise ValueError("two counts of a product at one moment differ")
    by_day: dict[int, dict[date, tuple[datetime, int]]] = defaultdict(dict)
    ordered = counts.sort_values("recorded_at")
    for product, at, quantity in zip(
        ordered["product_id"], _moments(ordered["recorded_at"]), ordered["quantity_on_hand"], strict=True
    ):
        by_day[int(product)][_day(at)] = (at, int(quantity))
    sold: dict[tuple[int, int], int] = defaultdict(int)
    for product, day, status, quantity in zip(
        sales["product_id"], sales["date_id"], sales["status"], sales["quantity"], strict=True
    ):
        if status != "cancelled":
            sold[int(product), int(day)] += int(quantity)
    last = max((day for days in by_day.values() for day in days), default=None)
    rows = []
    for product, deleted in zip(products["product_id"], products["deleted_at"], strict=True):
        if product == UNKNOWN or int(product) not in by_day:
            continue
        counted = by_day[int(product)]
        end = last if pd.isna(deleted) else min(last, _day(deleted.to_pydatetime()))
        day, known = min(counted), None
        while day <= end:
            known = counted.get(day, known)
            back = (sold.get((int(product), _date_id(day - timedelta(days=n))), 0) for n in range(SOLD_DAYS))
            of_28_days = sum(back)
            of_day = sold.get((int(product), _date_id(day)), 0)
            rows.append(
                (
                    *(int(product), _date_id(day), known[1], known[0], day in counted, of_day, of_28_days),
                    *(_half_up(max(known[1], 0) * SOLD_DAYS, of_28_days), known[1] <= 0),
                )
            )
            day += timedelta(days=1)
    columns = ["product_id", "date_id", "quantity_on_hand", "counted_at", "is_counted", "units_sold"]
    columns += ["units_sold_28_days", "days_of_stock", "is_out_of_stock"]
    table = _table(rows, columns, moments=["counted_at"])
    ratio = pd.ArrowDtype(pa.decimal128(18, 6))
    return table.assign(days_of_stock=table["days_of_stock"].astype(object).astype(ratio))


def _half_up(dividend: int, divisor: int) -> Decimal | None:
    """The quotient with six places, a half rounded up; None of no divisor."""
    if divisor <= 0:
        return None
    return Decimal((2 * dividend * 10**6 + divisor) // (2 * divisor)).scaleb(-6)


def _moments(column: pd.Series) -> list[datetime]:
    """Naive UTC moments with their microseconds."""
    return [moment.to_pydatetime() for moment in column]


def _day(moment: datetime) -> date:
    """The shop's day of a naive UTC moment."""
    return moment.replace(tzinfo=ZoneInfo("UTC")).astimezone(TIME_ZONE).date()


def _date_id(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _table(rows: list[tuple], columns: list[str], moments: list[str]) -> pd.DataFrame:
    """Rows in the order of their key, the first two columns."""
    table = pd.DataFrame(rows, columns=columns)
    if not rows:
        table = table.astype(dict.fromkeys(columns, "int64"))
    table = table.astype(dict.fromkeys(moments, "datetime64[us]"))
    return table.sort_values(columns[:2], ignore_index=True)
