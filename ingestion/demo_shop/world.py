"""Who and what exists in the shop, and when: pure functions of the configuration and an id.

Times are seconds, days are whole days (int64), both counted from 00:00 UTC of the shop's first day; money is in cents.
An index counts from 0, an id from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from ingestion.demo_shop.chance import Dice, spread
from ingestion.demo_shop.text import DAY

HOUR = 3600
PAST_DAYS = 365
"""Users have registered for this long when the history begins."""

_LINES_PER_ORDER = spread({1: 40, 2: 27, 3: 15, 4: 9, 5: 5, 6: 2, 7: 1, 8: 1})
_MEAN_LINES_PERCENT = int(_LINES_PER_ORDER.sum())
_QUANTITY = spread({1: 70, 2: 17, 3: 7, 4: 3, 5: 2, 10: 1})
_NEW_USERS_PER_ORDERS_PERCENT = 22
# A shop opens with at least and at most so many users: they all arrive on the first day.
_FIRST_USERS = (40, 200_000)
# Relative sales per mille. The mean over the two default years, growth included, is about 1000.
_WEEKDAY = (1040, 980, 960, 980, 1000, 1060, 1120)
_MONTH = (900, 860, 930, 950, 960, 940, 880, 900, 970, 1010, 1180, 1290)
# Orders by hour, UTC: the evening peak is local, and some orders fall on the next local day.
_HOURS = np.repeat(np.arange(24), (1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5, 5, 6, 8, 9, 9, 7, 4, 2, 1))
# From so many lines a day on, products go viral every week.
_BUSY_LINES = 1000
_PRICE_RANGES = np.array(
    [
        (300, 900),
        (500, 1500),
        (900, 2500),
        (900, 3000),
        (1500, 4000),
        (1999, 6000),
        (2500, 9000),
        (4000, 15000),
        (9000, 40000),
        (20000, 120000),
    ]
)

PENDING, CANCELLED, CANCELLED_LATE, DELETED_LATE, COMPLETED = range(5)
"""How an order ends. The late ones are completed first."""


@dataclass(frozen=True)
class Config:
    """What the whole history follows from. The shop's pace is `lines / days`."""

    seed: int
    start: date
    days: int
    lines: int

    @property
    def products(self) -> int:
        """How many products there will ever be."""
        return min(5000, 60 + 15 * math.isqrt(self.lines // self.days))


def _season(day: date, number: int) -> int:
    """Sales of one day per mille of the mean, before noise; the shop grows for two years."""
    black_friday = date(day.year, 11, 1) + timedelta(days=(3 - date(day.year, 11, 1).weekday()) % 7 + 22)
    level = 850 + 300 * min(number, 730) // 730
    level = level * _WEEKDAY[day.weekday()] * _MONTH[day.month - 1] // 1_000_000
    since = (day - black_friday).days
    if since in (0, 3):
        level *= 3
    elif since in (-1, 1, 2):
        level *= 2
    if day.month == 12:
        level = level * (130 if day.day <= 21 else 60 if day.day in (24, 25, 26, 31) else 90) // 100
    return level


class World:
    """The shop up to the end of day `until - 1`."""

    def __init__(self, config: Config, until: int) -> None:
        self.config = config
        self.dice = Dice(config.seed)
        days = np.arange(until + 1)
        noise = 850 + self.dice.roll("noise", days, 301)
        season = np.array([_season(config.start + timedelta(days=int(day)), int(day)) for day in days])
        mean = config.lines * 100 * 10**6 // (config.days * _MEAN_LINES_PERCENT)
        millionths = season * noise // 1000 * mean // 1000
        self._orders_before = np.concatenate([[0], np.cumsum(millionths) // 10**6])
        fewest, most = (users * 10**6 // PAST_DAYS + 1 for users in _FIRST_USERS)
        past = np.full(PAST_DAYS, min(max(mean * _NEW_USERS_PER_ORDERS_PERCENT // 100, fewest), most))
        users = np.concatenate([past, millionths * _NEW_USERS_PER_ORDERS_PERCENT // 100])
        self._users_before = np.concatenate([[0], np.cumsum(users) // 10**6])
        self._burst_period = 7 if config.lines // config.days >= _BUSY_LINES else 28
        self._make_products()

    @property
    def first_moment(self) -> datetime:
        """00:00 UTC of the first day."""
        return datetime(self.config.start.year, self.config.start.month, self.config.start.day)

    # Users

    def users_of(self, first: int, end: int) -> np.ndarray:
        """Indexes of the users who registered on days first <= day < end; the earliest day is -PAST_DAYS."""
        low, high = (max(day, -PAST_DAYS) + PAST_DAYS for day in (first, max(first, end)))
        return np.arange(self._users_before[low], self._users_before[high])

    def users_until(self, day: np.ndarray) -> np.ndarray:
        """How many users had registered when each of these days began."""
        return self._users_before[day + PAST_DAYS]

    def registered(self, users: np.ndarray) -> np.ndarray:
        """When each user registered."""
        day = np.searchsorted(self._users_before, users, side="right") - 1 - PAST_DAYS
        return day * DAY + self.dice.roll("registration second", users, DAY)

    def is_user_missing(self, users: np.ndarray) -> np.ndarray:
        """Users whom the CRM never tells us about."""
        return self.dice.hit("user never arrives", users, 600)

    # Products

    def _make_products(self) -> None:
        count = self.config.products
        self.product_index = np.arange(count)
        self.initial_products = initial = count * 7 // 10
        later = self.product_index - initial
        self.product_launch = np.where(
            later < 0,
            -1 - self.dice.roll("product launch", self.product_index, 300),
            1 + later * 1095 // max(1, count - initial),
        )
        self.price_period = 45 + self.dice.roll("price period", self.product_index, 150)
        coarse = self.dice.roll("price coarse", self.product_index, 10)
        low, high = _PRICE_RANGES[coarse].T
        price = low + self.dice.roll("price", self.product_index, high - low)
        ending = self.dice.roll("price ending", self.product_index, 4)
        self._base_price = np.where(ending == 0, price, price // 100 * 100 + np.array([0, 99, 50, 0])[ending])
        self._popularity = np.cumsum(10**8 // (self.product_index + 8))
        # One product that the catalogue never delivers: its sales stay on the unknown product.
        self.missing_product = count // 3

    def price_version(self, products: np.ndarray, day: np.ndarray) -> np.ndarray:
        """How many price changes a product has had at the end of a day."""
        return (day - self.product_launch[products]) // self.price_period[products]

    def price_of_version(self, products: np.ndarray, version: np.ndarray) -> np.ndarray:
        """List price after that many changes, in cents."""
        factor = 85 + self.dice.roll("price factor", products * 1000 + version, 36)
        return self._base_price[products] * np.where(version == 0, 100, factor) // 100

    def deleted_on(self, products: np.ndarray) -> np.ndarray:
        """The day on which the catalogue drops the product; far in the future for most."""
        gone = self.dice.hit("product deleted", products, 25) | (products == 11)
        day = self.product_launch[products] + self.price_period[products] * 2 + 17
        return np.where(gone, np.maximum(day, 20), 10**6)

    # Bursts: now and then a product goes viral for an hour. So many clicks fall on it in a shop of any size.

    def bursts_of(self, first: int, end: int) -> np.ndarray:
        """Numbers of the bursts of days first <= day < end."""
        first = max(first, 0)
        numbers = np.arange(first // self._burst_period, max(end, 0) // self._burst_period + 1)
        day = self.burst_day(numbers)
        return numbers[(day >= first) & (day < end)]

    def burst_day(self, bursts: np.ndarray) -> np.ndarray:
        """The day of each burst: one in four weeks, in a busy shop one a week, the first of all within three days."""
        days = np.where(bursts == 0, 3, self._burst_period)
        return bursts * self._burst_period + self.dice.roll("burst day", bursts, days)

    def burst_start(self, bursts: np.ndarray) -> np.ndarray:
        """When the hour of each burst begins: in the evening, and on that day (UTC)."""
        return self.burst_day(bursts) * DAY + 18 * HOUR + self.dice.roll("burst start", bursts, 5 * HOUR)

    def burst_product(self, bursts: np.ndarray) -> np.ndarray:
        """The product of each burst, one that the catalogue has from the first day to the last."""
        index = self.product_index[: self.initial_products]
        lasting = index[(index != self.missing_product) & (self.deleted_on(index) == 10**6)]
        return lasting[self.dice.roll("burst product", bursts, len(lasting))]

    # Orders

    def orders_of(self, first: int, end: int) -> np.ndarray:
        """Ids of the orders of days first <= day < end."""
        low, high = self._orders_before[max(first, 0)], self._orders_before[max(end, 0)]
        return np.arange(low + 1, high + 1)

    def day_after_orders(self, first: int, count: int) -> int:
        """The last day such that first <= day has at most `count` orders before it."""
        most = self._orders_before[first] + count
        return int(np.searchsorted(self._orders_before, most, side="right")) - 1

    def order_day(self, orders: np.ndarray) -> np.ndarray:
        """The day of each order."""
        return np.searchsorted(self._orders_before, orders, side="left") - 1

    def ordered(self, orders: np.ndarray) -> np.ndarray:
        """When each order was placed."""
        hour = _HOURS[self.dice.roll("order hour", orders, len(_HOURS))]
        return self.order_day(orders) * DAY + hour * HOUR + self.dice.roll("order second", orders, HOUR)

    def order_user(self, orders: np.ndarray) -> np.ndarray:
        """Who ordered: three in ten are users of the last week, the others rather the older, loyal ones."""
        day = self.order_day(orders) + PAST_DAYS
        known, known_before = self._users_before[day], self._users_before[day - 7]
        loyal = self.dice.roll("loyal 1", orders, known)
        loyal = self.dice.roll("loyal 2", orders, loyal + 1)
        recent = known_before + self.dice.roll("recent", orders, np.maximum(known - known_before, 1))
        is_recent = (self.dice.roll("is recent", orders, 10) < 3) & (known > known_before)
        return np.where(is_recent, recent, loyal)

    def ending(self, orders: np.ndarray) -> np.ndarray:
        """PENDING, CANCELLED, ...: how each order ends."""
        roll = self.dice.roll("ending", orders, 1000)
        return np.searchsorted(np.array([12, 75, 80, 86]), roll, side="right")

    def settled(self, orders: np.ndarray) -> np.ndarray:
        """When each order left pending: an hour to five days on."""
        return self.ordered(orders) + HOUR + self.dice.roll("settled", orders, 5 * DAY - HOUR)

    def ended_late(self, orders: np.ndarray) -> np.ndarray:
        """When a completed order was cancelled or deleted after all: one to ten days after it settled."""
        return self.settled(orders) + DAY + self.dice.roll("ended late", orders, 9 * DAY)

    def order_delay(self, orders: np.ndarray) -> np.ndarray:
        """Days by which everything about the order (not its lines) arrives late: mostly none."""
        late = self.dice.hit("order late", orders, 150)
        return np.where(late, 3 + self.dice.roll("order delay", orders, 6), 0)

    def is_order_missing(self, orders: np.ndarray) -> np.ndarray:
        """Orders that never arrive, although their lines do."""
        return self.dice.hit("order never arrives", orders, 2000)

    # Lines

    def lines_of(self, orders: np.ndarray) -> np.ndarray:
        """Ids of the lines of these orders: ten times the order's id plus the position from 1."""
        count = _LINES_PER_ORDER[self.dice.roll("lines", orders, 100)]
        position = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(orders, count) * 10 + position + 1

    def line_product(self, lines: np.ndarray) -> np.ndarray:
        """The product of each line, by popularity; sometimes the same as on the order's line before."""
        again = (lines % 10 > 1) & self.dice.hit("same product", lines, 40)
        roll = self.dice.roll("product 1", lines - again, 2**31 - 1) * int(self._popularity[-1]) >> 31
        product = np.searchsorted(self._popularity, roll, side="right")
        unborn = self.product_launch[product] > self.order_day(lines // 10)
        return np.where(unborn, product % self.initial_products, product)

    def line_amounts(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quantity, unit price and discount of each line as ordered; a gift order's lines come to zero."""
        orders = lines // 10
        product = self.line_product(lines)
        quantity = _QUANTITY[self.dice.roll("quantity", lines, 100)]
        price = self.price_of_version(product, self.price_version(product, self.order_day(orders)))
        percent = np.array([0, 0, 0, 0, 0, 0, 0, 5, 10, 15])[self.dice.roll("discount", lines, 10)]
        discount = quantity * price * percent // 100
        gift = self.dice.roll("gift", orders, 200)
        discount = np.where(gift == 0, quantity * price, discount)
        return quantity, np.where(gift == 1, 0, price), np.where(gift == 1, 0, discount)

    def is_line_missing(self, lines: np.ndarray) -> np.ndarray:
        """Lines that never arrive."""
        return self.dice.hit("line never arrives", lines, 1500)
