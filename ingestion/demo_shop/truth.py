"""What the marts should hold, computed by plain Python and pandas from the shop's files (docs/contracts.md, "Marts").

Nothing here is shared with the warehouse: no SQL, no DuckDB, no code of the tap or of dbt. Money is counted in integer
ten-thousandths until the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ingestion.demo_shop import reading, truth_customers, truth_engagement, truth_history, words
from ingestion.demo_shop.postgres import OrderDatabase

TIME_ZONE = "Europe/Berlin"
CURRENCY = "EUR"
UNKNOWN = -1
UNKNOWN_EMAIL = "unknown@example.com"
KEYS = {
    "users": "user_id",
    "products": "product_id",
    "orders": "order_id",
    "order_items": "order_line_id",
    "refunds": "refund_id",
}
UNKNOWN_USER = {
    "user_id": UNKNOWN,
    "name": "unknown",
    "email": UNKNOWN_EMAIL,
    "is_email_valid": False,
    "is_age_imputed": False,
    "age_group": "Unknown",
    "country": "unknown",
}
UNKNOWN_PRODUCT = {"product_id": UNKNOWN, "name": "unknown", "category": "unknown"}
CENT = 100
"""Ten-thousandths in one minor unit."""

_EMAIL = r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}"
_MONEY = pd.ArrowDtype(pa.decimal128(18, 4))
_MONEY_COLUMNS = {
    *("amount", "shipping_cost", "shipping_amount", "price", "sales", "shipping", "refunds", "adjustments"),
    *("net_sales", "raw_net_value", "difference", "revenue", "average_order_value", "lifetime_value"),
}
_RATIO = pd.ArrowDtype(pa.decimal128(18, 6))
_RATIO_COLUMNS = {"conversion_rate", "retention_rate", "support", "confidence", "lift"}


def compute(source: Path) -> dict[str, pd.DataFrame]:
    """The marts by name, sorted by their keys, for the files below `source`.

    Money columns are Arrow decimal(18,4), timestamps naive UTC datetime64[us], `date` Arrow date32, ages Int64.
    """
    return marts(reading.read(source))


def marts(source: reading.Source) -> dict[str, pd.DataFrame]:
    """The marts for records already read."""
    tables = source.tables if source.is_ordered else in_order(source.tables)
    users = dim_users(current(tables["users"], "user_id"))
    products = dim_products(current(tables["products"], "product_id"))
    facts = _Facts(tables, set(users["user_id"]), set(products["product_id"]))
    counts = tables["stock_levels"]
    engagement = truth_engagement.marts(source.events, counts, products, facts.sales)
    days = [table["date_id"] for table in (facts.sales, facts.refunds, facts.adjustments)]
    # An event's deliveries say the same of who and when.
    events = source.events.drop_duplicates("event_id")
    events = events.assign(date_id=date_ids(events["occurred_at"]))
    days += [events["date_id"], date_ids(counts["recorded_at"])]
    result = {
        "fact_orders": facts.sales,
        "fact_refunds": facts.refunds,
        "fact_adjustments": facts.adjustments,
        "dim_users": users,
        "dim_products": products,
        "dim_users_history": truth_history.history(clean_users(tables["users"]), "user_id", UNKNOWN_USER),
        "dim_products_history": truth_history.history(
            clean_products(tables["products"]), "product_id", UNKNOWN_PRODUCT
        ),
        "dim_date": dim_date(pd.concat(days)),
        "mart_daily_sales": facts.daily_sales(),
        "mart_money_reconciliation": facts.reconciliation(),
        **engagement,
    }
    result |= truth_customers.marts(
        facts.sales,
        facts.refunds,
        facts.adjustments,
        events,
        set(users["user_id"]) - {UNKNOWN},
        UNKNOWN,
    )
    return {name: _finished(table) for name, table in result.items()}


def write(source: Path, out: Path, database: OrderDatabase | None = None) -> None:
    """Write one Parquet file per mart and quarantine.json (stream -> broken records) into `out`; each file whole."""
    read = reading.read(source, database)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in marts(read).items():
        beside = out / f".{name}.writing"
        pq.write_table(_arrow(table), beside)
        beside.replace(out / f"{name}.parquet")
    beside = out / ".quarantine.writing"
    beside.write_text(json.dumps(read.quarantine, indent=1) + "\n", "utf-8")
    beside.replace(out / "quarantine.json")


def in_order(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The versions of each key by their time, each once; a deletion counts from when it happened.

    Raises ValueError when two versions of a key differ and have the same time: the shop writes none such.
    """
    ordered = dict(tables)
    for entity, key in KEYS.items():
        versions = tables[entity].drop_duplicates()
        versions = versions.assign(updated_at=versions[["updated_at", "deleted_at"]].max(axis=1))
        if versions.duplicated([key, "updated_at"]).any():
            raise ValueError(f"two versions of one {key} differ but have the same updated_at")
        ordered[entity] = versions.sort_values([key, "updated_at"])
    return ordered


def current(versions: pd.DataFrame, key: str) -> pd.DataFrame:
    """The latest version of each key, deleted or not, by key; `versions` has those of a key in their order."""
    return versions.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)


# Dimensions


def clean_users(versions: pd.DataFrame) -> pd.DataFrame:
    """Versions of users as the warehouse shows them, row by row, with `version_at`; a missing age stays missing."""
    email = versions["email"].astype(object).str.strip().str.lower()
    valid = email.str.fullmatch(_EMAIL).eq(True)
    phone = versions["phone"].astype(object).str.replace(r"[^0-9]", "", regex=True)
    return pd.DataFrame(
        {
            "user_id": versions["user_id"].astype("int64"),
            "name": versions["name"],
            "email": email.where(valid, UNKNOWN_EMAIL),
            "is_email_valid": valid.astype(bool),
            "phone": phone.where(phone != "", None),
            "age": valid_ages(versions["age"]),
            "country": versions["country"].astype(object).str.strip(),
            "registered_at": versions["registered_at"],
            "deleted_at": versions["deleted_at"],
            "version_at": versions["updated_at"],
        }
    )


def dim_users(users: pd.DataFrame) -> pd.DataFrame:
    """Clean the current users, give each an age, and add the unknown one."""
    table = clean_users(users).drop(columns="version_at")
    own_age = table["age"]
    median = median_half_up(own_age[table["deleted_at"].isna()].dropna().tolist())
    table["age"] = own_age.fillna(median) if median is not None else own_age
    table.insert(6, "is_age_imputed", (own_age.isna() & (median is not None)).astype(bool))
    table.insert(7, "age_group", pd.Series([age_group(value) for value in table["age"]], table.index, dtype=object))
    return _with_member(table, UNKNOWN_USER).sort_values("user_id", ignore_index=True)


def valid_ages(text: pd.Series) -> pd.Series:
    """Ages from 1 to 100 as Int64; anything else is missing."""
    number = text.where(text.astype(object).str.fullmatch(r"\d{1,3}").eq(True)).astype("Int64")
    return number.where(number.between(1, 100).fillna(False))


def median_half_up(values: list[int]) -> int | None:
    """The median as a whole number, a half rounded up; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return int((low + high + 1) // 2)


def age_group(age: Any) -> str:
    """The age band of an age."""
    if pd.isna(age):
        return "Unknown"
    for limit, group in ((18, "Youth"), (30, "Young Adult"), (50, "Middle Age")):
        if age <= limit:
            return group
    return "Senior"


def clean_products(versions: pd.DataFrame) -> pd.DataFrame:
    """Versions of products as the warehouse shows them, row by row, with `version_at`."""
    return pd.DataFrame(
        {
            "product_id": versions["product_id"].astype("int64"),
            "name": versions["name"].astype(object).str.strip(),
            "category": versions["category"].astype(object).str.strip().fillna("unknown"),
            "price": versions["price"],
            "deleted_at": versions["deleted_at"],
            "version_at": versions["updated_at"],
        }
    )


def dim_products(products: pd.DataFrame) -> pd.DataFrame:
    """Clean the current products and add the unknown one."""
    table = clean_products(products).drop(columns="version_at")
    return _with_member(table, UNKNOWN_PRODUCT).sort_values("product_id", ignore_index=True)


def _with_member(table: pd.DataFrame, member: dict[str, Any]) -> pd.DataFrame:
    row = pd.DataFrame({column: pd.Series([member.get(column)], dtype=table[column].dtype) for column in table})
    return pd.concat([table, row], ignore_index=True)


def dim_date(date_ids: pd.Series) -> pd.DataFrame:
    """Every day of the years that have facts; none without facts."""
    if date_ids.empty:
        return dim_date(pd.Series([20240101])).head(0)
    first, last = int(date_ids.min()) // 10_000, int(date_ids.max()) // 10_000
    day = pd.Series(pd.date_range(f"{first}-01-01", f"{last}-12-31", unit="us"))
    return pd.DataFrame(
        {
            "date_id": _date_id_of(day),
            "date": _date_of(_date_id_of(day)),
            "year": day.dt.year.astype("int64"),
            "quarter": day.dt.quarter.astype("int64"),
            "month": day.dt.month.astype("int64"),
            "day": day.dt.day.astype("int64"),
            "day_of_week": day.dt.day_of_week.astype("int64") + 1,
            "is_weekend": day.dt.day_of_week >= 5,
        }
    )


# Facts


def allocate(
    shipping: pd.Series, order: pd.Series, line: pd.Series, amount: pd.Series, quantity: pd.Series
) -> pd.Series:
    """Each line's part of its order's shipping, in ten-thousandths but whole cents.

    All arguments have one element per line; `shipping` repeats the order's. Parts follow the amounts (the quantities
    where an order's amounts are all zero; equal parts where its quantities are, too), rounded down to cents; the cents
    left over go to the largest remainders, ties to the smaller line id. Raises ValueError of shipping that is no whole
    number of cents.
    """
    if (shipping % CENT != 0).any():
        raise ValueError("shipping is not a whole number of cents")
    weight = amount.where(amount.groupby(order).transform("sum") > 0, quantity.clip(lower=0))
    weight = weight.where(weight.groupby(order).transform("sum") > 0, 1)
    total = weight.groupby(order).transform("sum")
    cents = shipping // CENT
    part, remainder = cents * weight // total, cents * weight % total
    left = cents - part.groupby(order).transform("sum")
    ranked = pd.DataFrame({"order": order, "remainder": -remainder, "line": line}).sort_values(
        ["order", "remainder", "line"]
    )
    rank = ranked.groupby("order").cumcount().reindex(order.index)
    return (part + (rank < left)) * CENT


class _Facts:
    """The facts of a shop, from its current orders, lines and refunds."""

    def __init__(self, tables: dict[str, pd.DataFrame], users: set[int], products: set[int]) -> None:
        self._users, self._products = users, products
        orders = current(tables["orders"], "order_id")
        lines = current(tables["order_items"], "order_line_id")
        refunds = current(tables["refunds"], "refund_id")
        lines["amount"] = lines["quantity"] * lines["unit_price"] - lines["discount"]
        # A refund belongs to the order of its line; without the line, to the order that it names. Either may name none.
        lines["order_id"] = lines["order_id"].fillna(UNKNOWN)
        order_of_line = lines.set_index("order_line_id")["order_id"]
        order_of_line = refunds["order_line_id"].map(order_of_line).fillna(refunds["order_id"])
        refunds["order_id"] = order_of_line.fillna(UNKNOWN).astype("Int64")
        gone_orders = set(orders.loc[orders["deleted_at"].notna(), "order_id"])
        gone_lines = set(lines.loc[lines["deleted_at"].notna(), "order_line_id"])
        self._orders = orders[orders["deleted_at"].isna()]
        self._orders = self._orders.assign(status=canonical_status(self._orders["status"]))
        lines = lines[lines["deleted_at"].isna() & ~lines["order_id"].isin(gone_orders)]
        self._lines = lines.merge(
            self._orders.drop(columns=["updated_at", "deleted_at"]), on="order_id", how="left", indicator="has_order"
        )
        self._refunds = refunds[
            refunds["deleted_at"].isna()
            & ~refunds["order_line_id"].isin(gone_lines)
            & ~refunds["order_id"].isin(gone_orders)
        ]
        self.sales = self._make_sales()
        self.refunds = pd.concat([self._make_refunds(), self._make_cancellations()]).sort_values(
            "refund_line_id", ignore_index=True
        )
        self.adjustments = self._make_adjustments()

    def _user(self, ids: pd.Series) -> pd.Series:
        return ids.where(ids.isin(self._users), UNKNOWN).astype("int64")

    def _product(self, ids: pd.Series) -> pd.Series:
        return ids.where(ids.isin(self._products), UNKNOWN).astype("int64")

    def _make_sales(self) -> pd.DataFrame:
        lines = self._lines
        lines = lines[(lines["has_order"] == "both") & (lines["amount"] >= 0)]
        ids = lines[["order_line_id", "order_id"]].astype("int64")
        amount, quantity = lines["amount"].astype("int64"), lines["quantity"].astype("int64")
        shipping = lines["shipping_cost"].astype("int64")
        return pd.DataFrame(
            {
                **ids,
                "user_id": self._user(lines["user_id"]),
                "product_id": self._product(lines["product_id"]),
                "date_id": date_ids(lines["ordered_at"]),
                "status": lines["status"],
                "quantity": quantity,
                "amount": amount,
                "shipping_cost": allocate(shipping, ids["order_id"], ids["order_line_id"], amount, quantity),
                "currency": lines["currency"],
                "ordered_at": lines["ordered_at"],
            }
        ).sort_values("order_line_id", ignore_index=True)

    def _make_refunds(self) -> pd.DataFrame:
        lines = self._lines[["order_line_id", "product_id"]]
        orders = self._orders[["order_id", "user_id"]]
        refunds = self._refunds.merge(lines, on="order_line_id", how="left").merge(orders, on="order_id", how="left")
        return pd.DataFrame(
            {
                "refund_line_id": "refund-" + refunds["refund_id"].astype(str),
                "kind": "refund",
                "order_line_id": refunds["order_line_id"],
                "order_id": refunds["order_id"].astype("int64"),
                "user_id": self._user(refunds["user_id"]),
                "product_id": self._product(refunds["product_id"]),
                "date_id": date_ids(refunds["refunded_at"]),
                "amount": refunds["amount"].astype("int64"),
                "shipping_amount": 0,
                "currency": CURRENCY,
                "refunded_at": refunds["refunded_at"],
            }
        )

    def _make_cancellations(self) -> pd.DataFrame:
        orders = self._orders[self._orders["status"] == words.CANCELLED]
        orders = orders.assign(given_back=orders["cancelled_at"].fillna(orders["updated_at"]))
        lines = self.sales.merge(orders[["order_id", "given_back"]], on="order_id")
        refunds = self._refunds.rename(columns={"amount": "refunded"})[["order_line_id", "refunded", "refunded_at"]]
        before = lines[["order_line_id", "given_back"]].merge(refunds, on="order_line_id")
        before = before[before["refunded_at"] <= before["given_back"]]
        refunded = before.groupby("order_line_id")["refunded"].sum()
        rest = lines["amount"] - refunded.reindex(lines["order_line_id"]).fillna(0).astype("int64").array
        moment = lines["given_back"]
        return pd.DataFrame(
            {
                "refund_line_id": "cancellation-" + lines["order_line_id"].astype(str),
                "kind": "cancellation",
                **lines[["order_line_id", "order_id", "user_id", "product_id"]],
                "date_id": date_ids(moment),
                "amount": rest.clip(lower=0),
                "shipping_amount": lines["shipping_cost"],
                "currency": lines["currency"],
                "refunded_at": moment,
            }
        )

    def _make_adjustments(self) -> pd.DataFrame:
        lines, orders = self._lines, self._orders
        homeless = lines[lines["has_order"] == "left_only"]
        negative = lines[(lines["has_order"] == "both") & (lines["amount"] < 0)]
        bare = orders[~orders["order_id"].isin(self.sales["order_id"]) & (orders["shipping_cost"] != 0)]
        parts = [
            self._adjustments(homeless, "line_without_order", "created_at", "amount"),
            self._adjustments(negative, "negative_line", "ordered_at", "amount"),
            self._adjustments(bare, "shipping_without_lines", "ordered_at", "shipping_cost"),
        ]
        return pd.concat(parts).sort_values("adjustment_id", ignore_index=True)

    def _adjustments(self, rows: pd.DataFrame, kind: str, moment: str, amount: str) -> pd.DataFrame:
        of_order = kind == "shipping_without_lines"
        number = rows["order_id" if of_order else "order_line_id"].astype(str)
        return pd.DataFrame(
            {
                "adjustment_id": ("shipping-" if of_order else "line-") + number,
                "kind": kind,
                "order_id": rows["order_id"].astype("int64"),
                "user_id": self._user(rows["user_id"]),
                "product_id": UNKNOWN if of_order else self._product(rows["product_id"]),
                "date_id": date_ids(rows[moment]),
                "amount": rows[amount].astype("int64"),
                "currency": CURRENCY,
                "adjusted_at": rows[moment],
            }
        )

    # Marts

    def _sums(self) -> pd.DataFrame:
        """Sales, shipping, refunds and adjustments by date_id, for each day that has any."""
        sales = self.sales.groupby("date_id")[["amount", "shipping_cost"]].sum()
        refunds = self.refunds.groupby("date_id")[["amount", "shipping_amount"]].sum().sum(axis=1)
        adjustments = self.adjustments.groupby("date_id")["amount"].sum()
        table = pd.DataFrame(
            {
                "sales": sales["amount"],
                "shipping": sales["shipping_cost"],
                "refunds": refunds,
                "adjustments": adjustments,
            }
        )
        return table.fillna(0).astype("int64").sort_index()

    def daily_sales(self) -> pd.DataFrame:
        """One row per day that has a sale, a refund or an adjustment."""
        by_day = self.sales.groupby("date_id")
        counts = pd.DataFrame(
            {
                "orders_count": by_day["order_id"].nunique(),
                "lines_count": by_day.size(),
                "units_sold": by_day["quantity"].sum(),
                "customers_count": by_day["user_id"].nunique(),
            }
        )
        sums = self._sums()
        table = counts.reindex(sums.index).fillna(0).astype("int64").join(sums)
        table["net_sales"] = table["sales"] + table["shipping"] - table["refunds"] + table["adjustments"]
        table.insert(0, "date", _date_of(table.index.to_series()))
        return table.rename_axis("date_id").reset_index()

    def reconciliation(self) -> pd.DataFrame:
        """One row per transaction day: raw's net value beside the parts; quarantined_rows is null (wall-clock days)."""
        table = self._sums()
        raw = self._raw_net_value().reindex(table.index).fillna(0).astype("int64")
        table.insert(0, "raw_net_value", raw)
        parts = table["sales"] + table["shipping"] - table["refunds"] + table["adjustments"]
        table["difference"] = raw - parts
        table["quarantined_rows"] = pd.array([None] * len(table), dtype="Int64")
        table.insert(0, "date", _date_of(table.index.to_series()))
        return table.rename_axis("date_id").reset_index()

    def _raw_net_value(self) -> pd.Series:
        """The value of current, undeleted raw by day, order by order and without the facts."""
        net: dict[int, int] = {}

        def add(day: int, value: int) -> None:
            net[day] = net.get(day, 0) + value

        refunded: dict[int, list[tuple[pd.Timestamp, int]]] = {}
        refunds = self._refunds
        for day, line, moment, value in zip(
            date_ids(refunds["refunded_at"]),
            refunds["order_line_id"],
            refunds["refunded_at"],
            refunds["amount"],
            strict=True,
        ):
            add(day, -int(value))
            refunded.setdefault(line, []).append((moment, int(value)))

        lines_of: dict[int, list[tuple[int, int]]] = {}
        lines = self._lines
        for order, line, value, created in zip(
            lines["order_id"], lines["order_line_id"], lines["amount"], date_ids(lines["created_at"]), strict=True
        ):
            lines_of.setdefault(int(order), []).append((int(line), int(value)))
            add(created, int(value))
        # The lines of a known order count on the order's day, not on their own.
        known = lines[lines["has_order"] == "both"]
        for created, ordered, value in zip(
            date_ids(known["created_at"]), date_ids(known["ordered_at"]), known["amount"], strict=True
        ):
            add(created, -int(value))
            add(ordered, int(value))

        orders = self._orders
        given_back = orders["cancelled_at"].fillna(orders["updated_at"])
        for order, ordered, status, shipping, moment, day in zip(
            orders["order_id"],
            date_ids(orders["ordered_at"]),
            orders["status"],
            orders["shipping_cost"],
            given_back,
            date_ids(given_back),
            strict=True,
        ):
            add(ordered, int(shipping))
            sold = [(line, value) for line, value in lines_of.get(int(order), []) if value >= 0]
            if status == words.CANCELLED and sold:
                add(day, -int(shipping))
                for line, value in sold:
                    back = sum(part for when, part in refunded.get(line, []) if when <= moment)
                    add(day, -max(0, value - back))
        return pd.Series(net, dtype="int64")


def canonical_status(text: pd.Series) -> pd.Series:
    """pending, completed or cancelled for any accepted spelling; ValueError for another word."""
    table = {word: status for status, forms in words.STATUSES.items() for word in forms}
    status = text.astype(object).str.strip().str.lower().map(table)
    if status.isna().any():
        raise ValueError(f"unknown order status {text[status.isna()].iloc[0]!r}")
    return status


def date_ids(moment: pd.Series) -> pd.Series:
    """yyyymmdd of each moment (naive UTC) in the shop's time zone."""
    local = moment.dt.tz_localize("UTC").dt.tz_convert(TIME_ZONE)
    return _date_id_of(local)


def _date_id_of(day: pd.Series) -> pd.Series:
    return (day.dt.year * 10_000 + day.dt.month * 100 + day.dt.day).astype("int64")


def _date_of(date_id: pd.Series) -> pd.Series:
    days = pd.to_datetime(date_id.astype(str), format="%Y%m%d")
    return days.dt.date.astype(pd.ArrowDtype(pa.date32()))


def _finished(table: pd.DataFrame) -> pd.DataFrame:
    """Ten-thousandths of money and millionths of ratios as decimals."""
    changed = {}
    for columns, dtype in ((_MONEY_COLUMNS, _MONEY), (_RATIO_COLUMNS, _RATIO)):
        for column in columns.intersection(table.columns):
            decimals = _decimals(table[column], dtype.pyarrow_dtype)
            changed[column] = pd.Series(decimals, index=table.index, dtype=dtype)
    return table.assign(**changed)


def _decimals(whole: pd.Series, dtype: pa.Decimal128Type) -> pa.Array:
    """Exact decimals of whole numbers of their last digit: both are 128-bit integers underneath."""
    missing = whole.isna().to_numpy()
    low = whole.fillna(0).astype("int64").to_numpy()
    words_of = np.column_stack([low, low >> 63])
    valid = pa.array(~missing).buffers()[1]
    return pa.Array.from_buffers(dtype, len(low), [valid, pa.py_buffer(words_of.tobytes())])


def _arrow(table: pd.DataFrame) -> pa.Table:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    types = [pa.string() if pa.types.is_large_string(field.type) else field.type for field in arrow.schema]
    return arrow.cast(pa.schema(zip(arrow.column_names, types, strict=True)))
