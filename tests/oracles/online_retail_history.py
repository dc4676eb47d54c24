"""The histories of Online Retail's customers and products, by walking through the lines that name them."""

from __future__ import annotations

from typing import Any

import pandas as pd

UNKNOWN = "unknown"
BEGINNING = pd.Timestamp("1970-01-01")
#: By how many years a line's word on its product is dated back: what sold it, what took it back, what has no price.
YEARS_BACK = {2: 0, 1: 100, 0: 200}


def dim_users_history(lines: pd.DataFrame) -> pd.DataFrame:
    """One row per customer and country, as they follow each other; names and the like are not in the data."""
    named = lines[lines["customer"].notna()].sort_values(["at", "row_hash"])
    countries = named["country"].astype(object).where(named["country"].notna(), None)
    said = zip(named["customer"], named["at"], zip(countries, strict=True), strict=True)
    rows = []
    for user_id, number, at, (country,), valid_from, valid_to in [*_spells(said), _of_unknown(UNKNOWN)]:
        rows.append(
            {
                "user_id": user_id,
                "version_number": number,
                "name": UNKNOWN if user_id == UNKNOWN else None,
                "email": "unknown@example.com",
                "is_email_valid": False,
                "phone": None,
                "age": None,
                "country": country,
                "registered_at": pd.NaT,
                "deleted_at": pd.NaT,
                "version_at": at,
                "valid_from": valid_from,
                "valid_to": valid_to,
                "is_current": pd.isna(valid_to),
            }
        )
    return pd.DataFrame(rows)


def dim_products_history(products: pd.DataFrame) -> pd.DataFrame:
    """One row per product, name and price, as they follow each other; a line's `rank` says how much its word counts."""
    products = products.copy()
    for rank, years in YEARS_BACK.items():
        of_rank = products["rank"] == rank
        products.loc[of_rank, "at"] -= pd.DateOffset(years=years)
    products = products.sort_values(["at", "row_hash"])
    names = products["name"].astype(object).where(products["name"].notna(), None)
    says = [
        (name, price) if rank else (None, None)
        for name, price, rank in zip(names, products["price"], products["rank"], strict=True)
    ]
    said = zip(products["code"], products["at"], says, strict=True)
    rows = []
    for product_id, number, at, (name, price), valid_from, valid_to in [*_spells(said), _of_unknown(UNKNOWN, None)]:
        rows.append(
            {
                "product_id": product_id,
                "version_number": number,
                "name": name,
                "category": UNKNOWN,
                "price": price,
                "deleted_at": pd.NaT,
                "version_at": at,
                "valid_from": valid_from,
                "valid_to": valid_to,
                "is_current": pd.isna(valid_to),
            }
        )
    return pd.DataFrame(rows).astype({"price": object})


def _of_unknown(*content: Any) -> tuple:
    return UNKNOWN, 1, pd.NaT, content, BEGINNING, pd.NaT


def _spells(said: Any) -> list[tuple]:
    """(key, number, said at, content, valid from, valid to) of each spell; `said`, in order, is (key, at, content)."""
    by_key: dict[str, dict[pd.Timestamp, tuple]] = {}
    for key, at, content in said:
        # What comes later at the same moment takes its place; before 1970 there is one moment.
        by_key.setdefault(key, {})[max(at, BEGINNING)] = (at, content)
    spells = []
    for key, moments in by_key.items():
        kept: list[tuple] = []
        for moment, (at, content) in moments.items():
            if not kept or kept[-1][2] != content:
                kept.append((moment, at, content))
        ends = [moment for moment, _, _ in kept[1:]] + [pd.NaT]
        for number, ((moment, at, content), end) in enumerate(zip(kept, ends, strict=True), start=1):
            spells.append((key, number, at, content, BEGINNING if number == 1 else moment, end))
    return spells
