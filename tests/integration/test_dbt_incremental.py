"""Whatever arrives, and in whatever order: an incremental build ends where a full refresh of the same raw ends."""

from __future__ import annotations

import random
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.dbt_warehouse import STREAMS, DbtWarehouse
from tests.pipeline import ROOT

Row = dict[str, Any]
MODELS = ("--exclude", "resource_type:seed", "staging")


def order(order_id: int, updated: str = "2024-01-02", **values: Any) -> Row:
    """A version of an order."""
    at = f"{updated}T00:00:00Z"
    row = {"order_id": order_id, "user_id": 1, "status": "completed", "ordered_at": "2024-01-01 10:00:00"}
    return row | {"shipping_cost": "5.00", "currency": "EUR", "updated_at": at} | values


def line(line_id: int, order_id: int, updated: str = "2024-01-02", **values: Any) -> Row:
    """A version of an order line."""
    at = f"{updated}T00:00:00Z"
    row = {"order_line_id": line_id, "order_id": order_id, "product_id": 1, "quantity": 1, "unit_price": "10.00"}
    return row | {"discount": "0", "created_at": "2024-01-01T10:00:00Z", "updated_at": at} | values


def refund(refund_id: int, line_id: int, order_id: int, updated: str = "2024-01-05", **values: Any) -> Row:
    """A version of a refund."""
    at = f"{updated}T00:00:00Z"
    row = {"refund_id": refund_id, "order_line_id": line_id, "order_id": order_id, "amount": "4.00"}
    return row | {"reason": "broken", "refunded_at": "2024-01-05T00:00:00Z", "updated_at": at} | values


def user(user_id: int, updated: str = "2024-01-01", **values: Any) -> Row:
    """A version of a user."""
    at = f"{updated}T00:00:00Z"
    row = {"user_id": user_id, "name": f"User {user_id}", "email": f"u{user_id}@example.com", "age": 30 + user_id % 7}
    return row | {"country": "Germany", "registered_at": "2023-01-01", "updated_at": at} | values


def product(product_id: int, updated: str = "2024-01-01", **values: Any) -> Row:
    """A version of a product."""
    row = {"product_id": product_id, "name": f"Product {product_id}", "category": "Toys", "price": "10.00"}
    return row | {"updated_at": f"{updated}T00:00:00Z"} | values


def click(number: int, at: str = "2024-01-03T10:20:00", received: str = "", **values: Any) -> Row:
    """A delivery of an event, received at once unless the moment is said."""
    row = {"event_id": f"e{number}", "user_id": number % 5 + 1, "product_id": 1, "event_type": "click"}
    return row | {"occurred_at": f"{at}Z", "received_at": f"{received or at}Z"} | values


def burst_click(number: int, **values: Any) -> Row:
    """One of the clicks that make product 1 trending: one each half minute of an hour."""
    return click(number, f"2024-01-03T10:{number // 2:02d}:{number % 2 * 30:02d}") | values


def count(product_id: int, day: str, quantity: int) -> Row:
    """A count of stock."""
    return {"product_id": product_id, "quantity_on_hand": quantity, "recorded_at": f"{day}T03:00:00Z"}


def deleted(row: Row, at: str = "2024-02-01") -> Row:
    """The soft-deleted version of a row."""
    if "updated_at" not in row:
        return row | {"_operation": "delete", "_deleted_at": f"{at}T00:00:00Z"}
    return row | {"_operation": "delete", "deleted_at": f"{at}T00:00:00Z", "updated_at": f"{at}T00:00:00Z"}


def withdrawn(row: Row) -> Row:
    """The row as a changed file withdraws it."""
    return row | {"_operation": "withdraw", "_deleted_at": "2026-01-01T00:00:00Z"}


HISTORY = {
    "crm.users": [user(1), user(2), user(3)],
    "catalog.products": [product(1), product(2)],
    "shop.orders": [order(number, user_id=number % 5 + 1) for number in range(1, 15)],
    "shop.order_items": [
        line(10 * number + place, number, product_id=place, quantity=place, discount="0.50" if place == 2 else "0")
        for number in range(1, 14)
        for place in (1, 2, 3)
    ],
    "shop.refunds": [refund(1, 11, 1), refund(2, 22, 2), refund(3, 999, 3), refund(9, 51, None)],
    "web.events": [
        *[burst_click(number) for number in range(110)],
        *[click(number, product_id=9) for number in (200, 201)],
        click(202, "2024-01-03T12:00:00", product_id=9),
        *[click(203, user_id=None), click(204, event_type="purchase"), click(205, product_id=None)],
        *[click(206, "2024-01-03T23:59:59", product_id=2), click(207, "2024-01-04T00:00:00", product_id=2)],
    ],
    "stock.stock_levels": [count(1, "2024-01-01", 5), count(2, "2024-01-02", 8), count(9, "2024-01-03", 1)],
}

#: Everything that may happen to a row, in one load; then the answers to it, in a second.
CHANGES = {
    "shop.orders": [
        order(1, "2024-01-10", status=" CANCELLED ", cancelled_at="2024-01-09T22:30:00Z"),
        order(2, "2024-01-10", ordered_at="05/01/2024 10:00"),
        deleted(order(3, user_id=4)),
        withdrawn(order(4, user_id=5)),
        order(5, "2023-12-31", status="pending", user_id=2),
        order(20, user_id=9, shipping_cost="1.00"),
        order(14, "2024-01-11", shipping_cost="0"),
    ],
    "shop.order_items": [
        line(61, 7, "2024-01-10"),
        deleted(line(72, 7)),
        withdrawn(line(81, 8, product_id=1, quantity=1)),
        line(500, 21),
        line(501, 9, unit_price="-3.00"),
        line(502, 20, product_id=9),
        *[deleted(line(100 + place, 10)) for place in (1, 2, 3)],
    ],
    "shop.refunds": [
        refund(4, 61, 6),
        deleted(refund(2, 22, 2)),
        refund(5, 31, 3),
        refund(6, 72, 7),
        refund(7, 777, 21),
    ],
    "web.events": [
        burst_click(110, received_at="2024-01-05T09:00:00Z"),
        burst_click(4, product_id=2, received_at="2024-01-06T09:00:00Z"),
        click(5, "2024-01-04T08:00:00", "2024-01-06T09:00:00"),
        click(55, "2024-01-04T08:00:00", "2024-01-06T09:00:00"),
        withdrawn(burst_click(6)),
        deleted(burst_click(7)),
        burst_click(8, received_at="2024-01-06T09:00:00Z"),
        click(206, "2024-01-03T23:59:59", "2024-01-06T09:00:00", product_id=2, event_type="purchase"),
        click(208, product_id=9),
    ],
    "stock.stock_levels": [count(1, "2024-01-01", 6), count(1, "2024-01-06", 3), withdrawn(count(2, "2024-01-02", 8))],
    "crm.users": [user(4), deleted(user(2)), user(1, "2023-01-01", name="Older")],
    "catalog.products": [product(3), product(1, "2024-02-01", price="12.00")],
}
ANSWERS = {
    "shop.orders": [
        order(21, user_id=2),
        order(3, "2024-03-01", user_id=4),
        order(4, "2024-03-01", user_id=5) | {"_file": "other.csv"},
        order(1, "2024-01-11", status="completed"),
    ],
    "shop.order_items": [
        line(777, 12, "2024-01-12"),
        line(61, 21, "2024-01-12"),
        line(81, 8, product_id=1, quantity=1),
    ],
    "shop.refunds": [withdrawn(refund(4, 61, 6)), refund(1, 11, 1, "2024-01-12", order_line_id=12)],
    "web.events": [
        click(200, "2024-01-03T11:20:00", "2024-01-06T09:00:00", product_id=9),
        withdrawn(click(201, product_id=9)),
        withdrawn(burst_click(110, received_at="2024-01-05T09:00:00Z")),
        burst_click(6),
        burst_click(111, event_type="view"),
    ],
    "stock.stock_levels": [count(2, "2024-01-02", 8), deleted(count(1, "2024-01-06", 3)), count(1, "2024-01-09", -1)],
    "crm.users": [user(9), withdrawn(user(3))],
    "catalog.products": [product(9), deleted(product(2))],
}


def full_refresh(warehouse: DbtWarehouse, home: Path) -> dict[str, list[tuple]]:
    """The marts of a full refresh from the same raw."""
    again = warehouse.copy(home)
    again.dbt("run", "--full-refresh", *MODELS)
    marts = again.marts()
    shutil.rmtree(home)
    return marts


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> DbtWarehouse:
    """A warehouse with the first loads, built. Copy it before you change it."""
    warehouse = DbtWarehouse.create(tmp_path_factory.mktemp("first") / "home")
    warehouse.parse()
    warehouse.load(HISTORY)
    warehouse.dbt("build", "--resource-type", "model", "seed")
    return warehouse


@pytest.fixture
def warehouse(first: DbtWarehouse, tmp_path: Path) -> DbtWarehouse:
    """A copy of it."""
    return first.copy(tmp_path / "home")


def test_an_incremental_build_equals_a_full_refresh(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    before = warehouse.marts()
    for changes in (CHANGES, ANSWERS):
        warehouse.load(changes)
        warehouse.dbt("run", *MODELS)
        marts = warehouse.marts()
        assert marts == full_refresh(warehouse, tmp_path / "again")
        assert all(marts[name] and marts[name] != before[name] for name in marts if name != "dim_date")
        assert warehouse.query("select count(*) from mart_money_reconciliation where difference <> 0") == [(0,)]
        before = marts


def differing_staging(warehouse: DbtWarehouse) -> list[str]:
    """Where a staging view shows not just what raw got up to the load bound, for the bound of each load."""
    found = []
    with warehouse.connect() as connection:
        for stream in STREAMS:
            source, table = stream.split(".")
            raw = f"from raw_{source}.{table}"
            loads = connection.execute(f"select distinct _sdc_load_id {raw}").fetchall()
            assert len(loads) > 1
            for (bound,) in loads:
                connection.execute("update ops.load_bound set load_id = ?", [bound])
                expected = connection.execute(f"select count(*) {raw} where _sdc_load_id <= {bound}").fetchall()
                shown = connection.execute(f"select count(*) from staging.stg_demo_shop__{table}").fetchall()
                if shown != expected:
                    found.append(f"{table} at the bound of load {bound}: {shown} instead of {expected}")
    return found


def test_staging_shows_each_load_up_to_the_bound_and_none_beyond(warehouse: DbtWarehouse) -> None:
    warehouse.load(CHANGES)
    assert differing_staging(warehouse) == []


def test_a_load_that_commits_after_later_ones_is_seen(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    warehouse.load({"shop.orders": [order(30)]})
    early = warehouse.reserve_loads(1)
    warehouse.load({"shop.orders": [order(31)]})
    warehouse.dbt("run", *MODELS)
    warehouse.load({"shop.order_items": [line(900, 30)]}, first_load=early)
    warehouse.dbt("run", *MODELS)
    assert warehouse.query("select order_id from fact_orders where order_line_id = 900") == [(30,)]
    assert warehouse.marts() == full_refresh(warehouse, tmp_path / "again")


def test_marts_of_before_a_late_load_that_are_restored_get_it_too(warehouse: DbtWarehouse) -> None:
    """The builds since have seen it; the one that wrote these marts has not."""
    early = warehouse.reserve_loads(1)
    warehouse.load({"shop.orders": [order(30)]})
    warehouse.dbt("run", *MODELS)
    older = (warehouse.home / "marts.duckdb").read_bytes()
    warehouse.load({"shop.order_items": [line(900, 1)]}, first_load=early)
    warehouse.load({"shop.orders": [order(31)]})
    warehouse.dbt("run", *MODELS)
    marts = warehouse.marts()
    (warehouse.home / "marts.duckdb").write_bytes(older)
    warehouse.dbt("run", *MODELS)
    assert warehouse.query("select order_id from fact_orders where order_line_id = 900") == [(1,)]
    assert warehouse.marts() == marts


def test_a_random_history_equals_a_full_refresh(warehouse: DbtWarehouse, tmp_path: Path, full: bool) -> None:
    """Loads of upserts, deletes and withdrawals of any age over a small set of keys, so that they collide."""
    chance = random.Random(20241121)
    sent: dict[str, list[Row]] = {stream: list(rows) for stream, rows in HISTORY.items()}
    makers = {
        "shop.orders": lambda day: order(
            chance.randint(1, 25),
            day,
            user_id=chance.randint(1, 12),
            status=chance.choice(["completed", "pending", "cancelled", "void"]),
            ordered_at=f"2024-01-0{chance.randint(1, 9)} 23:30:00",
            shipping_cost=chance.choice(["0", "5.00", "0.07"]),
        ),
        "shop.order_items": lambda day: line(
            chance.randint(1, 150),
            chance.randint(1, 25),
            day,
            product_id=chance.randint(1, 12),
            unit_price=chance.choice(["10.00", "3.33", "0", "-1.00"]),
            quantity=chance.randint(1, 3),
        ),
        "shop.refunds": lambda day: refund(chance.randint(1, 30), chance.randint(1, 150), chance.randint(1, 25), day),
        "crm.users": lambda day: user(chance.randint(1, 12), day, age=chance.choice([20, 41, 60, None, 130])),
        "catalog.products": lambda day: product(chance.randint(1, 12), day, price=chance.choice(["10.00", "11.00"])),
        "web.events": lambda day: burst_click(
            chance.randint(0, 119),
            product_id=chance.choice([1, 1, 1, 2, 11, 12]),
            event_type=chance.choice(["click", "view", "purchase"]),
            received_at=f"{day}T00:00:00Z",
        ),
        "stock.stock_levels": lambda _: count(chance.randint(1, 12), f"2024-01-0{chance.randint(1, 9)}", number),
    }
    last = 11 if full else 5
    for number in range(last + 1):
        loads: dict[str, list[Row]] = {}
        for stream in chance.sample(list(makers), k=chance.randint(1, len(makers))):
            # By content: one load never has a row of a file twice, nor both brings and withdraws it.
            rows: dict[str, Row] = {}
            for _ in range(chance.randint(1, 16)):
                row = makers[stream](f"2024-02-{chance.randint(1, 28):02d}")
                fate = chance.random()
                if fate < 0.3:
                    row = chance.choice(sent[stream])
                elif fate < 0.45:
                    row = deleted(row, at=row.get("updated_at", "2024-02-01")[:10])
                content = str({name: value for name, value in row.items() if not name.startswith("_")})
                rows[content] = withdrawn(row) if fate < 0.15 else row
            loads[stream] = list(rows.values())
            sent[stream] += [row for row in rows.values() if row.get("_operation") != "withdraw"]
        warehouse.load(loads)
        warehouse.dbt("run", *MODELS)
        if number in (5, last):
            assert warehouse.marts() == full_refresh(warehouse, tmp_path / "again"), f"load {number}"
            assert warehouse.query("select count(*) from mart_money_reconciliation where difference <> 0") == [(0,)]
    kinds = {kind for (kind,) in warehouse.query("select distinct kind from fact_adjustments")}
    assert kinds >= {"line_without_order", "negative_line"}
    assert warehouse.query("select count(distinct kind) from fact_refunds") == [(2,)]


def test_a_partial_build_leaves_nothing_behind(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    warehouse.load(CHANGES)
    warehouse.dbt("run", "--select", "fact_orders", "int_orders__current")
    warehouse.load(ANSWERS)
    warehouse.dbt("run", "--select", "fact_orders", "int_users__current", "int_orders__touched")
    assert warehouse.marts() != full_refresh(warehouse, tmp_path / "early")
    warehouse.dbt("run", *MODELS)
    assert warehouse.marts() == full_refresh(warehouse, tmp_path / "again")


def test_a_selection_is_audited_against_what_it_left_behind_unless_told_otherwise(warehouse: DbtWarehouse) -> None:
    """As docs/operating.md says: the fact alone is ahead of its recount."""
    warehouse.load(CHANGES)
    build = ("build", "--select", "+fact_refunds", "--exclude-resource-type", "unit_test")
    audited = warehouse.message(warehouse.try_dbt(*build))
    assert "assert_every_raw_refund_is_in_fact_refunds: Got " in audited
    result = warehouse.dbt(*build, "--indirect-selection", "buildable")
    assert any(node.node.name.startswith("key_holds_fact_refunds") for node in result.result)


def test_a_build_without_news_writes_no_row(warehouse: DbtWarehouse) -> None:
    """Proof that the build is incremental: a row planted in the facts survives a build with no reason to touch it."""
    with warehouse.connect("marts.duckdb") as connection:
        connection.execute("update fact_orders set quantity = 77 where order_line_id = 52")
    warehouse.load({"shop.orders": [order(1, "2024-05-01")]})
    warehouse.dbt("run", *MODELS)
    assert warehouse.query("select quantity from fact_orders where order_line_id = 52") == [(77,)]


def edited(warehouse: DbtWarehouse, project: Path, file: str, find: str, replace: str) -> DbtWarehouse:
    """The same warehouse, built by a copy of the project in which a text is replaced."""
    shutil.copytree(ROOT / "dbt_project", project)
    text = (project / file).read_text()
    assert find in text
    (project / file).write_text(text.replace(find, replace))
    return DbtWarehouse(warehouse.home, project)


@pytest.mark.parametrize(
    ("file", "find", "replace", "mart"),
    [
        ("macros/engine/times.sql", "'{{ shop_setting(\"time_zone\") }}'", "'Pacific/Kiritimati'", "fact_orders"),
        ("seeds/statuses.csv", "completed,completed", "completed,pending", "fact_orders"),
        ("dbt_project.yml", "+@[a-z0-9-]+(", "{3,}@[a-z0-9-]+(", "dim_users"),
    ],
    ids=["macro", "seed", "variable"],
)
def test_changed_logic_rebuilds_in_full(
    warehouse: DbtWarehouse, tmp_path: Path, file: str, find: str, replace: str, mart: str
) -> None:
    """A change of a macro, seed or variable that a model uses, even through others, reaches all of its old rows."""
    before = warehouse.marts()
    changed = edited(warehouse, tmp_path / "dbt_project", file, find, replace)
    changed.dbt("build", "--resource-type", "model", "seed")
    marts = changed.marts()
    assert marts[mart] != before[mart]
    assert marts == full_refresh(changed, tmp_path / "again")


def test_a_column_of_raw_that_was_widened_is_read_anew(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    """As target-warehouse widens it in place: here a float prints shorter than the double of the same value."""
    # The model may write the name in another case than raw.
    file = "models/staging/demo_shop/stg_demo_shop__orders.sql"
    changed = edited(warehouse, tmp_path / "dbt_project", file, "'shipping_cost'", "'POSTAGE'")
    changed.parse()
    # With its seeds, so that no hash is left unknown, which would be a reason of its own.
    few = ("build", "--select", "+fact_orders", "--resource-type", "model", "seed")
    shipping = "select sum(shipping_cost) from fact_orders where order_id = 5"
    alter = "alter table raw_shop.orders alter column postage type"
    warehouse.load({"shop.orders": [order(5, "2024-02-01", shipping_cost="123456.7")]})
    with warehouse.connect() as connection:
        connection.execute('alter table raw_shop.orders rename column shipping_cost to "Postage"')
        connection.execute(f"{alter} float")
    changed.dbt(*few)
    assert warehouse.query(shipping) == [(Decimal("123456.7"),)]
    with warehouse.connect() as connection:
        connection.execute(f"{alter} double")
    changed.dbt(*few)
    assert warehouse.query(shipping) == [(Decimal("123456.7031"),)]


def test_a_new_column_of_raw_is_no_reason_to_read_all_of_it(warehouse: DbtWarehouse) -> None:
    """No model's code names it, so that old rows read as before."""
    with warehouse.connect("marts.duckdb") as connection:
        connection.execute("update fact_orders set quantity = 77 where order_line_id = 52")
    with warehouse.connect() as connection:
        connection.execute("alter table raw_shop.order_items add column note text")
    warehouse.dbt("run", "--select", "+fact_orders", "--exclude", "resource_type:seed")
    assert warehouse.query("select quantity from fact_orders where order_line_id = 52") == [(77,)]


@pytest.mark.parametrize(
    ("file", "find", "replace", "partial"),
    [
        ("seeds/statuses.csv", "completed,completed", "completed,pending", ["run"]),
        (
            "models/staging/demo_shop/stg_demo_shop__order_items.sql",
            "to_integer('quantity')",
            "to_integer('order_id')",
            ["run", "--select", "fact_orders"],
        ),
    ],
    ids=["seed left out", "views left out"],
)
def test_changed_logic_survives_a_build_without_its_ancestors(
    warehouse: DbtWarehouse, tmp_path: Path, file: str, find: str, replace: str, partial: list[str]
) -> None:
    """What was built from ancestors of the old logic is built again once they are of the new one."""
    before = warehouse.marts()
    changed = edited(warehouse, tmp_path / "dbt_project", file, find, replace)
    changed.dbt(*partial)
    changed.dbt("build", "--resource-type", "model", "seed")
    marts = changed.marts()
    assert marts["fact_orders"] != before["fact_orders"]
    assert marts == full_refresh(changed, tmp_path / "again")


def test_marts_newer_than_a_restored_warehouse_are_rebuilt(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    """The load ids that the older warehouse gives out again would otherwise look as if they were built already."""
    shutil.copy(warehouse.home / "warehouse.duckdb", tmp_path / "older.duckdb")
    restored_load = warehouse.reserve_loads(1)
    warehouse.load({"shop.order_items": [line(900, 5)]}, first_load=restored_load)
    warehouse.dbt("run", *MODELS)
    assert warehouse.query("select order_id from fact_orders where order_line_id = 900") == [(5,)]
    shutil.copy(tmp_path / "older.duckdb", warehouse.home / "warehouse.duckdb")
    warehouse.load({"catalog.products": [product(7)]}, first_load=restored_load)
    warehouse.dbt("run", *MODELS)
    assert warehouse.query("select order_id from fact_orders where order_line_id = 900") == []
    assert warehouse.marts() == full_refresh(warehouse, tmp_path / "again")


def test_a_row_that_increments_miss_is_found(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    """A view that does not say how raw writes the key: marts and recounts miss the row alike."""
    changed = edited(
        warehouse,
        tmp_path / "dbt_project",
        "models/staging/demo_shop/stg_demo_shop__order_items.sql",
        "source_key='order_line_id'",
        "source_key=\"nullif(order_line_id, '900')\"",
    )
    changed.dbt("run")
    changed._last_load = warehouse._last_load
    changed.load({"shop.order_items": [line(900, 1)]})
    changed.dbt("run")
    result = changed.try_dbt("test", "--select", "assert_recounts_know_every_version")
    assert [node.node.name for node in result.result if node.status == "fail"] == ["assert_recounts_know_every_version"]


def test_staging_that_does_not_say_how_raw_writes_its_key_is_refused(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    file = "models/staging/demo_shop/stg_demo_shop__order_items.sql"
    changed = edited(warehouse, tmp_path / "dbt_project", file, "source_key='order_line_id'", "")
    message = changed.message(changed.try_dbt("parse"))
    assert "in stg_demo_shop__order_items needs source_key='<the key's column of raw>' (docs/adopting.md)" in message


def test_staging_that_drops_rows_blocks(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    """The facts and the reconciliation both read staging, so only the comparison with raw can tell."""
    changed = edited(
        warehouse,
        tmp_path / "dbt_project",
        "models/staging/demo_shop/stg_demo_shop__order_items.sql",
        "where _sdc_load_id <= {{ load_bound() }}",
        "where _sdc_load_id <= {{ load_bound() }} and discount <> '0.50'",
    )
    result = changed.try_dbt("build", "--exclude", "resource_type:unit_test")
    failed = {node.node.name for node in result.result if node.status == "fail"}
    assert failed == {"assert_demo_shop_stages_every_raw_row"}
