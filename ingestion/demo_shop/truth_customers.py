"""What the marts about customers should hold: KPIs, customers, cohorts, recommendations (docs/contracts.md, "Marts").

Plain Python over the truth's own facts: sets of people, sorted lists and counters, where the warehouse has windows and
joins. Money is in ten-thousandths, ratios in millionths; both whole numbers (Int64, null where there is none).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from itertools import combinations
from typing import Any

import pandas as pd
import pyarrow as pa

MILLION = 1_000_000
BASKET_PRODUCTS_MAX = 100
RECOMMENDATION_ORDERS_MIN = 5
RECOMMENDATIONS_PER_PRODUCT = 10

_DATE = pd.ArrowDtype(pa.date32())
_NO_DAY = date(1970, 1, 1)


@dataclass
class Purchase:
    """An order that is not cancelled, of a known user or of nobody (None)."""

    user: Any
    day: date
    moment: datetime
    products: set
    units: int = 0
    amount: int = 0


def marts(
    sales: pd.DataFrame,
    refunds: pd.DataFrame,
    adjustments: pd.DataFrame,
    events: pd.DataFrame | None,
    users: set,
    unknown: Any,
) -> dict[str, pd.DataFrame]:
    """The four marts by name, each by its key.

    The facts are as in the contract, with money in ten-thousandths; `events` has one row per event with user_id and
    date_id (None: the shop has no events); `users` are the known ones; `unknown` is the unknown member's id.
    """
    bought = list(_purchases(sales, unknown).values())
    money = _money_by_day(sales, refunds, adjustments)
    last_day = max(money, default=None)
    customers = _customers(bought, sales, refunds, last_day, unknown)
    return {
        "mart_kpis": _kpis(bought, money, events, users, last_day),
        "mart_customers": customers,
        "mart_cohort_retention": _retention(bought, last_day),
        "mart_product_recommendations": _recommendations(bought),
    }


def half_up(dividend: int, divisor: int, scale: int = 1) -> int | None:
    """scale x dividend / divisor as a whole number, a half rounded up; None where the divisor is 0."""
    return math.floor(Fraction(scale * dividend, divisor) + Fraction(1, 2)) if divisor else None


def segment(recency: int, frequency: int) -> str:
    """The RFM segment of two scores."""
    if recency <= 2:
        names = ["Hibernating", "Hibernating", "At Risk", "At Risk", "Cannot Lose"]
    elif recency == 3:
        names = ["About to Sleep", "About to Sleep", "Need Attention", "Loyal", "Loyal"]
    elif recency == 4:
        names = ["Promising", "Potential Loyal", "Potential Loyal", "Loyal", "Loyal"]
    else:
        names = ["New", "Potential Loyal", "Potential Loyal", "Champions", "Champions"]
    return names[frequency - 1]


def _day(date_id: int) -> date:
    return date(date_id // 10_000, date_id // 100 % 100, date_id % 100)


def _month(day: date) -> date:
    return day.replace(day=1)


def _months(first: date, last: date) -> Iterator[date]:
    """The first days of all months from one month's first day to the month of a later day."""
    month = first
    while month <= last:
        yield month
        month = _month(month + timedelta(days=31))


def _rows(table: pd.DataFrame, *columns: str) -> Iterator[tuple]:
    return zip(*(table[column].tolist() for column in columns), strict=True)


def _purchases(sales: pd.DataFrame, unknown: Any) -> dict[Any, Purchase]:
    found: dict[Any, Purchase] = {}
    kept = sales[sales["status"] != "cancelled"]
    columns = ("order_id", "user_id", "date_id", "ordered_at", "product_id", "quantity", "amount")
    for order, user, date_id, moment, product, units, amount in _rows(kept, *columns):
        known = None if user == unknown else user
        purchase = found.setdefault(order, Purchase(known, _day(date_id), moment, set()))
        purchase.units += units
        purchase.amount += amount
        if product != unknown:
            purchase.products.add(product)
    return found


def _money_by_day(sales: pd.DataFrame, refunds: pd.DataFrame, adjustments: pd.DataFrame) -> dict[date, tuple[int, int]]:
    """Sales and revenue of each day that has any."""
    sold: Counter[date] = Counter()
    revenue: Counter[date] = Counter()
    for date_id, amount, shipping in _rows(sales, "date_id", "amount", "shipping_cost"):
        sold[_day(date_id)] += amount
        revenue[_day(date_id)] += amount + shipping
    for date_id, amount, shipping in _rows(refunds, "date_id", "amount", "shipping_amount"):
        revenue[_day(date_id)] -= amount + shipping
    for date_id, amount in _rows(adjustments, "date_id", "amount"):
        revenue[_day(date_id)] += amount
    return {day: (sold[day], revenue[day]) for day in revenue}


def _kpis(
    bought: list[Purchase],
    money: dict[date, tuple[int, int]],
    events: pd.DataFrame | None,
    users: set,
    last_day: date | None,
) -> pd.DataFrame:
    seen: dict[date, set] = defaultdict(set)
    if events is not None:
        for user, date_id in _rows(events, "user_id", "date_id"):
            # A stranger's event makes the day one of the calendar, too.
            seen[_day(date_id)] |= {user} & users
    purchases: dict[date, list[Purchase]] = defaultdict(list)
    for purchase in bought:
        purchases[purchase.day].append(purchase)
    used = [*money, *seen]
    rows = []
    for grain, start, days in _periods(min(used), max(used)) if used else ():
        of_period = [purchase for day in days for purchase in purchases.get(day, ())]
        visitors = set().union(*(seen.get(day, ()) for day in days))
        buyers = {purchase.user for purchase in of_period} - {None}
        rows.append(
            {
                "grain": grain,
                "period_start": start,
                "period_end": days[-1],
                "is_complete": last_day is not None and days[-1] <= last_day,
                "sales": sum(money.get(day, (0, 0))[0] for day in days),
                "revenue": sum(money.get(day, (0, 0))[1] for day in days),
                "orders_count": len(of_period),
                "average_order_value": half_up(sum(purchase.amount for purchase in of_period), len(of_period)),
                "buyers": len(buyers),
                "visitors": None if events is None else len(visitors),
                "active_users": len(visitors | buyers),
                "conversion_rate": half_up(len(buyers & visitors), len(visitors), MILLION),
            }
        )
    return _table(rows, ["grain", "period_start"], dates=["period_start", "period_end"])


def _periods(first: date, last: date) -> Iterator[tuple[str, date, list[date]]]:
    """Every period that has a day from first to last, with all of its days."""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    for day in days:
        yield "day", day, [day]
    for monday in sorted({day - timedelta(days=day.isoweekday() - 1) for day in days}):
        yield "week", monday, [monday + timedelta(days=number) for number in range(7)]
    for month in _months(_month(first), last):
        end = _month(month + timedelta(days=31))
        yield "month", month, [month + timedelta(days=number) for number in range((end - month).days)]


def _customers(
    bought: list[Purchase], sales: pd.DataFrame, refunds: pd.DataFrame, last_day: date | None, unknown: Any
) -> pd.DataFrame:
    value: Counter[Any] = Counter()
    for user, amount, shipping in _rows(sales, "user_id", "amount", "shipping_cost"):
        value[user] += amount + shipping
    for user, amount, shipping in _rows(refunds, "user_id", "amount", "shipping_amount"):
        value[user] -= amount + shipping
    of_user: dict[Any, list[Purchase]] = defaultdict(list)
    for purchase in bought:
        if purchase.user is not None:
            of_user[purchase.user].append(purchase)

    latest = {user: max(purchase.day for purchase in theirs) for user, theirs in of_user.items()}
    recency = _scores(latest)
    frequency = _scores({user: len(theirs) for user, theirs in of_user.items()})
    monetary = _scores({user: value[user] for user in of_user})
    rows = [
        {
            "user_id": user,
            "first_order_at": min(purchase.moment for purchase in theirs),
            "last_order_at": max(purchase.moment for purchase in theirs),
            "orders_count": len(theirs),
            "units_bought": sum(purchase.units for purchase in theirs),
            "sales": sum(purchase.amount for purchase in theirs),
            "lifetime_value": value[user],
            "average_order_value": half_up(sum(purchase.amount for purchase in theirs), len(theirs)),
            "days_since_last_order": ((last_day or _NO_DAY) - latest[user]).days,
            "recency_score": recency[user],
            "frequency_score": frequency[user],
            "monetary_score": monetary[user],
            "rfm_segment": segment(recency[user], frequency[user]),
            "cohort_month": _month(min(purchase.day for purchase in theirs)),
        }
        for user, theirs in of_user.items()
    ]
    return _table(rows, ["user_id"], dates=["cohort_month"])


def _scores(measure: dict[Any, Any]) -> dict[Any, int]:
    """1 to 5 for each key: the share of keys with a smaller measure, in fifths."""
    ordered = sorted(measure.values())
    return {key: 1 + 5 * bisect_left(ordered, value) // len(ordered) for key, value in measure.items()}


def _retention(bought: list[Purchase], last_day: date | None) -> pd.DataFrame:
    first: dict[Any, date] = {}
    for purchase in bought:
        if purchase.user is not None:
            first[purchase.user] = min(first.get(purchase.user, purchase.day), purchase.day)
    size = Counter(_month(day) for day in first.values())
    active: dict[tuple[date, date], set] = defaultdict(set)
    spent: Counter[tuple[date, date]] = Counter()
    for purchase in bought:
        if purchase.user is not None:
            cell = (_month(first[purchase.user]), _month(purchase.day))
            active[cell].add(purchase.user)
            spent[cell] += purchase.amount
    rows = [
        {
            "cohort_month": cohort,
            "months_since": number,
            "cohort_size": customers,
            "active_customers": len(active[cohort, month]),
            "retention_rate": half_up(len(active[cohort, month]), customers, MILLION),
            "sales": spent[cohort, month],
        }
        for cohort, customers in size.items()
        for number, month in enumerate(_months(cohort, last_day or _NO_DAY))
    ]
    return _table(rows, ["cohort_month", "months_since"], dates=["cohort_month"])


def _recommendations(bought: list[Purchase]) -> pd.DataFrame:
    baskets = [sorted(purchase.products) for purchase in bought if 1 <= len(purchase.products) <= BASKET_PRODUCTS_MAX]
    orders_of = Counter(product for basket in baskets for product in basket)
    together = Counter(pair for basket in baskets for pair in combinations(basket, 2))
    found: dict[Any, list[tuple]] = defaultdict(list)
    for (one, two), count in together.items():
        if count >= RECOMMENDATION_ORDERS_MIN:
            lift = half_up(count * len(baskets), orders_of[one] * orders_of[two], MILLION)
            found[one].append((-lift, -count, two))
            found[two].append((-lift, -count, one))
    rows = [
        {
            "product_id": product,
            "rank": rank,
            "recommended_product_id": other,
            "orders_together": -count,
            "product_orders": orders_of[product],
            "recommended_orders": orders_of[other],
            "total_orders": len(baskets),
            "support": half_up(-count, len(baskets), MILLION),
            "confidence": half_up(-count, orders_of[product], MILLION),
            "lift": -lift,
        }
        for product, others in found.items()
        for rank, (lift, count, other) in enumerate(sorted(others)[:RECOMMENDATIONS_PER_PRODUCT], 1)
    ]
    return _table(rows, ["product_id", "rank"])


_COLUMNS = {
    "grain": (
        "grain period_start period_end is_complete sales revenue orders_count average_order_value buyers visitors "
        "active_users conversion_rate"
    ),
    "user_id": (
        "user_id first_order_at last_order_at orders_count units_bought sales lifetime_value average_order_value "
        "days_since_last_order recency_score frequency_score monetary_score rfm_segment cohort_month"
    ),
    "cohort_month": "cohort_month months_since cohort_size active_customers retention_rate sales",
    "product_id": (
        "product_id rank recommended_product_id orders_together product_orders recommended_orders total_orders "
        "support confidence lift"
    ),
}
"""Each mart's columns, by the first of its key: a mart without rows has them too."""


_NULLABLE = ("average_order_value", "visitors", "conversion_rate")


def _table(rows: list[dict[str, Any]], key: list[str], dates: Iterable[str] = ()) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_COLUMNS[key[0]].split())
    for column in _NULLABLE:
        if column in table:
            table[column] = pd.array([row[column] for row in rows], dtype="Int64")
    for column in dates:
        table[column] = table[column].astype(_DATE)
    return table.sort_values(key, ignore_index=True)
