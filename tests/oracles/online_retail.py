"""What the marts must hold for a folder of Online Retail files, by pandas alone.

Nothing here is shared with the warehouse: the files are read by pandas, money is counted in integers of 1/10000 pound
(prices have up to three decimals), and the business rules of DECISIONS.md ("Online Retail") are written a second time.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

from tests.oracles import online_retail_absent, online_retail_customers, online_retail_history

COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]
UNITS = 10_000
UNITS_PER_PENNY = 100
UNKNOWN = "unknown"
CURRENCY = "GBP"

SHIPPING_CODES = {"POST", "DOT", "C2"}
ADJUSTMENT_CODES = {
    "M": "manual",
    "D": "discount",
    "S": "samples",
    "AMAZONFEE": "marketplace_fee",
    "BANK CHARGES": "bank_charges",
    "CRUK": "charity_commission",
    "B": "bad_debt",
    "PADS": "giveaway",
}


def read_lines(folder: Path) -> pd.DataFrame:
    """All lines of the `*.csv` and `*.csv.gz` files below `folder`, as text, with `file` and their `line_id`.

    A line is identified by its file, its content and its place among the file's equal lines, so that the order of files
    and of loads does not matter, and equal lines count as often as they occur.
    """
    parts = []
    for path in sorted(folder.rglob("*.csv*")):
        part = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")[COLUMNS]
        parts.append(part.assign(file=path.relative_to(folder).as_posix()))
    lines = pd.concat(parts, ignore_index=True)
    lines["row_hash"] = _row_hashes(lines)
    occurrence = lines.groupby(["file", "row_hash"]).cumcount() + 1
    identity = lines["file"] + "|" + lines["row_hash"] + "|" + occurrence.astype(str)
    lines["line_id"] = [_md5(value) for value in identity]
    return lines


def compute(folder: Path) -> dict[str, pd.DataFrame]:
    """The marts for the files below `folder`, each ordered by its key; and three tables for checking.

    Money is Decimal with four places, ratios with six, timestamps are naive UTC, ids are text. Beside the marts:
    `raw_by_month` (month, lines, net_value, straight from the files), `net_by_month` (month, net_value, from the marts'
    parts) and `sales_by_category_2011`, the result of the design's sales query.
    """
    lines = _classified(read_lines(folder))
    orders = _orders(lines)
    fact_orders = _fact_orders(lines, orders)
    fact_refunds = _fact_refunds(lines)
    fact_adjustments = _fact_adjustments(lines, orders, fact_orders)
    dim_users = _dim_users(lines)
    dim_products = _dim_products(lines)
    daily = _daily(fact_orders, fact_refunds, fact_adjustments)

    result = {
        "fact_orders": fact_orders.drop(columns="day"),
        "fact_refunds": fact_refunds.drop(columns="day"),
        "fact_adjustments": fact_adjustments.drop(columns="day"),
        "dim_users": dim_users,
        "dim_products": dim_products,
        "dim_users_history": online_retail_history.dim_users_history(lines),
        "dim_products_history": online_retail_history.dim_products_history(_ranked_products(lines)),
        "dim_date": _dim_date(daily["date"]),
        "mart_daily_sales": daily[
            [
                "date_id",
                "date",
                "orders_count",
                "lines_count",
                "units_sold",
                "customers_count",
                "sales",
                "shipping",
                "refunds",
                "adjustments",
                "net_sales",
            ]
        ],
        "mart_money_reconciliation": _reconciliation(lines, daily),
        "raw_by_month": _by_month(
            lines.assign(month=lines["InvoiceDate"].str[:7])
            .groupby("month", as_index=False)
            .agg(lines=("value", "size"), net_value=("value", "sum"))
        ),
        "net_by_month": _by_month(
            daily.assign(month=daily["date"].str[:7])
            .groupby("month", as_index=False)
            .agg(net_value=("net_sales", "sum"))
        ),
        "sales_by_category_2011": _sales_by_category(fact_orders, dim_products, 2011),
    }
    result |= online_retail_customers.compute(fact_orders, fact_refunds, fact_adjustments, dim_users, UNKNOWN)
    keys = {
        "fact_orders": "order_line_id",
        "fact_refunds": "refund_line_id",
        "fact_adjustments": "adjustment_id",
        "dim_users": "user_id",
        "dim_products": "product_id",
        "dim_users_history": ["user_id", "valid_from"],
        "dim_products_history": ["product_id", "valid_from"],
    }
    for name, key in keys.items():
        result[name] = result[name].sort_values(key).reset_index(drop=True)
    return {name: _with_decimals(frame) for name, frame in result.items()} | online_retail_absent.marts()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _row_hashes(lines: pd.DataFrame) -> list[str]:
    """The contract's `_sdc_row_hash` of each line; an empty field is null."""
    parts = []
    for name in sorted(COLUMNS):
        of_value = {value: f"\0{name}\0{value}" for value in lines[name].unique()}
        parts.append(lines[name].map(of_value | {"": ""}).tolist())
    return [_md5("".join(row)) for row in zip(*parts, strict=True)]


def _classified(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines with parsed values and their `role`: sale, shipping, refund, or an adjustment's kind."""
    lines = lines.copy()
    lines["invoice"] = lines["InvoiceNo"].str.strip().str.upper()
    lines["code"] = lines["StockCode"].str.strip().str.upper()
    lines["name"] = lines["Description"].str.strip().replace("", None)
    lines["country"] = lines["Country"].str.strip().replace("", None)
    lines["quantity"] = lines["Quantity"].astype("int64")
    lines["price"] = [int(Decimal(price) * UNITS) for price in lines["UnitPrice"]]
    lines["value"] = lines["quantity"] * lines["price"]
    lines["customer"] = lines["CustomerID"].str.strip().str.replace(r"\.0$", "", regex=True).replace("", None)
    local = pd.to_datetime(lines["InvoiceDate"], format="%Y-%m-%d %H:%M:%S").dt.tz_localize("Europe/London")
    lines["at"] = local.dt.tz_convert("UTC").dt.tz_localize(None)
    lines["day"] = local.dt.strftime("%Y-%m-%d")

    is_cancellation = lines["invoice"].str.startswith("C")
    is_shipping = lines["code"].isin(SHIPPING_CODES)
    code_kind = lines["code"].map(ADJUSTMENT_CODES)
    charges = ~is_cancellation & (lines["quantity"] > 0) & (lines["price"] > 0)
    # The first condition that holds decides.
    lines["role"] = np.select(
        [
            code_kind.notna(),
            lines["invoice"].str.startswith("A"),
            (lines["price"] == 0) & (lines["quantity"] < 0),
            lines["price"] == 0,
            charges & is_shipping,
            charges,
            is_cancellation & (lines["value"] < 0),
        ],
        [code_kind, "bad_debt", "stock_correction", "zero_price", "shipping", "sale", "refund"],
        default="correction",
    )
    lines["is_shipping"] = is_shipping
    lines["is_product"] = ~is_shipping & code_kind.isna()
    return lines


def _orders(lines: pd.DataFrame) -> pd.DataFrame:
    """One row per invoice that sells or ships: its latest line gives time and customer; shipping in units."""
    parts = lines[lines["role"].isin(["sale", "shipping"])].sort_values(["at", "row_hash"])
    orders = parts.groupby("invoice").agg(at=("at", "last"), day=("day", "last"))
    last = parts.drop_duplicates("invoice", keep="last").set_index("invoice")
    orders["customer"] = last["customer"]
    orders["shipping"] = parts[parts["role"] == "shipping"].groupby("invoice")["value"].sum()
    orders["shipping"] = orders["shipping"].fillna(0).astype("int64")
    return orders


def _fact_orders(lines: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    sales = lines[lines["role"] == "sale"].sort_values(["invoice", "line_id"]).reset_index(drop=True)
    head = orders.loc[sales["invoice"]].reset_index(drop=True)
    shares: list[int] = []
    for invoice, amounts in sales.groupby("invoice", sort=False)["value"]:
        shares.extend(_spread(int(orders.at[invoice, "shipping"]), amounts.tolist()))
    return pd.DataFrame(
        {
            "order_line_id": sales["line_id"],
            "order_id": sales["invoice"],
            "user_id": head["customer"].fillna(UNKNOWN),
            "product_id": sales["code"],
            "date_id": _date_id(head["day"]),
            "status": "completed",
            "quantity": sales["quantity"],
            "amount": sales["value"],
            "shipping_cost": shares,
            "currency": CURRENCY,
            "ordered_at": head["at"],
            "day": head["day"],
        }
    )


def _spread(shipping: int, amounts: list[int]) -> list[int]:
    """Spread `shipping` over lines (in the order of their ids) by amount, in pennies, by largest remainder."""
    pennies, rest = divmod(shipping, UNITS_PER_PENNY)
    if rest:
        raise ValueError(f"shipping of {shipping} units is not a whole number of pennies")
    total = sum(amounts)
    shares = [pennies * amount // total for amount in amounts]
    by_remainder = sorted(range(len(amounts)), key=lambda line: (-(pennies * amounts[line] % total), line))
    for line in by_remainder[: pennies - sum(shares)]:
        shares[line] += 1
    return [share * UNITS_PER_PENNY for share in shares]


def _fact_refunds(lines: pd.DataFrame) -> pd.DataFrame:
    refunds = lines[lines["role"] == "refund"]
    given_back = -refunds["value"]
    return pd.DataFrame(
        {
            "refund_line_id": "refund-" + refunds["line_id"],
            "kind": "refund",
            "order_line_id": None,
            "order_id": refunds["invoice"],
            "user_id": refunds["customer"].fillna(UNKNOWN),
            "product_id": refunds["code"].where(refunds["is_product"], UNKNOWN),
            "date_id": _date_id(refunds["day"]),
            "amount": given_back.where(~refunds["is_shipping"], 0),
            "shipping_amount": given_back.where(refunds["is_shipping"], 0),
            "currency": CURRENCY,
            "refunded_at": refunds["at"],
            "day": refunds["day"],
        }
    )


def _fact_adjustments(lines: pd.DataFrame, orders: pd.DataFrame, fact_orders: pd.DataFrame) -> pd.DataFrame:
    others = lines[~lines["role"].isin(["sale", "shipping", "refund"])]
    of_lines = pd.DataFrame(
        {
            "adjustment_id": others["line_id"],
            "kind": others["role"],
            "order_id": others["invoice"],
            "user_id": others["customer"].fillna(UNKNOWN),
            "product_id": others["code"].where(others["is_product"], UNKNOWN),
            "date_id": _date_id(others["day"]),
            "amount": others["value"],
            "currency": CURRENCY,
            "adjusted_at": others["at"],
            "day": others["day"],
        }
    )
    without_lines = orders[(orders["shipping"] != 0) & ~orders.index.isin(fact_orders["order_id"])].reset_index()
    of_shipping = pd.DataFrame(
        {
            "adjustment_id": "shipping-" + without_lines["invoice"],
            "kind": "shipping_without_lines",
            "order_id": without_lines["invoice"],
            "user_id": without_lines["customer"].fillna(UNKNOWN),
            "product_id": UNKNOWN,
            "date_id": _date_id(without_lines["day"]),
            "amount": without_lines["shipping"],
            "currency": CURRENCY,
            "adjusted_at": without_lines["at"],
            "day": without_lines["day"],
        }
    )
    return pd.concat([of_lines, of_shipping], ignore_index=True)


def _dim_users(lines: pd.DataFrame) -> pd.DataFrame:
    named = lines[lines["customer"].notna()].sort_values(["at", "row_hash"]).drop_duplicates("customer", keep="last")
    users = pd.DataFrame({"user_id": [*named["customer"], UNKNOWN]})
    users["name"] = [None] * len(named) + [UNKNOWN]
    users["email"] = "unknown@example.com"
    users["is_email_valid"] = False
    users["phone"] = None
    users["age"] = None
    users["is_age_imputed"] = False
    users["age_group"] = "Unknown"
    users["country"] = [*named["country"], UNKNOWN]
    users["registered_at"] = pd.NaT
    users["deleted_at"] = pd.NaT
    return users


def _ranked_products(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines that name a product, with `rank`: 2 sells it, 1 has a price, 0 only shows that it exists."""
    products = lines[lines["is_product"]].copy()
    is_charged = ~products["invoice"].str.startswith(("C", "A")) & (products["quantity"] > 0) & (products["price"] > 0)
    products["rank"] = np.select([is_charged, products["price"] != 0], [2, 1], default=0)
    return products


def _dim_products(lines: pd.DataFrame) -> pd.DataFrame:
    latest = _ranked_products(lines).sort_values(["rank", "at", "row_hash"]).drop_duplicates("code", keep="last")
    has_price = (latest["rank"] > 0).tolist()
    return pd.DataFrame(
        {
            "product_id": [*latest["code"], UNKNOWN],
            "name": [*latest["name"].where(has_price, None), UNKNOWN],
            "category": UNKNOWN,
            "price": [*latest["price"].astype(object).where(has_price, None), None],
            "deleted_at": pd.NaT,
        }
    )


def _dim_date(days: pd.Series) -> pd.DataFrame:
    """All days of the years in which something happened."""
    dates = pd.Series(pd.date_range(f"{days.min()[:4]}-01-01", f"{days.max()[:4]}-12-31", freq="D"))
    return pd.DataFrame(
        {
            "date_id": _date_id(dates.dt.strftime("%Y-%m-%d")),
            "date": dates.dt.strftime("%Y-%m-%d"),
            "year": dates.dt.year,
            "quarter": dates.dt.quarter,
            "month": dates.dt.month,
            "day": dates.dt.day,
            "day_of_week": dates.dt.day_of_week + 1,
            "is_weekend": dates.dt.day_of_week >= 5,
        }
    )


def _daily(fact_orders: pd.DataFrame, fact_refunds: pd.DataFrame, fact_adjustments: pd.DataFrame) -> pd.DataFrame:
    sales = fact_orders.groupby("day").agg(
        orders_count=("order_id", "nunique"),
        lines_count=("order_line_id", "size"),
        units_sold=("quantity", "sum"),
        customers_count=("user_id", "nunique"),
        sales=("amount", "sum"),
        shipping=("shipping_cost", "sum"),
    )
    refunds = (fact_refunds["amount"] + fact_refunds["shipping_amount"]).groupby(fact_refunds["day"]).sum()
    adjustments = fact_adjustments.groupby("day")["amount"].sum()
    daily = pd.concat([sales, refunds.rename("refunds"), adjustments.rename("adjustments")], axis=1).sort_index()
    daily = daily.fillna(0).astype("int64").rename_axis("date").reset_index()
    daily["net_sales"] = daily["sales"] + daily["shipping"] - daily["refunds"] + daily["adjustments"]
    daily.insert(0, "date_id", _date_id(daily["date"]))
    return daily


def _reconciliation(lines: pd.DataFrame, daily: pd.DataFrame) -> pd.DataFrame:
    raw = lines.groupby("day")["value"].sum().rename("raw_net_value").rename_axis("date").reset_index()
    parts = daily[["date_id", "date", "sales", "shipping", "refunds", "adjustments", "net_sales"]]
    table = parts.merge(raw, on="date", how="outer")
    table["difference"] = table["raw_net_value"] - table.pop("net_sales")
    return table[["date_id", "date", "raw_net_value", "sales", "shipping", "refunds", "adjustments", "difference"]]


def _sales_by_category(fact_orders: pd.DataFrame, dim_products: pd.DataFrame, year: int) -> pd.DataFrame:
    """Year, month, category, total_sales, unique_customers: the unknown member counts as one customer."""
    joined = fact_orders.merge(dim_products[["product_id", "category"]], on="product_id")
    days = pd.to_datetime(joined["day"])
    joined = joined.assign(year=days.dt.year, month=days.dt.month)
    joined = joined[joined["year"] == year]
    grouped = joined.groupby(["year", "month", "category"], as_index=False).agg(
        total_sales=("amount", "sum"), unique_customers=("user_id", "nunique")
    )
    return grouped.sort_values("total_sales", ascending=False).reset_index(drop=True)


def _date_id(day: pd.Series) -> pd.Series:
    return day.str.replace("-", "").astype("int64")


def _by_month(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("month").reset_index(drop=True)


_MONEY = {
    "amount",
    "shipping_cost",
    "shipping_amount",
    "price",
    "sales",
    "shipping",
    "refunds",
    "adjustments",
    "net_sales",
    "raw_net_value",
    "difference",
    "net_value",
    "total_sales",
    "revenue",
    "average_order_value",
    "lifetime_value",
}
_RATIOS = {"conversion_rate", "retention_rate", "support", "confidence", "lift"}


def _with_decimals(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its money turned from units into Decimal pounds of four places, its ratios from millionths."""
    frame = frame.copy()
    for columns, places in ((_MONEY, 4), (_RATIOS, 6)):
        for column in columns.intersection(frame.columns):
            frame[column] = pd.Series(
                [None if pd.isna(value) else Decimal(int(value)).scaleb(-places) for value in frame[column]],
                index=frame.index,
                dtype=object,
            )
    return frame
