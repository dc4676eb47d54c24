"""Marts of entities that Online Retail does not have: they are built, without a row, and not published."""

from __future__ import annotations

import pandas as pd

_COLUMNS = {
    "fact_product_clicks": "product_id window_start date_id clicks known_users late_clicks",
    "mart_trending_products": "product_id started_at ended_at date_id clicks peak_clicks peak_at is_alert",
    "fact_inventory_daily": (
        "product_id date_id quantity_on_hand counted_at is_counted units_sold units_sold_28_days days_of_stock "
        "is_out_of_stock"
    ),
}


def marts() -> dict[str, pd.DataFrame]:
    """The marts by name, each with its columns alone."""
    return {name: pd.DataFrame(columns=columns.split(), dtype=object) for name, columns in _COLUMNS.items()}
