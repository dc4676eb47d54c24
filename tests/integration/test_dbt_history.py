"""Histories under what may arrive: each product of these loads is one case, told as its versions after each load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import HISTORY, Row, deleted, product, user, withdrawn

MODELS = ("--select", "+dim_users_history", "+dim_products_history", "--exclude", "staging", "resource_type:seed")

Version = tuple[int, str, str | None, str | None]


def elsewhere(row: Row) -> Row:
    """The same row, in another file."""
    return row | {"_file": "other.json"}


JAN, MID_JAN, FEB, MAR = "2024-01-01", "2024-01-15", "2024-02-01", "2024-03-01"
LOADS: list[list[Row]] = [
    [product(number, JAN) for number in (1, 2, 3, 4, 5, 6)],
    [
        product(1, MAR, price="13.00"),  # changes
        product(2, "2023-12-01", price="9.00"),  # an older version, late
        elsewhere(product(3, JAN)),  # comes again
        withdrawn(product(4, JAN)),  # is withdrawn, and was all there was
        deleted(product(5, JAN), at=FEB),  # is deleted
        product(7, FEB, price="12.00"),  # is new, two versions at once, in the wrong order
        product(7, JAN),
    ],
    [
        product(1, FEB, price="12.00"),  # a version between, late
        product(2, FEB),  # says once more what it says
        withdrawn(product(3, JAN)),  # still stands in the other file
        product(4, JAN),  # comes back
        product(5, MAR),  # comes back
        withdrawn(product(7, FEB, price="12.00")),  # the later one was never said
    ],
]
#: Price, first day, last day, day of deletion.
EXPECTED: list[dict[int, list[Version]]] = [
    {number: [(10, "1970-01-01", None, None)] for number in (1, 2, 3, 4, 5, 6)},
    {
        1: [(10, "1970-01-01", MAR, None), (13, MAR, None, None)],
        2: [(9, "1970-01-01", JAN, None), (10, JAN, None, None)],
        3: [(10, "1970-01-01", None, None)],
        4: [(10, "1970-01-01", None, "2026-01-01")],
        5: [(10, "1970-01-01", FEB, None), (10, FEB, None, FEB)],
        6: [(77, "1970-01-01", None, None)],
        7: [(10, "1970-01-01", FEB, None), (12, FEB, None, None)],
    },
    {
        1: [(10, "1970-01-01", FEB, None), (12, FEB, MAR, None), (13, MAR, None, None)],
        2: [(9, "1970-01-01", JAN, None), (10, JAN, None, None)],
        3: [(10, "1970-01-01", None, None)],
        4: [(10, "1970-01-01", None, None)],
        5: [(10, "1970-01-01", FEB, None), (10, FEB, MAR, FEB), (10, MAR, None, None)],
        6: [(77, "1970-01-01", None, None)],
        7: [(10, "1970-01-01", None, None)],
    },
]


def versions(warehouse: DbtWarehouse) -> dict[int, list[Version]]:
    """The versions of every known product, in their order."""
    found: dict[int, list[Version]] = {}
    for product_id, price, *days in warehouse.query(
        """
        select product_id, price, strftime(valid_from, '%Y-%m-%d'), strftime(valid_to, '%Y-%m-%d'),
            strftime(deleted_at, '%Y-%m-%d')
        from dim_products_history where product_id <> -1 order by product_id, version_number
        """
    ):
        found.setdefault(product_id, []).append((int(price), *days))
    return found


@pytest.fixture
def warehouse(tmp_path: Path) -> DbtWarehouse:
    """A warehouse with the first load, built."""
    warehouse = DbtWarehouse.create(tmp_path / "home")
    warehouse.parse()
    warehouse.load({**HISTORY, "catalog.products": LOADS[0]})
    warehouse.dbt("build", "--resource-type", "model", "seed")
    return warehouse


def test_a_history_says_what_stands_after_each_load(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    """Product 6 has a price planted in its history: no later load may touch it, only a full refresh."""
    assert versions(warehouse) == EXPECTED[0]
    with warehouse.connect("marts.duckdb") as connection:
        connection.execute("update dim_products_history set price = 77 where product_id = 6")
    for load, expected in zip(LOADS[1:], EXPECTED[1:], strict=True):
        warehouse.load({"catalog.products": load, "crm.users": [user(1, MAR, country="Malta")]})
        warehouse.dbt("run", *MODELS)
        assert versions(warehouse) == expected
    again = warehouse.copy(tmp_path / "again")
    again.dbt("run", "--full-refresh", *MODELS)
    assert versions(again) == EXPECTED[-1] | {6: [(10, "1970-01-01", None, None)]}
    countries = "select country, valid_to is null from dim_users_history where user_id = 1 order by valid_from"
    assert warehouse.query(countries) == [("Germany", False), ("Malta", True)]
    shutil.rmtree(again.home)


def test_a_history_that_disagrees_with_its_dimension_blocks(warehouse: DbtWarehouse) -> None:
    """Each way in which a history can be wrong is seen by the build's tests."""
    tests = ("test", "--select", "dim_products_history", "--exclude", "resource_type:unit_test")
    warehouse.load({"catalog.products": LOADS[1]})
    warehouse.dbt("run", "--exclude", "staging", "resource_type:seed")
    warehouse.dbt(*tests)
    faults = {
        "valid_to = valid_to + interval 1 day where product_id = 5 and version_number = 1": "versions_follow",
        "valid_from = valid_from + interval 1 day where product_id = 6": "versions_follow",
        "version_number = 3 where product_id = 5 and version_number = 2": "versions_follow",
        "is_current = true where product_id = 5": "versions_follow",
        "price = 13 where product_id = 1": "versions_follow",
        "price = 5 where product_id = 1 and is_current": "assert_current_versions_are_the_members",
        "valid_from = '2024-01-05' where product_id = 2 and is_current": "assert_every_sale_meets_a_version",
        "valid_to = null where product_id = 2": "versions_follow",
    }
    for change, test in faults.items():
        with warehouse.connect("marts.duckdb") as connection:
            connection.execute("create or replace table kept as from dim_products_history")
            connection.execute(f"update dim_products_history set {change}")
        result = warehouse.try_dbt(*tests)
        failed = [node.node.name for node in result.result if node.status == "fail"]
        assert any(name.startswith(test) for name in failed), f"{change}: {failed}"
        with warehouse.connect("marts.duckdb") as connection:
            connection.execute("delete from dim_products_history")
            connection.execute("insert into dim_products_history from kept")
            connection.execute("drop table kept")
