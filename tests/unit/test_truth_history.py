"""The truth of the histories, on versions written by hand."""

from __future__ import annotations

import pandas as pd

from ingestion.demo_shop import truth_history

MEMBER = {"product_id": -1, "price": None}


def versions(*rows: tuple[int, int | None, str, str | None]) -> pd.DataFrame:
    """Versions of products: id, price, day of the version, day of its deletion."""
    table = pd.DataFrame(rows, columns=["product_id", "price", "version_at", "deleted_at"])
    moments = {"version_at": "datetime64[us]", "deleted_at": "datetime64[us]"}
    return table.astype({"product_id": "int64", "price": "Int64"} | moments)


def spells(table: pd.DataFrame, product_id: int) -> list[tuple]:
    """Number, price, first and last day of each version of a product."""
    rows = table[table["product_id"] == product_id]
    return [
        (
            row.version_number,
            row.price,
            str(row.valid_from.date()),
            None if row.is_current else str(row.valid_to.date()),
        )
        for row in rows.itertuples()
    ]


def test_versions_follow_each_other_from_1970_on() -> None:
    table = truth_history.history(
        versions((1, 10, "2024-01-01", None), (1, 20, "2024-02-01", None)), "product_id", MEMBER
    )
    assert spells(table, 1) == [(1, 10, "1970-01-01", "2024-02-01"), (2, 20, "2024-02-01", None)]
    assert spells(table, -1) == [(1, pd.NA, "1970-01-01", None)]


def test_what_says_the_same_is_one_version() -> None:
    table = truth_history.history(
        versions(
            *((1, 10, day, None) for day in ("2024-01-01", "2024-02-01", "2024-02-01")),
            (1, None, "2024-03-01", None),
            (1, None, "2024-04-01", None),
            (1, 10, "2024-05-01", None),
        ),
        "product_id",
        MEMBER,
    )
    assert spells(table, 1) == [
        (1, 10, "1970-01-01", "2024-03-01"),
        (2, pd.NA, "2024-03-01", "2024-05-01"),
        (3, 10, "2024-05-01", None),
    ]
    assert table["version_at"].dropna().tolist()[0] == pd.Timestamp("2024-01-01")


def test_a_deletion_is_a_version_and_a_comeback_another() -> None:
    table = truth_history.history(
        versions((1, 10, "2024-01-01", None), (1, 10, "2024-02-01", "2024-02-01"), (1, 10, "2024-03-01", None)),
        "product_id",
        MEMBER,
    )
    assert [str(moment.date()) if pd.notna(moment) else None for moment in table["deleted_at"]] == [
        *(None, None, "2024-02-01", None)
    ]
    assert [row[2] for row in spells(table, 1)] == ["1970-01-01", "2024-02-01", "2024-03-01"]


def test_of_versions_of_one_time_the_last_counts() -> None:
    both = versions((1, 10, "2024-01-01", None), (1, 20, "2024-01-01", None))
    assert spells(truth_history.history(both, "product_id", MEMBER), 1) == [(1, 20, "1970-01-01", None)]


def test_a_version_that_steps_back_in_time_holds_from_the_one_before() -> None:
    back = versions((1, 10, "2024-01-01", None), (1, 20, "2024-03-01", None), (1, 30, "2024-02-01", None))
    table = truth_history.history(back, "product_id", MEMBER)
    assert spells(table, 1) == [(1, 10, "1970-01-01", "2024-03-01"), (2, 30, "2024-03-01", None)]
    assert table["version_at"].dropna().tolist()[-1] == pd.Timestamp("2024-02-01")
