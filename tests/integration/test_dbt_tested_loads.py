"""What the tests of staging look at: the loads that no build has tested, and all of them whenever that is not sure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import HISTORY, click, edited

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
    # Complete, as far as this is about: all but unit tests.
    run(warehouse, "update ops.builds set is_complete = true")
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
