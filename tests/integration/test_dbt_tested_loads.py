"""What tests with `new_loads_only` look at: what no build has tested, and all of it whenever that is not sure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import HISTORY, click, edited, line, order

#: Builds the view and its test alone.
EVENTS = (
    "build",
    "--select",
    "stg_demo_shop__events",
    "--indirect-selection",
    "cautious",
    "--exclude-resource-type",
    "unit_test",
)
BROKEN = "not_null_columns_stg_demo_shop__events"


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> DbtWarehouse:
    """The first loads, built and tested; load 9 was given out, and will commit later."""
    warehouse = DbtWarehouse.create(tmp_path_factory.mktemp("tested") / "home")
    warehouse.parse()
    warehouse.load(HISTORY)
    late = warehouse.reserve_loads(1)
    warehouse.load({"web.events": [click(300)]})
    assert late == len(HISTORY) + 1
    warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    return warehouse


@pytest.fixture
def warehouse(tested: DbtWarehouse, tmp_path: Path) -> DbtWarehouse:
    """A copy of it."""
    return tested.copy(tmp_path / "home")


def run(warehouse: DbtWarehouse, sql: str) -> None:
    """Change something by hand."""
    with warehouse.connect() as connection:
        connection.execute(sql)


def spoil_a_tested_row(warehouse: DbtWarehouse) -> None:
    """What cannot happen, raw being append-only; so it shows who looks there again."""
    run(warehouse, "update raw_web.events set event_type = null where event_id = 'e207'")


def finds(warehouse: DbtWarehouse, *command: str) -> bool:
    """Whether the test of events finds anything."""
    result = warehouse.try_dbt(*(command or EVENTS))
    assert result.success or BROKEN in warehouse.message(result), warehouse.message(result)
    return not result.success


def test_loads_that_a_build_has_tested_are_not_read_again(warehouse: DbtWarehouse) -> None:
    spoil_a_tested_row(warehouse)
    assert not finds(warehouse)


def test_a_new_load_is_tested_until_it_passes(warehouse: DbtWarehouse) -> None:
    """Neither a failed build nor one without tests makes a load tested."""
    warehouse.load({"web.events": [click(301, event_type=None)]})
    assert finds(warehouse)
    run(warehouse, "update ops.builds set is_complete = true")
    warehouse.dbt("run", "--select", "staging")
    run(warehouse, "update ops.builds set is_complete = true")
    assert finds(warehouse)


def test_a_load_that_committed_late_is_tested(warehouse: DbtWarehouse) -> None:
    """Its id is below what was tested."""
    warehouse.load({"web.events": [click(302, event_type=None)]}, first_load=len(HISTORY) + 1)
    assert finds(warehouse)


@pytest.mark.parametrize("command", [("build", "--full-refresh", *EVENTS[1:]), ("test", *EVENTS[1:])])
def test_by_hand_all_is_tested(warehouse: DbtWarehouse, command: tuple[str, ...]) -> None:
    spoil_a_tested_row(warehouse)
    assert finds(warehouse, *command)


@pytest.mark.parametrize(
    "unknown",
    [
        "update ops.builds set is_complete = false",
        "update ops.test_results set status = 'fail'",
        "delete from ops.builds",
        "alter table ops.test_results drop column logic_hash",
        "alter table raw_web.events alter column user_id type bigint",
    ],
    ids=[
        "no complete build",
        "it did not pass",
        "another warehouse",
        "an older version's build",
        "a column of raw was of another type",
    ],
)
def test_all_is_tested_unless_a_complete_build_has(warehouse: DbtWarehouse, unknown: str) -> None:
    spoil_a_tested_row(warehouse)
    run(warehouse, unknown)
    assert finds(warehouse)


@pytest.mark.parametrize(
    ("file", "find", "replace"),
    [
        (
            "stg_demo_shop__events.sql",
            "{{ lower_case(trimmed('event_type')) }}",
            "nullif({{ lower_case(trimmed('event_type')) }}, 'purchase')",
        ),
        ("_demo_shop__models.yml", "[event_id, event_type, occurred_at", "[event_id, event_type, user_id, occurred_at"),
    ],
    ids=["the view", "the test"],
)
def test_all_is_tested_when_what_is_tested_changed(
    warehouse: DbtWarehouse, tmp_path: Path, file: str, find: str, replace: str
) -> None:
    changed = edited(warehouse, tmp_path / "dbt_project", f"models/staging/demo_shop/{file}", find, replace)
    assert finds(changed)


def test_all_is_tested_when_it_is_counted_otherwise(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    spoil_a_tested_row(warehouse)
    changed = edited(
        warehouse,
        tmp_path / "dbt_project",
        "models/staging/demo_shop/_demo_shop__models.yml",
        "meta: {new_loads_only: true}",
        '{meta: {new_loads_only: true}, fail_calc: "count(*) + 0"}',
    )
    assert finds(changed)


def test_a_test_that_only_warns_says_again_what_it_found(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    spoil_a_tested_row(warehouse)
    changed = edited(
        warehouse,
        tmp_path / "dbt_project",
        "models/staging/demo_shop/_demo_shop__models.yml",
        "meta: {new_loads_only: true}",
        "{meta: {new_loads_only: true}, severity: warn}",
    )
    # The hash is still that of the build in which it passed.
    warned = [node.status for node in changed.dbt(*EVENTS).result if BROKEN in node.node.name]
    assert warned == ["warn"]


def test_what_a_test_let_pass_is_found_when_it_lets_nothing_pass_again(warehouse: DbtWarehouse, tmp_path: Path) -> None:
    """Limits that somebody raised for a day."""
    raised = edited(
        warehouse,
        tmp_path / "dbt_project",
        "models/staging/demo_shop/_demo_shop__models.yml",
        "meta: {new_loads_only: true}",
        '{meta: {new_loads_only: true}, warn_if: "> 9", error_if: "> 9"}',
    )
    warehouse.load({"web.events": [click(303, event_type=None)]})
    raised.dbt(*EVENTS)
    run(warehouse, "update ops.builds set is_complete = true")
    assert finds(warehouse)


#: By model whose key is looked at where rows were added: its table, rows that the last build added, and others.
KEYS = {
    "int_events__current": ("intermediate.int_events__current", "event_id = 'e301'", "event_id = 'e204'"),
    "int_orders__current": ("intermediate.int_orders__current", "order_id = 2", "order_id = 5"),
    "int_order_items__current": ("intermediate.int_order_items__current", "order_line_id = 901", "order_line_id = 52"),
    "int_orders__touched": ("intermediate.int_orders__touched", "order_id = 1", "order_id = 5"),
    "int_orders__totalled": ("intermediate.int_orders__totalled", "order_id = 1", "order_id = 5"),
    "fact_orders": ("marts.fact_orders", "order_line_id = 901", "order_line_id = 52"),
    "fact_product_clicks": (
        "marts.fact_product_clicks",
        "window_start >= '2024-01-09'",
        "product_id = 1 and clicks > 1",
    ),
}
#: Those that read none of the others: where one fails, a build skips the tests of what reads it.
LAST = ("int_orders__totalled", "fact_orders", "fact_product_clicks")


@pytest.fixture(scope="module")
def twice_tested(tested: DbtWarehouse, tmp_path_factory: pytest.TempPathFactory) -> DbtWarehouse:
    """The next loads, built and tested as well."""
    warehouse = tested.copy(tmp_path_factory.mktemp("twice") / "home")
    events = [click(301, "2024-01-09T10:00:00"), click(207, "2024-01-04T00:00:00", "2024-01-09T10:00:00")]
    warehouse.load({"web.events": events, "shop.order_items": [line(901, 1)], "shop.orders": [order(2, "2024-02-01")]})
    warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    return warehouse


@pytest.fixture
def added(twice_tested: DbtWarehouse, tmp_path: Path) -> DbtWarehouse:
    """A copy of it."""
    return twice_tested.copy(tmp_path / "home")


def repeat(warehouse: DbtWarehouse, names: Iterable[str], *, added: bool) -> None:
    """Have rows of models twice: those that the last build added, or others."""
    with warehouse.connect() as connection:
        connection.execute(f"attach '{warehouse.home / 'marts.duckdb'}' as marts")
        for name in names:
            table, is_added, is_older = KEYS[name]
            inserted = connection.execute(f"insert into {table} from {table} where {is_added if added else is_older}")
            assert inserted.fetchall() != [(0,)], name


def wrong_keys(warehouse: DbtWarehouse, names: Iterable[str] = LAST, command: str = "build") -> set[str]:
    """Which of the models are found to have a wrong key."""
    result = warehouse.try_dbt(command, "--select", *(f"key_holds_{name}*" for name in names))
    found = {node.node.name: node.status for node in result.result if node.node.resource_type == "test"}
    assert len(found) == len(tuple(names)), warehouse.message(result)
    assert set(found.values()) <= {"pass", "fail"}, warehouse.message(result)
    return {name for name in names for test, status in found.items() if status == "fail" and f"_{name}_" in test}


@pytest.mark.parametrize(
    "names",
    [("int_events__current", "int_orders__current", "int_order_items__current"), ("int_orders__touched",), LAST],
    ids=["first", "second", "last"],
)
def test_keys_of_rows_that_a_build_added_are_looked_at(added: DbtWarehouse, names: tuple[str, ...]) -> None:
    repeat(added, names, added=True)
    assert wrong_keys(added, names) == set(names)


def test_a_key_that_an_added_row_shares_with_an_older_one_is_found(added: DbtWarehouse) -> None:
    run(added, "update intermediate.int_events__current set event_id = 'e301' where event_id = 'e204'")
    with added.connect("marts.duckdb") as connection:
        connection.execute("update fact_orders set order_line_id = 901 where order_line_id = 52")
    assert wrong_keys(added, ("int_events__current", "fact_orders")) == {"int_events__current", "fact_orders"}


def test_an_added_row_without_a_key_is_found(added: DbtWarehouse) -> None:
    run(added, "update intermediate.int_events__current set event_id = null where event_id = 'e301'")
    assert wrong_keys(added, ("int_events__current",)) == {"int_events__current"}


def test_keys_that_were_tested_and_left_are_not_looked_at_again(added: DbtWarehouse) -> None:
    """They could only be wrong by hand, as here; `dbt test` finds that."""
    repeat(added, KEYS, added=False)
    assert wrong_keys(added, KEYS) == set()
    assert wrong_keys(added, KEYS, "test") == set(KEYS)


@pytest.mark.parametrize(
    "unknown",
    [
        "update ops.test_results set status = 'fail' where test_name like 'key_holds%'",
        "delete from ops.test_results where test_name like 'key_holds%'",
        "alter table raw_web.events alter column user_id type bigint;"
        " alter table raw_shop.orders alter column user_id type bigint;"
        " alter table raw_shop.order_items alter column quantity type bigint",
        "update {database}ops.watermarks set previous_invocation_id = 'of another warehouse'",
    ],
    ids=["it did not pass", "it was not run", "other logic", "another build was added to"],
)
def test_all_keys_are_looked_at_unless_those_that_were_there_are_known(added: DbtWarehouse, unknown: str) -> None:
    repeat(added, LAST, added=False)
    with added.connect() as connection:
        connection.execute(f"attach '{added.home / 'marts.duckdb'}' as marts")
        for database in ("", "marts."):
            connection.execute(unknown.format(database=database))
    assert wrong_keys(added) == set(LAST)


@pytest.mark.parametrize("runs", [[("--full-refresh",)], [(), ()]], ids=["made anew", "added to what nobody tested"])
def test_all_keys_are_looked_at_after_a_build_without_tests(added: DbtWarehouse, runs: list[tuple[str, ...]]) -> None:
    for options in runs:
        added.dbt("run", *options, "--select", *LAST)
    repeat(added, LAST, added=False)
    assert wrong_keys(added) == set(LAST)
