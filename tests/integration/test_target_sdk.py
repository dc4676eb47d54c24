"""The SDK's own tests of targets, all of them, under both policies for bad records."""

from __future__ import annotations

import pytest
from singer_sdk.exceptions import InvalidRecord
from singer_sdk.testing import get_target_test_class
from singer_sdk.testing.suites import SingerTestSuite, target_tests
from singer_sdk.testing.target_tests import (
    TargetMultipleStateMessages,
    TargetRecordMissingKeyProperty,
    TargetRecordMissingRequiredProperty,
)
from singer_sdk.testing.templates import TargetFileTestTemplate

from ingestion.target.target import TargetWarehouse
from tests.integration.conftest import ENGINES


class MultipleStateMessages(TargetMultipleStateMessages):
    """The SDK's expectation cannot be met by any target: it compares parsed states with strings of JSON.

    Ours is stricter in what matters: the last state comes out, no state comes before its records are committed
    (test_target_state.py), and the first comes out at once or with a later one.
    """

    def test(self) -> None:
        self.runner.sync_all()
        states = self.runner.state_messages
        assert states[-1] == {"test_multiple_state_messages_a": 5, "test_multiple_state_messages_b": 6}
        assert [state["test_multiple_state_messages_b"] for state in states] == sorted(
            state["test_multiple_state_messages_b"] for state in states
        )


class MissingRequiredPropertyFails(TargetRecordMissingRequiredProperty):
    """The SDK gives this test no expectation; under `fail` the run stops."""

    def test(self) -> None:
        with pytest.raises(InvalidRecord, match="id"):
            super().test()


class MissingKeyPropertyQuarantined(TargetRecordMissingKeyProperty):
    """The SDK expects a stop; under `quarantine` the record is kept aside instead."""

    def test(self) -> None:
        self.runner.sync_all()


class UserLocation(TargetFileTestTemplate):
    name = "user_location_data"


class UserLocationUpsert(TargetFileTestTemplate):
    name = "user_location_upsert_data"


class NoPrimaryKeysAppend(TargetFileTestTemplate):
    name = "no_primary_keys_append"


more = [MultipleStateMessages, UserLocation, UserLocationUpsert, NoPrimaryKeysAppend]
quarantine_suite = [test for test in target_tests.tests if test is not TargetRecordMissingKeyProperty]

_Failing = get_target_test_class(
    TargetWarehouse,
    config={"on_bad_record": "fail"},
    custom_suites=[SingerTestSuite(kind="target", tests=[*more, MissingRequiredPropertyFails])],
)
_Quarantining = get_target_test_class(
    TargetWarehouse,
    config={"on_bad_record": "quarantine"},
    include_target_tests=False,
    custom_suites=[
        SingerTestSuite(
            kind="target",
            tests=[*quarantine_suite, *more, TargetRecordMissingRequiredProperty, MissingKeyPropertyQuarantined],
        )
    ],
)

# What each of the SDK's streams must leave: (table, rows in raw, rows in quarantine), by the test's name.
EXPECTED = {
    "array_data": ("raw_files.test_array_data", 4, 0),
    "duplicate_records": ("raw_files.test_duplicate_records", 5, 0),
    "no_primary_keys": ("raw_files.test_no_pk", 3, 0),
    "schema_updates": ("raw_files.test_schema_updates", 6, 0),
    "pk_updates": ("raw_files.example_stream", 2, 0),
    "record_missing_fields": ("raw_files.record_missing_fields", 2, 0),
    "special_chars_in_attributes": ('raw_files."test:SpecialChars!in?attributes"', 1, 0),
    "multiple_state_messages": ("raw_files.test_multiple_state_messages_a", 6, 0),
    "no_primary_keys_append": ("raw_files.test_no_pk", 5, 0),
}


@pytest.fixture(autouse=True)
def _left_behind(warehouse, request):
    """Each test leaves consistent books, and the rows that its stream holds."""
    yield
    if not warehouse.exists:
        return
    if warehouse.query("select count(*) from ops.loads") != [(0,)]:
        warehouse.check_identities()
    table, rows, quarantined = EXPECTED.get(
        request.node.name.removeprefix("test_target_").partition("[")[0], (None, 0, 0)
    )
    if table:
        assert warehouse.query(f"select count(*) from {table}") == [(rows,)]
        assert warehouse.query("select count(*) from ops.quarantine") == [(quarantined,)]


class TestSdkSuiteFailing(_Failing):
    """Under `on_bad_record: fail`."""


@ENGINES
class TestSdkSuiteQuarantining(_Quarantining):
    """Under `on_bad_record: quarantine`."""


@pytest.mark.parametrize(
    "test", [MissingKeyPropertyQuarantined, TargetRecordMissingRequiredProperty], ids=lambda test: test.name
)
def test_quarantined_record_says_why(warehouse, test):
    from importlib.resources import files

    with (files("singer_sdk.testing.target_test_streams") / f"{test.name}.singer").open() as lines:
        TargetWarehouse(config={}).listen(lines)
    ((reason, column, payload),) = warehouse.query("select reason, column_name, payload from ops.quarantine")
    assert column == "id"
    assert ("key is missing" in reason) == (test is MissingKeyPropertyQuarantined)
    assert '"metric":' in payload
