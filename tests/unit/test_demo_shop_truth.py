"""The truth about the marts: by hand for a tiny shop, by its own identities for a generated one."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.demo_shop import reading, shop, truth
from ingestion.demo_shop.world import Config
from ingestion.errors import UserError

ORDERS = """\
order_id,user_id,status,ordered_at,cancelled_at,shipping_cost,currency,updated_at,deleted_at
1,1,new,2025-03-01T10:00:00Z,,1,EUR,2025-03-01T10:00:00Z,
1,1, SHIPPED ,2025-03-01T10:00:00Z,,1,EUR,2025-03-02T10:00:00Z,
1,1,open,2025-03-01T10:00:00Z,,1,EUR,2025-03-01T12:00:00Z,
2,2,Void,01/03/2025 23:30,2025-03-04T08:00:00Z,4.9,EUR,2025-03-04T09:00:00Z,
3,9,paid,"Mar 05, 2025 12:00",,0.05,EUR,2025-03-05T12:00:00Z,
4,1,paid,1741262400,,2.5,EUR,2025-03-06T12:00:00Z,
5,1,paid,2025-03-07,,3,EUR,2025-03-08T00:00:00Z,2025-03-08T00:00:00Z
6,1,cancelled,2025/03/09 09:00:30,,2,EUR,2025-03-10T00:00:00Z,
7,1,paid,2025-03-09T10:00:00Z
x,1,paid,2025-03-09T10:00:00Z,,2,EUR,2025-03-10T00:00:00Z,
,1,paid,2025-03-09T10:00:00Z,,2,EUR,2025-03-10T00:00:00Z,
8,1,paid,2025-02-30T10:00:00Z,,2,EUR,2025-03-10T00:00:00Z,
9,1,paid,2025-03-09T10:00:00Z,,two,EUR,2025-03-10T00:00:00Z,
10,1,paid,2025-03-11T10:00:00Z,,0,EUR,2025-03-11T10:00:00Z,
"""
LINES = """\
order_line_id,order_id,product_id,quantity,unit_price,discount,created_at,updated_at,deleted_at
11,1,1,2,10,0,2025-03-01T10:00:00Z,2025-03-01T10:00:00Z,
12,1,1,1,12.5,2.50,2025-03-01T10:00:00Z,2025-03-01T10:00:00Z,
13,1,2,1,30,0,2025-03-01T10:00:00Z,2025-03-01T10:00:00Z,
13,1,2,1,30,0,2025-03-01T10:00:00Z,2025-03-02T10:00:00Z,2025-03-02T10:00:00Z
21,2,2,1,40,0,2025-03-01T23:30:00Z,2025-03-01T23:30:00Z,
22,2,8,3,5,0,2025-03-01T23:30:00Z,2025-03-01T23:30:00Z,
31,3,1,1,7.77,7.77,2025-03-05T12:00:00Z,2025-03-05T12:00:00Z,
32,3,1,2,0,0,2025-03-05T12:00:00Z,2025-03-05T12:00:00Z,
51,5,1,1,10,0,2025-03-07T12:00:00Z,2025-03-07T12:00:00Z,
61,6,1,1,1,5,2025-03-09T09:00:00Z,2025-03-09T09:00:00Z,
71,77,1,1,9.99,0,2025-03-09T23:00:00Z,2025-03-10T23:30:00Z,
"""
REFUNDS = """\
refund_id,order_line_id,order_id,amount,reason,refunded_at,updated_at,deleted_at
1,11,1,5,damaged,2025-03-03T10:00:00Z,2025-03-03T10:00:00Z,
2,11,1,1,damaged,2025-03-03T10:00:00Z,2025-03-03T10:00:00Z,2025-03-03T10:00:00Z
3,13,1,30,,2025-03-03T10:00:00Z,2025-03-03T10:00:00Z,
4,21,2,15.5,,2025-03-03T10:00:00Z,2025-03-03T10:00:00Z,
5,21,2,1,,2025-03-04T08:00:01Z,2025-03-04T08:00:01Z,
6,99,3,0.5,,2025-03-06T10:00:00Z,2025-03-06T10:00:00Z,
7,51,5,10,,2025-03-07T13:00:00Z,2025-03-07T13:00:00Z,
8,22,2,20,,2025-03-03T10:00:00Z,2025-03-03T10:00:00Z,
"""
USER = {"phone": None, "country": "Germany", "registered_at": "2025-01-01", "deleted_at": None}
USERS = [
    {**USER, "user_id": 1, "name": "Old", "email": "x", "age": 90, "updated_at": "2025-01-01T00:00:00Z"},
    {
        **{"user_id": 1, "name": "Ann", "email": "  ANN@Example.COM ", "phone": "+49 (30) 12-3", "age": "21"},
        **{"country": " France ", "registered_at": "1735689600000", "updated_at": "2025-02-01T00:00:00Z"},
        "deleted_at": None,
    },
    {**USER, "user_id": 2, "name": "Bo", "email": "bo(at)example.com", "age": "150", "updated_at": "2025-01-01"},
    {**USER, "user_id": 3, "name": "Cy", "email": None, "age": 24, "phone": "n/a", "updated_at": "2025-01-01"},
    {
        **{**USER, "user_id": 4, "name": "Di", "email": "", "age": 80, "updated_at": "2025-01-02T00:00:00Z"},
        "deleted_at": "2025-01-02T00:00:00Z",
    },
]
PRODUCTS = [
    *(
        {"product_id": 1, "name": "  Lamp ", "category": "Home ", "price": price, "updated_at": at, "deleted_at": None}
        for price, at in (("12.5", "2025-02-01T00:00:00Z"), ("10", "2025-01-01T00:00:00Z"))
    ),
    {
        **{"product_id": 2, "name": "Book", "category": "Books", "price": "40.00"},
        **{"updated_at": "2025-03-01T00:00:00Z", "deleted_at": "2025-03-01T00:00:00Z"},
    },
]


def write_tiny_shop(source: Path) -> None:
    for folder, name, text in (
        ("orders", "2025-03.csv", ORDERS),
        ("order_items", "2025-03.csv", LINES),
        ("refunds", "2025-03.csv", REFUNDS),
        ("users", "2025-03.jsonl", "".join(json.dumps(user) + "\n" for user in USERS) + '{"user_id": 5, "na\n'),
        ("products", "2025-03.jsonl", "".join(json.dumps(product) + "\n" for product in PRODUCTS)),
    ):
        (source / folder).mkdir()
        (source / folder / name).write_text(text, "utf-8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("tiny")
    write_tiny_shop(source)
    return source


def rows(table: pd.DataFrame, columns: str) -> list[tuple]:
    """Some columns of a mart as plain tuples; null is None."""
    chosen = table[columns.split()]
    return [
        tuple(None if pd.isna(value) else value for value in row) for row in chosen.itertuples(index=False, name=None)
    ]


def money(text: str) -> Decimal:
    return Decimal(text).quantize(Decimal("0.0001"))


# By hand


def test_sales_of_the_tiny_shop(tiny: Path) -> None:
    sales = truth.compute(tiny)["fact_orders"]
    # Order 1's euro goes 2 : 1 to 20 and 10 euros, the odd cent to the larger remainder; order 2 is of the next day in
    # Berlin; order 3 is worth nothing, so its five cents go by quantity: 1.67 and 3.33 cents.
    assert rows(sales, "order_line_id order_id user_id product_id date_id status quantity amount shipping_cost") == [
        (11, 1, 1, 1, 20250301, "completed", 2, money("20"), money("0.67")),
        (12, 1, 1, 1, 20250301, "completed", 1, money("10"), money("0.33")),
        (21, 2, 2, 2, 20250302, "cancelled", 1, money("40"), money("3.56")),
        (22, 2, 2, -1, 20250302, "cancelled", 3, money("15"), money("1.34")),
        (31, 3, -1, 1, 20250305, "completed", 1, money("0"), money("0.02")),
        (32, 3, -1, 1, 20250305, "completed", 2, money("0"), money("0.03")),
    ]
    assert rows(sales, "currency ordered_at")[2] == ("EUR", pd.Timestamp("2025-03-01 23:30:00"))


def test_refunds_of_the_tiny_shop(tiny: Path) -> None:
    refunds = truth.compute(tiny)["fact_refunds"]
    # Gone: refund 2 itself, 3 with its line, 7 with its order. Line 21 had 15.50 back before the
    # cancellation, line 22 more than it was worth.
    columns = "refund_line_id kind order_line_id order_id user_id product_id date_id amount shipping_amount refunded_at"
    assert rows(refunds, columns) == [
        (
            *("cancellation-21", "cancellation", 21, 2, 2, 2, 20250304, money("24.5"), money("3.56")),
            pd.Timestamp("2025-03-04 08:00:00"),
        ),
        (
            *("cancellation-22", "cancellation", 22, 2, 2, -1, 20250304, money("0"), money("1.34")),
            pd.Timestamp("2025-03-04 08:00:00"),
        ),
        (
            *("refund-1", "refund", 11, 1, 1, 1, 20250303, money("5"), money("0")),
            pd.Timestamp("2025-03-03 10:00:00"),
        ),
        (
            *("refund-4", "refund", 21, 2, 2, 2, 20250303, money("15.5"), money("0")),
            pd.Timestamp("2025-03-03 10:00:00"),
        ),
        (
            *("refund-5", "refund", 21, 2, 2, 2, 20250304, money("1"), money("0")),
            pd.Timestamp("2025-03-04 08:00:01"),
        ),
        (
            *("refund-6", "refund", 99, 3, -1, -1, 20250306, money("0.5"), money("0")),
            pd.Timestamp("2025-03-06 10:00:00"),
        ),
        (
            *("refund-8", "refund", 22, 2, 2, -1, 20250303, money("20"), money("0")),
            pd.Timestamp("2025-03-03 10:00:00"),
        ),
    ]


def test_adjustments_of_the_tiny_shop(tiny: Path) -> None:
    adjustments = truth.compute(tiny)["fact_adjustments"]
    assert rows(adjustments, "adjustment_id kind order_id user_id product_id date_id amount currency adjusted_at") == [
        (
            *("line-61", "negative_line", 6, 1, 1, 20250309, money("-4"), "EUR"),
            pd.Timestamp("2025-03-09 09:00:30"),
        ),
        (
            *("line-71", "line_without_order", 77, -1, 1, 20250310, money("9.99"), "EUR"),
            pd.Timestamp("2025-03-09 23:00:00"),
        ),
        (
            *("shipping-4", "shipping_without_lines", 4, 1, -1, 20250306, money("2.5"), "EUR"),
            pd.Timestamp("2025-03-06 12:00:00"),
        ),
        (
            *("shipping-6", "shipping_without_lines", 6, 1, -1, 20250309, money("2"), "EUR"),
            pd.Timestamp("2025-03-09 09:00:30"),
        ),
    ]


def test_users_of_the_tiny_shop(tiny: Path) -> None:
    users = truth.compute(tiny)["dim_users"]
    unknown = "unknown@example.com"
    # Valid ages of the present users: 21 and 24, half up 23.
    columns = "user_id name email is_email_valid phone age is_age_imputed age_group country registered_at deleted_at"
    new_year = pd.Timestamp("2025-01-01")
    assert rows(users, columns) == [
        (-1, "unknown", unknown, False, None, None, False, "Unknown", "unknown", None, None),
        (1, "Ann", "ann@example.com", True, "49301" + "23", 21, False, "Young Adult", "France", new_year, None),
        (2, "Bo", unknown, False, None, 23, True, "Young Adult", "Germany", new_year, None),
        (3, "Cy", unknown, False, None, 24, False, "Young Adult", "Germany", new_year, None),
        (4, "Di", unknown, False, None, 80, False, "Senior", "Germany", new_year, pd.Timestamp("2025-01-02")),
    ]


def test_products_of_the_tiny_shop(tiny: Path) -> None:
    assert rows(truth.compute(tiny)["dim_products"], "product_id name category price deleted_at") == [
        (-1, "unknown", "unknown", None, None),
        (1, "Lamp", "Home", money("12.5"), None),
        (2, "Book", "Books", money("40"), pd.Timestamp("2025-03-01")),
    ]


def test_days_of_the_tiny_shop(tiny: Path) -> None:
    marts = truth.compute(tiny)
    days = marts["dim_date"]
    assert len(days) == 365
    columns = "date_id date year quarter month day day_of_week is_weekend"
    assert rows(days, columns)[0] == (20250101, date(2025, 1, 1), 2025, 1, 1, 1, 3, False)
    assert rows(days, columns)[-1] == (20251231, date(2025, 12, 31), 2025, 4, 12, 31, 3, False)
    assert rows(days, columns)[59] == (20250301, date(2025, 3, 1), 2025, 1, 3, 1, 6, True)

    columns = "date_id orders_count lines_count units_sold customers_count sales shipping refunds adjustments net_sales"
    expected = [
        (20250301, 1, 2, 3, 1, "30", "1", "0", "0", "31"),
        (20250302, 1, 2, 4, 1, "55", "4.9", "0", "0", "59.9"),
        (20250303, 0, 0, 0, 0, "0", "0", "40.5", "0", "-40.5"),
        (20250304, 0, 0, 0, 0, "0", "0", "30.4", "0", "-30.4"),
        (20250305, 1, 2, 3, 1, "0", "0.05", "0", "0", "0.05"),
        (20250306, 0, 0, 0, 0, "0", "0", "0.5", "2.5", "2"),
        (20250309, 0, 0, 0, 0, "0", "0", "0", "-2", "-2"),
        (20250310, 0, 0, 0, 0, "0", "0", "0", "9.99", "9.99"),
    ]
    assert rows(marts["mart_daily_sales"], columns) == [(*row[:5], *map(money, row[5:])) for row in expected]

    columns = "date_id raw_net_value sales shipping refunds adjustments difference quarantined_rows"
    assert rows(marts["mart_money_reconciliation"], columns) == [
        (row[0], money(row[9]), *map(money, row[5:9]), money("0"), None) for row in expected
    ]


def test_quarantine_of_the_tiny_shop(tiny: Path, tmp_path: Path) -> None:
    truth.write(tiny, tmp_path)
    quarantine = json.loads((tmp_path / "quarantine.json").read_text("utf-8"))
    assert [(record["line_number"], record["reason"]) for record in quarantine.pop("shop-orders")] == [
        (9, "4 fields instead of 9"),
        (10, "order_id is no integer"),
        (11, "order_id is missing"),
        (12, "ordered_at is no moment"),
        (13, "shipping_cost is no money"),
    ]
    assert quarantine.pop("crm-users") == [
        {"source_file": "users/2025-03.jsonl", "line_number": 6, "reason": "no JSON"}
    ]
    assert set(quarantine) == {
        *("shop-order_items", "shop-refunds", "catalog-products", "web-events", "stock-stock_levels")
    }
    assert not any(quarantine.values())


# Rules one by one


@pytest.mark.parametrize(
    ("shipping", "amounts", "quantities", "expected"),
    [
        (1000, [1, 1, 1], [1, 1, 1], [400, 300, 300]),
        (1000, [0, 0], [1, 3], [300, 700]),
        (100, [5, 5], [9, 1], [100, 0]),
        (0, [5, 5], [1, 1], [0, 0]),
        (700, [0, 10], [5, 1], [0, 700]),
    ],
)
def test_shipping_goes_by_largest_remainder(
    shipping: int, amounts: list[int], quantities: list[int], expected: list[int]
) -> None:
    count = len(amounts)
    lines = pd.Series(range(count))[::-1].reset_index(drop=True)
    parts = truth.allocate(
        *(pd.Series([shipping] * count), pd.Series([1] * count), lines),
        *(pd.Series(amounts[::-1]), pd.Series(quantities[::-1])),
    )
    assert parts[::-1].tolist() == expected


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 10**8), st.integers(1, 20)), min_size=1, max_size=12
    ),
    st.integers(0, 5_000),
)  # fmt: skip
def test_every_cent_of_shipping_is_given_once(lines: list[tuple[int, int, int]], cents: int) -> None:
    table = pd.DataFrame(lines, columns=["order", "amount", "quantity"])
    shipping = cents * table["order"] * truth.CENT
    parts = truth.allocate(shipping, table["order"], pd.Series(range(len(table))), table["amount"], table["quantity"])
    assert (parts >= 0).all()
    assert (parts % truth.CENT == 0).all()
    by_order = parts.groupby(table["order"]).sum()
    assert (by_order == shipping.groupby(table["order"]).first()).all()


@pytest.mark.parametrize(
    ("ages", "median"), [([], None), ([30], 30), ([30, 31], 31), ([40, 10, 20], 20), ([1, 2, 4, 100], 3)]
)
def test_the_median_is_rounded_half_up(ages: list[int], median: int | None) -> None:
    assert truth.median_half_up(ages) == median


@pytest.mark.parametrize(
    ("age", "group"),
    [
        *((1, "Youth"), (18, "Youth"), (19, "Young Adult"), (30, "Young Adult"), (31, "Middle Age")),
        *((50, "Middle Age"), (51, "Senior"), (100, "Senior"), (None, "Unknown")),
    ],
)
def test_age_bands_include_their_upper_end(age: int | None, group: str) -> None:
    assert truth.age_group(age) == group


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-03-01T12:34:56Z", datetime(2025, 3, 1, 12, 34, 56)),
        ("2025-03-01 12:34:56", datetime(2025, 3, 1, 12, 34, 56)),
        ("2025-03-01 12:34:56.5", datetime(2025, 3, 1, 12, 34, 56, 500_000)),
        ("2025-03-01 01:34:56+02:00", datetime(2025, 2, 28, 23, 34, 56)),
        ("2025-03-01", datetime(2025, 3, 1)),
        ("01/03/2025 12:34", datetime(2025, 3, 1, 12, 34)),
        ("01/03/2025 12:34:56", datetime(2025, 3, 1, 12, 34, 56)),
        ("2025/03/01 12:34", datetime(2025, 3, 1, 12, 34)),
        ("2025/03/01 12:34:56", datetime(2025, 3, 1, 12, 34, 56)),
        ("Mar 01, 2025 12:34", datetime(2025, 3, 1, 12, 34)),
        ("Mar 01, 2025 12:34:56", datetime(2025, 3, 1, 12, 34, 56)),
        ("1740832496", datetime(2025, 3, 1, 12, 34, 56)),
        ("1740832496250", datetime(2025, 3, 1, 12, 34, 56, 250_000)),
        ("2025-02-30", None),
        ("2025-13-45 10:00", None),
        ("31/02/2025 10:00", None),
        ("yesterday", None),
        ("17408324961", None),
    ],
)
def test_moments_are_read_in_every_notation(text: str, moment: datetime | None) -> None:
    parsed = reading.moments(pd.Series([None, text, "2025-01-01", text], dtype=object))
    assert parsed.dtype == "datetime64[us]"
    assert pd.isna(parsed[0])
    assert parsed[2] == datetime(2025, 1, 1)
    assert (pd.isna(parsed[1]) and pd.isna(parsed[3])) if moment is None else (parsed[1] == parsed[3] == moment)


@pytest.mark.parametrize(
    ("text", "ten_thousandths"),
    [("12", 120_000), ("12.5", 125_000), ("12.50", 125_000), ("0.01", 100), ("-0.5", -5_000)],
)
def test_money_is_exact(text: str, ten_thousandths: int) -> None:
    assert reading.money(pd.Series([None, text], dtype=object)).tolist() == [pd.NA, ten_thousandths]


@pytest.mark.parametrize(
    ("email", "valid"),
    [
        *(("a@b.de", True), ("A.B+c@Mail.Example.ORG", True), (" a@b.de ", True), ("a@b", False), ("a b@c.de", False)),
        *(("@b.de", False), ("a@b.d", False), ("", False), (None, False), ("a@b.de, c@d.de", False)),
    ],
)
def test_emails_are_valid_or_missing(email: str | None, valid: bool) -> None:
    versions = pd.DataFrame([{**USER, "user_id": 1, "name": "A", "email": email, "age": "30"}], dtype=object)
    versions[["registered_at", "updated_at", "deleted_at"]] = pd.NaT
    user = truth.dim_users(versions).iloc[1]
    assert bool(user["is_email_valid"]) is valid
    assert user["email"] == (email.strip().lower() if valid else "unknown@example.com")


def test_two_different_versions_of_one_time_are_refused(tmp_path: Path) -> None:
    write_tiny_shop(tmp_path)
    again = ORDERS.splitlines()[1].replace(",1,new", ",2,new")
    (tmp_path / "orders/2025-04.csv").write_text(ORDERS.splitlines()[0] + "\n" + again + "\n")
    with pytest.raises(ValueError, match="order_id differ"):
        truth.compute(tmp_path)


def test_an_empty_folder_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no files of the demo shop"):
        truth.compute(tmp_path)


# Identities of a generated shop


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[reading.Source, dict[str, pd.DataFrame]]:
    home = tmp_path_factory.mktemp("generated")
    shop.init(Config(5, date(2024, 10, 1), 90, 12_000), home, home / "source", say=lambda _: None)
    source = reading.read(home / "source")
    return source, truth.marts(source)


def total(table: pd.DataFrame, column: str) -> Decimal:
    return sum(table[column], Decimal(0))


def test_every_cent_of_raw_is_in_the_marts(generated: tuple[reading.Source, dict[str, pd.DataFrame]]) -> None:
    marts = generated[1]
    days = marts["mart_money_reconciliation"]
    assert len(days) > 80
    assert total(days, "raw_net_value") > 100_000
    assert (days["difference"] == 0).all()
    sales, refunds = marts["fact_orders"], marts["fact_refunds"]
    parts = total(sales, "amount") + total(sales, "shipping_cost") + total(marts["fact_adjustments"], "amount")
    parts -= total(refunds, "amount") + total(refunds, "shipping_amount")
    assert total(days, "raw_net_value") == parts == total(marts["mart_daily_sales"], "net_sales")


def test_shipping_of_each_order_is_whole(generated: tuple[reading.Source, dict[str, pd.DataFrame]]) -> None:
    source, marts = generated
    by_order = marts["fact_orders"].groupby("order_id")["shipping_cost"].sum()
    orders = truth.current(source.tables["orders"], "order_id").set_index("order_id")["shipping_cost"]
    assert len(by_order) > 4_000
    assert [int(value * 10_000) for value in by_order] == orders[by_order.index].tolist()


def test_no_line_gives_back_more_than_it_sold(generated: tuple[reading.Source, dict[str, pd.DataFrame]]) -> None:
    marts = generated[1]
    back = marts["fact_refunds"].groupby("order_line_id")["amount"].sum()
    sold = marts["fact_orders"].set_index("order_line_id")["amount"]
    known = back[back.index.isin(sold.index)]
    assert len(known) > 500
    assert (known.array <= sold[known.index].array).all()


def test_references_hold_and_keys_are_unique(generated: tuple[reading.Source, dict[str, pd.DataFrame]]) -> None:
    marts = generated[1]
    keys = {"fact_orders": "order_line_id", "fact_refunds": "refund_line_id", "fact_adjustments": "adjustment_id"}
    for name, key in keys.items():
        table = marts[name]
        assert len(table) > 5
        assert table[key].is_unique
        assert table["user_id"].isin(marts["dim_users"]["user_id"]).all()
        assert table["product_id"].isin(marts["dim_products"]["product_id"]).all()
        assert table["date_id"].isin(marts["dim_date"]["date_id"]).all()
    assert marts["dim_users"]["user_id"].is_unique
    assert marts["dim_products"]["product_id"].is_unique
    assert set(marts["fact_orders"]["status"]) == {"pending", "completed", "cancelled"}
    assert (marts["fact_orders"]["user_id"] == -1).any()
    assert (marts["fact_orders"]["product_id"] == -1).any()
