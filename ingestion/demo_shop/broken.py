"""Records that no reader can read: a few per stream and month, each with a reason to land in quarantine."""

from __future__ import annotations

import numpy as np

from ingestion.demo_shop.world import Config, World

_DAYS_BETWEEN, _ROWS_BETWEEN = 9, 50
"""A stream brings a broken record every so many days on average, or so many good rows, whichever is rarer."""

# Good rows for a thousand order lines; the catalogue's streams have theirs per product.
_ROWS_PER_THOUSAND_LINES = {"orders": 900, "order_items": 1000, "refunds": 38, "users": 130}
_DAYS_PER_PRODUCT_ROW = {"products": 120, "stock_levels": 3}

# {n} is a number that differs from day to day, so that no two broken records are alike.
_ORDER = "{n},1,pending,2025-01-01T10:00:00Z,,4.90,EUR,2025-01-01T10:00:00Z,"
_LINE = "{n},{n},1,1,9.99,0,2025-01-01T10:00:00Z,2025-01-01T10:00:00Z,"
_REFUND = "{n},{n},{n},5.00,damaged,2025-01-01T10:00:00Z,2025-01-01T10:00:00Z,"
_USER = (
    '{{"user_id":{n},"name":"Nobody","email":"nobody@example.com","phone":null,"age":40,"country":"Germany",'
    '"registered_at":"2025-01-01T10:00:00Z","updated_at":"2025-01-01T10:00:00Z","deleted_at":null}}'
)
_PRODUCT = (
    '{{"product_id":{n},"name":"Nothing","category":"Books","price":"9.99","updated_at":"2025-01-01T10:00:00Z",'
    '"deleted_at":null}}'
)
_RECORDS = {
    "orders": (
        _ORDER + ",gift",
        _ORDER.replace("{n}", "", 1) + "x{n}",
        "{n},1,pending",
        _ORDER.replace("4.90", "free of charge"),
        _ORDER.replace("2025-01-01T10:00:00Z", "2025-13-45 10:00", 1),
        _ORDER.replace("1,", "guest,", 1),
    ),
    "order_items": (
        _LINE.replace(",1,9.99", ",two,9.99"),
        ",{n},1,1,9.99,0,2025-01-01T10:00:00Z,2025-01-01T10:00:00Z,",
        _LINE + ",red,XL",
        "{n},{n}",
        _LINE.replace("9.99", "9.99 EUR"),
        _LINE.replace("2025-01-01T10:00:00Z", "yesterday"),
    ),
    "refunds": (
        _REFUND.replace("5.00", "half"),
        ",{n},{n},5.00,damaged,2025-01-01T10:00:00Z,2025-01-01T10:00:00Z,",
        "{n};{n};{n};5.00;damaged",
        _REFUND.replace("2025-01-01T10:00:00Z", "31.02.2025 at noon", 1),
    ),
    "users": (
        _USER[:60],
        _USER.replace("{n}", "null", 1).replace("nobody@", "nobody{n}@"),
        _USER.replace('"updated_at":"2025-01-01T10:00:00Z"', '"updated_at":"some day"'),
        "user {n} was here",
        _USER.replace("{n}", '"K-{n}"'),
    ),
    "products": (
        _PRODUCT.replace("9.99", "on request"),
        _PRODUCT[:40],
        _PRODUCT.replace("{n}", "null", 1).replace("Nothing", "Nothing {n}"),
    ),
    "stock_levels": (
        "{n},many,2025-01-01T03:00:00Z",
        "{n},5",
        ",{n},2025-01-01T03:00:00Z",
        "{n},5,no time",
    ),
}


def _days_between(config: Config, stream: str) -> int:
    if stream in _DAYS_PER_PRODUCT_ROW:
        days = _ROWS_BETWEEN * _DAYS_PER_PRODUCT_ROW[stream] // config.products
    else:
        days = _ROWS_BETWEEN * 1000 * config.days // (_ROWS_PER_THOUSAND_LINES[stream] * config.lines)
    return max(_DAYS_BETWEEN, days)


def records(world: World, stream: str, first: int, end: int) -> list[str]:
    """The broken records of days first <= day < end, without line ends; none for the Parquet stream."""
    if stream not in _RECORDS:
        return []
    dice, kinds = world.dice, _RECORDS[stream]
    days = np.arange(first, end)
    days = days[dice.hit(f"broken {stream}", days, _days_between(world.config, stream))]
    chosen = dice.roll(f"broken kind {stream}", days, len(kinds))
    # Ids far above the real ones: a broken record is an extra one, so that nothing else depends on it.
    return [kinds[kind].format(n=900_000_000 + int(day)) for day, kind in zip(days, chosen, strict=True)]
