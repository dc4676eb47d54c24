"""Online Retail's KPIs, customers, cohorts and recommendations, from the facts of its oracle.

The rules are those of every shop, so they are the demo shop's oracle's; the shop has no events.
"""

from __future__ import annotations

import pandas as pd

from ingestion.demo_shop import truth_customers


def compute(
    fact_orders: pd.DataFrame,
    fact_refunds: pd.DataFrame,
    fact_adjustments: pd.DataFrame,
    dim_users: pd.DataFrame,
    unknown: str,
) -> dict[str, pd.DataFrame]:
    """The four marts by name; money in units of 1/10000 pound, ratios in millionths."""
    users = set(dim_users["user_id"]) - {unknown}
    return truth_customers.marts(fact_orders, fact_refunds, fact_adjustments, None, users, unknown)
