"""What each of the shop's systems writes on some days: rows as text, dirt included.

Each function returns the rows that *arrive* on days first <= day < end, whenever they happened: it looks back as far
as the longest delay, makes the candidates again, and keeps those whose arrival falls into the days asked for. The rows
of a span of days are therefore the rows of its days, however it is cut.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.demo_shop import words, world
from ingestion.demo_shop.text import (
    DAY,
    EPOCH_MILLISECONDS,
    EPOCH_SECONDS,
    Moments,
    integers,
    join,
    money,
    pick,
    strings,
    where,
)
from ingestion.demo_shop.world import HOUR, PAST_DAYS, World

EVENTS_PER_ORDER = 5
FIRST_BURST_EVENT = 10**12
"""Event ids from here on are of bursts, a thousand for each; those below are of the orders' visits."""
_USER_CHANGES = (5, 21, 60, 150, 320)
_USER_DELETIONS = (9, 33, 90, 210)
# How ordered_at and registered_at are written: mostly ISO, the rest in every other way; see text.Moments.
_STYLE_TABLE = np.array(
    [0] * 56 + [1] * 12 + [2, 2, 3, 3, 4] + list(range(5, 11)) * 4 + [EPOCH_SECONDS] * 2 + [EPOCH_MILLISECONDS]
)
NEVER = 10**9


class Streams:
    """The streams of one shop; rows of CSV and JSONL streams are lines without their line end."""

    def __init__(self, shop: World, last_day: int) -> None:
        self.world = shop
        self.dice = shop.dice
        self.moments = Moments(shop.first_moment, -PAST_DAYS - 305, last_day + 2)

    def _styled(self, about: str, ids: np.ndarray, seconds: np.ndarray) -> pa.Array:
        style = _STYLE_TABLE[self.dice.roll(f"{about} style", ids, len(_STYLE_TABLE))]
        return self.moments.styled(seconds, style)

    # shop-orders

    def orders(self, first: int, end: int) -> pa.Array:
        """CSV lines of orders."""
        shop, dice = self.world, self.dice

        def arriving(back: int, arrival: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            ids = shop.orders_of(first - back, end)
            day = arrival(ids) + shop.order_delay(ids)
            return ids[(day >= first) & (day < end) & ~shop.is_order_missing(ids)]

        def created(ids: np.ndarray) -> np.ndarray:
            stuck = dice.hit("first version late", ids, 60)
            return shop.order_day(ids) + np.where(stuck, 6 + dice.roll("first version delay", ids, 5), 0)

        def repeated(ids: np.ndarray) -> np.ndarray:
            return np.where(dice.hit("order repeated", ids, 200), created(ids) + dice.roll("again", ids, 3), NEVER)

        def settled(ids: np.ndarray) -> np.ndarray:
            return np.where(shop.ending(ids) == world.PENDING, NEVER, shop.settled(ids) // DAY)

        def ended_late(ids: np.ndarray) -> np.ndarray:
            late = np.isin(shop.ending(ids), (world.CANCELLED_LATE, world.DELETED_LATE))
            return np.where(late, shop.ended_late(ids) // DAY, NEVER)

        new = np.concatenate([arriving(18, created), arriving(20, repeated)])
        parts = [self._order_rows(new, shop.ordered(new), words.PENDING)]
        done = arriving(14, settled)
        is_cancelled = shop.ending(done) == world.CANCELLED
        for ids, status in ((done[~is_cancelled], words.COMPLETED), (done[is_cancelled], words.CANCELLED)):
            parts.append(self._order_rows(ids, shop.settled(ids), status))
        late = arriving(24, ended_late)
        is_cancelled = shop.ending(late) == world.CANCELLED_LATE
        parts.append(self._order_rows(late[is_cancelled], shop.ended_late(late[is_cancelled]), words.CANCELLED))
        gone = late[~is_cancelled]
        parts.append(self._order_rows(gone, shop.ended_late(gone), words.COMPLETED, deleted=True))
        return pa.concat_arrays(parts)

    def _order_rows(self, ids: np.ndarray, updated: np.ndarray, status: str, deleted: bool = False) -> pa.Array:
        dice, count = self.dice, len(ids)
        table = words.spellings(status)
        no_text = strings([""] * count)
        updated_text = self.moments.iso(updated)
        cancelled = no_text
        if status == words.CANCELLED:
            cancelled = where(dice.hit("no cancelled_at", ids, 20), "", updated_text)
        shipping = np.array([0, 0, 0, 490, 490, 490, 590, 595, 990, 1250])[dice.roll("shipping", ids, 10)]
        return join(
            integers(ids),
            integers(self.world.order_user(ids) + 1),
            pick(table, dice.roll(f"word {status}", ids, len(table))),
            # Written once by the shop, in one style: every version of an order repeats it.
            self._quoted(self._styled("ordered_at", ids, self.world.ordered(ids))),
            cancelled,
            money(shipping, dice.roll("shipping text", ids, 2)),
            strings(["EUR"] * count),
            updated_text,
            updated_text if deleted else no_text,
            between=",",
        )

    @staticmethod
    def _quoted(values: pa.Array) -> pa.Array:
        """Quotes round the values that hold a comma."""
        return pc.replace_substring_regex(values, "^(.*,.*)$", r'"\1"')

    # shop-order_items

    def order_items(self, first: int, end: int) -> pa.Array:
        """CSV lines of order lines."""
        shop, dice = self.world, self.dice

        def arriving(back: int, one_in: int, about: str, least: int) -> tuple[np.ndarray, np.ndarray]:
            """Some lines, and the moment at which they change after `least` days and before least + 10."""
            lines = shop.lines_of(shop.orders_of(first - back, end))
            lines = lines[dice.hit(about, lines, one_in) & ~shop.is_line_missing(lines)]
            moment = shop.ordered(lines // 10) + least * DAY + dice.roll(f"{about} when", lines, 9 * DAY)
            keep = (moment // DAY >= first) & (moment // DAY < end)
            return lines[keep], moment[keep]

        lines = shop.lines_of(shop.orders_of(first - 6, end))
        late = dice.hit("line late", lines, 250)
        day = shop.order_day(lines // 10) + np.where(late, 1 + dice.roll("line delay", lines, 6), 0)
        lines = lines[(day >= first) & (day < end) & ~shop.is_line_missing(lines)]
        parts = [self._line_rows(lines, shop.ordered(lines // 10))]
        changed, moment = arriving(11, 200, "line changed", 1)
        parts.append(self._line_rows(changed, moment, more=1))
        # After every change, so that the last word about a deleted line is its deletion.
        deleted, moment = arriving(20, 350, "line deleted", 10)
        parts.append(self._line_rows(deleted, moment, deleted=True))
        return pa.concat_arrays(parts)

    def _line_rows(self, lines: np.ndarray, updated: np.ndarray, more: int = 0, deleted: bool = False) -> pa.Array:
        dice = self.dice
        quantity, price, discount = self.world.line_amounts(lines)
        short = dice.roll("line money text", lines, 2)
        updated_text = self.moments.iso(updated)
        return join(
            integers(lines),
            integers(lines // 10),
            integers(self.world.line_product(lines) + 1),
            integers(quantity + more),
            money(price, short),
            money(discount, short),
            self.moments.iso(self.world.ordered(lines // 10)),
            updated_text,
            updated_text if deleted else strings([""] * len(lines)),
            between=",",
        )

    # shop-refunds

    def refunds(self, first: int, end: int) -> pa.Array:
        """CSV lines of refunds. No refund follows its order's cancellation, and none exceeds its line."""
        shop, dice = self.world, self.dice
        # The look-back is long: filter it day by day, not as a whole. Among the chosen, some lines never arrive.
        chosen = []
        for day in range(max(first - 42, 0), end):
            of_day = shop.lines_of(shop.orders_of(day, day + 1))
            chosen.append(of_day[dice.hit("refunded", of_day, 26) | shop.is_line_missing(of_day)])
        lines = np.concatenate(chosen)
        ending = shop.ending(lines // 10)
        lines = lines[(ending >= world.CANCELLED_LATE) & ~shop.is_order_missing(lines // 10)]
        quantity, price, discount = shop.line_amounts(lines)
        amount = quantity * price - discount
        lines, amount = lines[amount >= 100], amount[amount >= 100]

        soon = shop.ending(lines // 10) != world.COMPLETED
        days = np.where(soon, 22 * HOUR, 24 * DAY)
        moment = shop.settled(lines // 10) + HOUR + dice.roll("refunded when", lines, days)
        partial = dice.roll("partial", lines, 5) < 2
        part = amount * (20 + dice.roll("part", lines, 61)) // 100
        twice = partial & ~soon & dice.hit("second refund", lines, 4)
        ids = np.concatenate([lines * 2, lines[twice] * 2 + 1])
        value = np.concatenate([np.where(partial, part, amount), amount[twice] * 15 // 100])
        moment = np.concatenate([moment, moment[twice] + DAY + dice.roll("second when", lines[twice], 4 * DAY)])

        arrival = moment // DAY + np.where(dice.hit("refund late", ids, 100), 1 + dice.roll("refund delay", ids, 4), 0)
        now = (arrival >= first) & (arrival < end)
        withdrawn = moment + DAY + dice.roll("refund deleted when", ids, 3 * DAY)
        gone = dice.hit("refund deleted", ids, 60) & (withdrawn // DAY >= first) & (withdrawn // DAY < end)
        return pa.concat_arrays(
            [
                self._refund_rows(ids[now], value[now], moment[now], None),
                self._refund_rows(ids[gone], value[gone], moment[gone], withdrawn[gone]),
            ]
        )

    def _refund_rows(
        self, ids: np.ndarray, value: np.ndarray, moment: np.ndarray, deleted: np.ndarray | None
    ) -> pa.Array:
        at = self.moments.iso(moment)
        deleted_text = strings([""] * len(ids)) if deleted is None else self.moments.iso(deleted)
        return join(
            integers(ids),
            integers(ids // 2),
            integers(ids // 20),
            money(value, self.dice.roll("refund money text", ids, 2)),
            pick(words.REASONS, self.dice.roll("reason", ids, len(words.REASONS))),
            at,
            at if deleted is None else deleted_text,
            deleted_text,
            between=",",
        )

    # crm-users

    def users(self, first: int, end: int) -> pa.Array:
        """JSON lines of users."""
        shop, dice = self.world, self.dice

        def known(users: np.ndarray) -> np.ndarray:
            return users[~shop.is_user_missing(users)]

        # The history opens with the CRM as it was; some of it is late or repeated.
        back = 18
        new = known(shop.users_of(first - back if first >= back else -PAST_DAYS, end))
        day = np.maximum(shop.registered(new) // DAY, 0)
        day += np.where(dice.hit("user late", new, 60), 2 + dice.roll("user delay", new, 11), 0)
        twice, later = dice.hit("user twice", new, 80), dice.hit("user again", new, 50)
        again = day[later] + 1 + dice.roll("user again when", new[later], 5)
        day = np.concatenate([day, day[twice], again])
        new = np.concatenate([new, new[twice], new[later]])
        new = new[(day >= first) & (day < end)]
        parts = [self._user_rows(new, shop.registered(new), 0)]

        for number, lag in enumerate(_USER_CHANGES, 1):
            users = known(shop.users_of(first - lag - 4, end - lag))
            users = users[dice.hit(f"user change {number}", users, 12) & (self._user_deletion(users) > lag)]
            late = dice.hit(f"user change late {number}", users, 12)
            day = shop.registered(users) // DAY + lag
            # A change before the history began is not part of it.
            begun = day >= 0
            day += np.where(late, 2 + dice.roll(f"user change delay {number}", users, 3), 0)
            users = users[begun & (day >= first) & (day < end)]
            parts.append(self._user_rows(users, shop.registered(users) + lag * DAY, number))
        for lag in _USER_DELETIONS:
            users = known(shop.users_of(first - lag, end - lag))
            users = users[self._user_deletion(users) == lag]
            users = users[shop.registered(users) // DAY + lag >= 0]
            moment = shop.registered(users) + lag * DAY
            parts.append(self._user_rows(users, moment, 0, self.moments.iso(moment)))
        return pa.concat_arrays(parts)

    def _user_deletion(self, users: np.ndarray) -> np.ndarray:
        """Days from registration to deletion; far in the future for most."""
        lag = np.array(_USER_DELETIONS)[self.dice.roll("user deletion lag", users, len(_USER_DELETIONS))]
        return np.where(self.dice.hit("user deleted", users, 150), lag, NEVER)

    def _user_rows(
        self, users: np.ndarray, updated: np.ndarray, version: int, deleted: pa.Array | None = None
    ) -> pa.Array:
        dice = self.dice
        first = dice.roll("first name", users, len(words.FIRST_NAMES))
        last = dice.roll("last name", users, len(words.LAST_NAMES))
        age = integers(16 + dice.roll("age 1", users, 40) + dice.roll("age 2", users, 30))
        age_kind = dice.roll("age kind", users, 100)
        age = where(age_kind < 8, join('"', age, '"'), age)
        bad_age = pick(words.BAD_AGES, dice.roll("bad age", users, len(words.BAD_AGES)))
        age = where(age_kind >= 88, bad_age, age)
        country = pick(words.COUNTRIES, dice.roll(f"country {min(version, 2)}", users, len(words.COUNTRIES)))
        return join(
            '{"user_id":', integers(users + 1),
            ',"name":"', pick(words.FIRST_NAMES, first), " ", pick(words.LAST_NAMES, last),
            '","email":', self._email(users, first, last, version),
            ',"phone":', self._phone(users, version),
            ',"age":', age,
            ',"country":"', where(dice.hit("country blanks", users, 25), join(" ", country, "  "), country),
            '","registered_at":"', self._styled("registered_at", users, self.world.registered(users)),
            '","updated_at":"', self.moments.iso(updated),
            '","deleted_at":', "null" if deleted is None else join('"', deleted, '"'),
            "}",
        )  # fmt: skip

    def _email(self, users: np.ndarray, first: np.ndarray, last: np.ndarray, version: int) -> pa.Array:
        """JSON values of e-mail addresses; one user in five writes it badly or not at all."""
        dice, about = self.dice, f"{min(version, 3) // 2}"
        name = join(pick(words.FIRST_MAIL, first), ".", pick(words.LAST_MAIL, last), integers(users))
        domain = pick(words.MAIL_DOMAINS, dice.roll(f"domain {about}", users, len(words.MAIL_DOMAINS)))
        address = join(name, "@", domain)
        kind = dice.roll(f"email kind {about}", users, 100)
        address = where(kind < 7, pc.utf8_upper(address), address)
        address = where((kind >= 4) & (kind < 10), join("  ", address, " "), address)
        address = where((kind >= 10) & (kind < 13), pc.utf8_capitalize(address), address)
        address = where(kind == 13, join(name, "(at)", domain), address)
        address = where(kind == 14, name, address)
        address = where(kind == 15, join(name, "@localhost"), address)
        value = join('"', address, '"')
        value = where(kind >= 96, '""', value)
        return where((kind >= 91) & (kind < 96), "null", value)

    def _phone(self, users: np.ndarray, version: int) -> pa.Array:
        """JSON values of phone numbers in several notations; some missing or unusable."""
        dice = self.dice
        area = integers(30 + dice.roll(f"area {version}", users, 60))
        a = integers(100 + dice.roll(f"phone a {version}", users, 900))
        b = integers(1000 + dice.roll(f"phone b {version}", users, 9000))
        kind = dice.roll("phone kind", users, 100)
        text = join("+49 ", area, " ", a, b)
        text = where(kind < 70, join("0", area, "/", a, "-", b), text)
        text = where(kind < 50, join("(0", area, ") ", a, " ", b), text)
        text = where(kind < 30, join("0049-", area, "-", a, "-", b), text)
        text = where(kind < 15, join("0", area, a, b), text)
        value = where(kind == 95, '"n/a"', join('"', text, '"'))
        value = where(kind == 96, '""', value)
        return where(kind > 96, "null", value)

    # catalog-products

    def products(self, first: int, end: int) -> pa.Array:
        """JSON lines of products: at launch, at every price change, and at the end."""
        shop, dice = self.world, self.dice
        every = shop.product_index[shop.product_index != shop.missing_product]
        parts = []
        if first == 0:
            old = every[shop.product_launch[every] < 0]
            parts.append(self._product_rows(old, shop.price_version(old, np.full(len(old), -1))))
        new = every[shop.product_launch[every] >= 0]
        day = shop.product_launch[new] + np.where(
            dice.hit("product late", new, 5), 3 + dice.roll("product delay", new, 8), 0
        )
        new = new[(day >= first) & (day < end)]
        parts.append(self._product_rows(new, np.zeros(len(new), np.int64)))
        day, product = self._every_day(first, end, every)
        deletion = shop.deleted_on(product)
        age = day - shop.product_launch[product]
        changed = (age > 0) & (age % shop.price_period[product] == 0) & (day < deletion)
        parts.append(self._product_rows(product[changed], shop.price_version(product[changed], day[changed])))
        gone, last = product[deletion == day], day[deletion == day]
        version = shop.price_version(gone, last - 1)
        parts.append(self._product_rows(gone, version, self.moments.iso(last * DAY + DAY // 2)))
        return pa.concat_arrays(parts)

    @staticmethod
    def _every_day(first: int, end: int, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every product on every day, as two columns: day, product."""
        return np.repeat(np.arange(first, end), len(products)), np.tile(products, end - first)

    def _product_rows(self, products: np.ndarray, version: np.ndarray, gone: pa.Array | None = None) -> pa.Array:
        shop, dice = self.world, self.dice
        key = products * 1000 + version
        changed = shop.product_launch[products] + version * shop.price_period[products]
        updated = self.moments.iso(changed * DAY + dice.roll("product second", key, DAY))
        category = dice.roll("category", products, len(words.CATEGORIES))
        noun = pick(
            words.NOUNS, category * words.NOUNS_PER_CATEGORY + dice.roll("noun", products, words.NOUNS_PER_CATEGORY)
        )
        name = join(
            pick(words.ADJECTIVES, dice.roll("adjective", products, len(words.ADJECTIVES))),
            " ",
            noun,
            " ",
            integers(products + 1),
        )
        category_text = pick(words.CATEGORIES, category)
        return join(
            '{"product_id":', integers(products + 1),
            ',"name":"', where(dice.hit("name blanks", key, 12), join("  ", name, " "), name),
            '","category":"', where(dice.hit("category blanks", key, 10), join(category_text, " "), category_text),
            '","price":"', money(shop.price_of_version(products, version), dice.roll("price text", key, 2)),
            '","updated_at":"', updated if gone is None else gone,
            '","deleted_at":', "null" if gone is None else join('"', gone, '"'),
            "}",
        )  # fmt: skip

    # web-events

    def events(self, first: int, end: int) -> pa.Table:
        """Click events in the order of their receipt: those of the orders' visits, and of the bursts."""
        parts = [self._visits(first, end), self._burst_clicks(first, end)]
        received = np.concatenate([received for _, received in parts])
        return pa.concat_tables([table for table, _ in parts]).take(np.argsort(received, kind="stable"))

    def _visits(self, first: int, end: int) -> tuple[pa.Table, np.ndarray]:
        """An order's visit leaves one purchase and four steps before it, some by strangers; when each arrives."""
        shop, dice = self.world, self.dice
        orders = np.repeat(shop.orders_of(first - 5, end), EVENTS_PER_ORDER)
        step = np.arange(len(orders)) % EVENTS_PER_ORDER
        events = orders * EVENTS_PER_ORDER + step
        ordered = shop.ordered(orders)
        before = np.where(step == 0, 0, dice.roll("before", events, 1800))
        occurred = np.maximum(ordered - before, ordered // DAY * DAY)
        row, received = self._deliveries(events, occurred, first, end)
        orders, events, step, occurred = orders[row], events[row], step[row], occurred[row]
        stranger = (step > 1) & dice.hit("stranger", events, 2)
        # Steps of a visit look at the ordered product first, then at others.
        product = shop.line_product(orders * 10 + np.where(step < 2, 1, 1 + step))
        kind = np.array([0, 1, 2, 3, 3])[step]
        return self._event_rows(events, shop.order_user(orders), stranger, product, kind, occurred, received), received

    def _burst_clicks(self, first: int, end: int) -> tuple[pa.Table, np.ndarray]:
        """Clicks and views of the products that go viral, within the hour of each burst; when each arrives."""
        shop, dice = self.world, self.dice
        bursts = shop.bursts_of(first - 5, end)
        count = 120 + dice.roll("burst clicks", bursts, 181)
        position = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        bursts = np.repeat(bursts, count)
        events = FIRST_BURST_EVENT + bursts * 1000 + position
        occurred = shop.burst_start(bursts) + dice.roll("burst second", events, HOUR)
        row, received = self._deliveries(events, occurred, first, end)
        bursts, events, occurred = bursts[row], events[row], occurred[row]
        user = dice.roll("burst user", events, shop.users_until(shop.burst_day(bursts)))
        stranger = ~dice.hit("burst by a user", events, 4)
        product = shop.burst_product(bursts)
        kind = 2 + dice.roll("burst kind", events, 2)
        return self._event_rows(events, user, stranger, product, kind, occurred, received), received

    def _deliveries(
        self, events: np.ndarray, occurred: np.ndarray, first: int, end: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which event arrives (an index, repeats included) on the days asked for, and when."""
        dice = self.dice
        delay = dice.roll("delay", events, 6)
        delay = np.where(dice.hit("event late", events, 50), HOUR + dice.roll("event delay", events, 2 * DAY), delay)
        received = occurred + delay
        again = np.flatnonzero(dice.hit("event repeated", events, 100))
        # Half of the repeats are the same message again, half a later delivery.
        second = received[again] + dice.roll("again same", events[again], 2) * dice.roll(
            "again when", events[again], 2 * DAY
        )
        row = np.concatenate([np.arange(len(events)), again])
        received = np.concatenate([received, second])
        keep = (received // DAY >= first) & (received // DAY < end)
        return row[keep], received[keep]

    def _event_rows(
        self,
        events: np.ndarray,
        user: np.ndarray,
        stranger: np.ndarray,
        product: np.ndarray,
        kind: np.ndarray,
        occurred: np.ndarray,
        received: np.ndarray,
    ) -> pa.Table:
        return pa.table(
            {
                "event_id": events,
                "user_id": pa.array(user + 1, mask=stranger),
                "product_id": product + 1,
                "event_type": pick(words.EVENT_TYPES, kind),
                "occurred_at": self._utc(occurred, self.dice.roll("occurred micro", events, 10**6)),
                "received_at": self._utc(received, np.full(len(events), 999_999)),
            }
        )

    def _utc(self, seconds: np.ndarray, micros: np.ndarray) -> pa.Array:
        return pa.array(self.moments.epoch(seconds) * 10**6 + micros).cast(pa.timestamp("us", tz="UTC"))

    # stock-stock_levels

    def stock_levels(self, first: int, end: int) -> pa.Array:
        """CSV lines of counted stock: every third day per product."""
        shop, dice = self.world, self.dice
        day, product = self._every_day(first, end, shop.product_index)
        keep = (
            ((day + product) % 3 == 0)
            & (product != shop.missing_product)
            & (shop.product_launch[product] <= day)
            & (day < shop.deleted_on(product))
        )
        day, product = day[keep], product[keep]
        cycle = 10 + dice.roll("stock cycle", product, 30)
        since = (day + dice.roll("stock phase", product, 40)) % cycle
        level = 40 + dice.roll("stock", product, 400)
        quantity = level - level * since // cycle
        return join(
            integers(product + 1),
            integers(quantity),
            self.moments.iso(day * DAY + 3 * HOUR + product % 60),
            between=",",
        )
