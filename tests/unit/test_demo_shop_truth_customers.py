"""The truth about customers, by hand: what rounds, ties, and counts once."""

from __future__ import annotations

from datetime import date

import pandas as pd
import pytest

from ingestion.demo_shop import truth_customers

SALES = pd.DataFrame(
    [
        # Two orders of user 1 in one ISO week of two years; one cancelled; one of nobody.
        (1, 1, 7, 20241230, "completed", 1, 100_000, 0),
        (1, 1, 8, 20241230, "completed", 2, 50_000, 0),
        (2, 1, 7, 20250105, "pending", 1, 1, 10_000),
        (3, 2, 7, 20250104, "cancelled", 1, 70_000, 0),
        (4, -1, 8, 20250105, "completed", 1, 30_000, 0),
        (5, 3, -1, 20250101, "completed", 1, 0, 0),
    ],
    columns=["order_id", "user_id", "product_id", "date_id", "status", "quantity", "amount", "shipping_cost"],
).assign(ordered_at=pd.Timestamp("2025-01-01"))
REFUNDS = pd.DataFrame(
    [(2, 20250104, 70_000, 0), (1, 20250106, 10_000, 10_000)],
    columns=["user_id", "date_id", "amount", "shipping_amount"],
)
ADJUSTMENTS = pd.DataFrame({"date_id": [20241231], "amount": [-5_000]})
EVENTS = pd.DataFrame(
    [(1, 20250105), (1, 20250105), (2, 20250104), (9, 20250104), (pd.NA, 20250108)], columns=["user_id", "date_id"]
)


@pytest.fixture(scope="module")
def marts() -> dict[str, pd.DataFrame]:
    return truth_customers.marts(SALES, REFUNDS, ADJUSTMENTS, EVENTS, {1, 2, 3}, -1)


@pytest.mark.parametrize(
    ("dividend", "divisor", "scale", "expected"),
    [(1, 2, 1, 1), (1, 3, 1, 0), (3, 2, 1, 2), (2, 3, 10**6, 666_667), (1, 2_000_000, 10**6, 1), (7, 0, 1, None)],
)
def test_a_half_is_rounded_up(dividend: int, divisor: int, scale: int, expected: int | None) -> None:
    assert truth_customers.half_up(dividend, divisor, scale) == expected


def test_a_week_over_new_year_has_each_person_once(marts: dict[str, pd.DataFrame]) -> None:
    kpis = marts["mart_kpis"].set_index(["grain", "period_start"])
    week = kpis.loc["week", date(2024, 12, 30)]
    assert (week["orders_count"], week["buyers"], week["visitors"], week["active_users"]) == (4, 2, 2, 3)
    assert week["sales"] == 250_001
    assert week["revenue"] == 250_001 + 10_000 - 70_000 - 5_000
    assert (week["average_order_value"], week["conversion_rate"], week["is_complete"]) == (45_000, 500_000, True)
    # The last day with money is Monday; the stranger's event on Wednesday only makes the calendar longer.
    assert not kpis.loc["week", date(2025, 1, 6)]["is_complete"]
    assert kpis.loc["day", date(2025, 1, 8)]["visitors"] == 0
    assert len(kpis.loc["day"]) == 10


def test_equal_customers_have_equal_scores(marts: dict[str, pd.DataFrame]) -> None:
    customers = marts["mart_customers"].set_index("user_id")
    assert list(customers.index) == [1, 3]
    assert customers["lifetime_value"].tolist() == [140_001, 0]
    assert customers["monetary_score"].tolist() == [3, 1]
    assert customers["days_since_last_order"].tolist() == [1, 5]
    assert customers["rfm_segment"].tolist() == ["Need Attention", "Hibernating"]
    assert customers["cohort_month"].tolist() == [date(2024, 12, 1), date(2025, 1, 1)]


def test_a_cohort_has_its_months_up_to_the_last_day(marts: dict[str, pd.DataFrame]) -> None:
    columns = ["cohort_month", "months_since", "active_customers", "retention_rate", "sales"]
    assert marts["mart_cohort_retention"][columns].values.tolist() == [
        [date(2024, 12, 1), 0, 1, 1_000_000, 150_000],
        [date(2024, 12, 1), 1, 1, 1_000_000, 1],
        [date(2025, 1, 1), 0, 1, 1_000_000, 0],
    ]


def test_pairs_below_the_floor_are_no_recommendation(marts: dict[str, pd.DataFrame]) -> None:
    assert marts["mart_product_recommendations"].empty
    lines = [(order, 1, product, 20250101, "completed", 1, 1, 0) for order in range(5) for product in (7, 8)]
    sales = pd.DataFrame(lines, columns=SALES.columns[:-1]).assign(ordered_at=pd.Timestamp("2025-01-01"))
    found = truth_customers.marts(sales, REFUNDS, ADJUSTMENTS, None, {1}, -1)["mart_product_recommendations"]
    assert found[["product_id", "rank", "recommended_product_id", "lift"]].values.tolist() == [
        [7, 1, 8, 1_000_000],
        [8, 1, 7, 1_000_000],
    ]
