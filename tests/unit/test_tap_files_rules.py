"""What counts as a value of a type."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.lake import connect
from ingestion.settings import PROJECT_ROOT
from ingestion.taps import file_rules
from ingestion.taps.file_config import FileStreamConfig, load_streams
from ingestion.taps.file_rules import broken_sql, timestamp_sql

DEMO_SHOP = PROJECT_ROOT / "ingestion" / "shops" / "demo_shop.yml"
GOOD = {
    "integer": ["0", "-5", "+7", "007", " 12 ", "2147483647", "-2147483648"],
    "bigint": ["0", "-5", "9223372036854775807", "-9223372036854775808"],
    "decimal": [
        *("0", "-1.50", "+.5", "5.", "1e3", "1E-4", " 2.0 ", "1.2345", "1.23450000000000000000", "2.5e-03", "1e+13"),
        *("99999999999999.9999", "-99999999999999.9999"),
    ],
    "boolean": ["true", "False", "t", "F", "yes", "no", "1", "0"],
    "date": ["2026-07-01", "2024-02-29"],
}
BAD = {
    "integer": ["1.0", "1e3", "0x1F", "1_000", "x", "1 2", "2147483648", "-2147483649", "--1"],
    "bigint": ["1.0", "x", "9223372036854775808", "-9223372036854775809"],
    "decimal": [
        *("1,5", "x", "1.2.3", "1_000", "NaN", "inf", ".", "€5", "1e", "1.23451", "1.00000000000000000000000000000001"),
        *("1E-5", "1e-21", "1e-400", "100000000000000", "1e14", "1e400", "99999999999999.99995"),
    ],
    "boolean": ["2", "ja", "truth"],
    "date": ["2026-02-30", "01/07/2026", "2026-7-1", "2026-07-01 10:00:00"],
}
# The contract's list, and the moment each one means.
MOMENTS = {
    "2026-07-01T10:20:30Z": (2026, 7, 1, 10, 20, 30),
    "2026-07-01 10:20:30": (2026, 7, 1, 10, 20, 30),
    "2026-07-01 10:20:30.5+02:00": (2026, 7, 1, 8, 20, 30, 500000),
    "2026-07-01T10:20:30.123456-01:30": (2026, 7, 1, 11, 50, 30, 123456),
    "2026-07-01": (2026, 7, 1),
    "01/07/2026 10:20": (2026, 7, 1, 10, 20),
    "01/07/2026 10:20:30": (2026, 7, 1, 10, 20, 30),
    "2026/07/01 10:20": (2026, 7, 1, 10, 20),
    "2026/07/01 10:20:30": (2026, 7, 1, 10, 20, 30),
    "Jul 01, 2026 10:20": (2026, 7, 1, 10, 20),
    "Jul 01, 2026 10:20:30": (2026, 7, 1, 10, 20, 30),
    "1782901230": (2026, 7, 1, 10, 20, 30),
    "1782901230500": (2026, 7, 1, 10, 20, 30, 500000),
    "1970-01-01": (1970, 1, 1),
    "2100-01-01T00:00:00Z": (2100, 1, 1),
}
NO_MOMENTS = [
    "soon",
    "2026-13-01",
    "2026-02-30",
    "32/07/2026 10:20",
    "10:20",
    "123",
    "2026-07-01T25:00:00Z",
    "infinity",
    "1969-12-31T23:59:59Z",
    "2100-01-01T00:00:01Z",
    "2100-01-01 00:30:00-01:00",
    "31/12/1969 23:59",
    "9999999999999",
]


@pytest.fixture
def con(tmp_path):
    with connect(tmp_path) as con:
        yield con


def broken(con: duckdb.DuckDBPyConnection, kind: str, values: list[str | None]) -> list[str | None]:
    config = FileStreamConfig(name="s", path="*", format="csv", columns={"v": kind})
    con.execute("create or replace temp table records (v varchar, _sdc_line_number bigint)")
    con.executemany("insert into records values (?, ?)", [[value, n] for n, value in enumerate(values)])
    query = broken_sql(config, ["v"], "records")
    assert query is not None
    return [values[row[0]] for row in con.execute(f"select line_number from ({query}) order by 1").fetchall()]


@pytest.mark.parametrize("kind", GOOD)
def test_types(con, kind):
    assert broken(con, kind, GOOD[kind]) == []
    assert broken(con, kind, BAD[kind]) == BAD[kind]


@pytest.mark.parametrize("kind", [*GOOD, "timestamp"])
def test_a_missing_value_is_of_every_type(con, kind):
    assert broken(con, kind, [None, "", "  "]) == []


def test_timestamps(con):
    assert broken(con, "timestamp", [*MOMENTS, *NO_MOMENTS]) == NO_MOMENTS


@pytest.mark.parametrize("text", MOMENTS)
def test_timestamps_mean_a_moment(con, text):
    (moment,) = con.execute(f"select {timestamp_sql('v')} from (select $1 as v)", [text]).fetchone()
    assert moment.astimezone(UTC) == datetime(*MOMENTS[text], tzinfo=UTC)


def test_a_stream_without_rules_needs_no_query():
    assert broken_sql(FileStreamConfig(name="s", path="*", format="csv"), ["v"], "records") is None


@pytest.mark.parametrize("blank", [" ", "\u00a0", " \u3000 "])
def test_a_key_of_blanks_is_missing(con, blank):
    config = FileStreamConfig(name="s", path="*", format="csv", keys=("id",))
    con.execute("create or replace temp table blanks as select $1 as id, 1 as _sdc_line_number", [blank])
    assert [row[0] for row in con.execute(broken_sql(config, ["id"], "blanks")).fetchall()] == ["key id is missing"]


def test_the_first_broken_rule_is_told_with_the_record(con):
    config = FileStreamConfig(name="s", path="*", format="csv", keys=("id",), columns={"n": "integer"})
    con.execute("create temp table records as select null as id, 'x' as n, 1 as _sdc_line_number")
    query = broken_sql(config, ["id", "n"], "records")
    assert con.execute(query).fetchall() == [("key id is missing", "id", '{"id":null,"n":"x"}', 1)]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("integer", "3000000000", "n does not fit a 32-bit integer; declare it bigint"),
        ("bigint", "1" * 20, "n does not fit a 64-bit integer"),
        ("decimal", "1.00001", "n is not exact as decimal(18,4): more than 4 decimals, or more than 14 digits before"),
        ("timestamp", "2101-01-01", "n is not between 1970-01-01 and 2100-01-01"),
        ("decimal", "cheap", "n is not a decimal"),
    ],
)
def test_a_value_beyond_its_type_is_told_from_one_that_is_none(con, kind, value, reason):
    config = FileStreamConfig(name="s", path="*", format="csv", columns={"n": kind})
    con.execute("create temp table records as select $1 as n, 1 as _sdc_line_number", [value])
    ((found, *_),) = con.execute(broken_sql(config, ["n"], "records")).fetchall()
    assert found.startswith(reason)


def test_a_column_that_may_not_be_empty_is_like_a_key(con):
    config = FileStreamConfig(name="s", path="*", format="csv", keys=("id",), not_empty=("day",))
    con.execute("create temp table records (id varchar, day varchar, _sdc_line_number bigint)")
    con.execute("insert into records values ('1', null, 1), ('2', '', 2), ('3', '  ', 3), ('4', 'x', 4)")
    found = con.execute(
        f"select reason, column_name, line_number from ({broken_sql(config, ['id', 'day'], 'records')})"
    )
    assert found.fetchall() == [("day is empty", "day", 1), ("day is empty", "day", 2), ("day is empty", "day", 3)]


@pytest.mark.parametrize(
    ("stream", "column"),
    [
        *[
            (stream, "updated_at")
            for stream in ("shop-orders", "shop-order_items", "shop-refunds", "crm-users", "catalog-products")
        ],
        ("web-events", "occurred_at"),
        ("web-events", "received_at"),
        ("stock-stock_levels", "quantity_on_hand"),
    ],
)
def test_a_record_of_the_demo_shop_needs_what_orders_its_versions_and_what_it_counts(con, stream, column):
    (config,) = [each for each in load_streams(DEMO_SHOP) if each.name == stream]
    columns = [*config.keys, column]
    values = ", ".join(f"null as {name}" if name == column else f"'2026-07-01' as {name}" for name in columns)
    con.execute(f"create temp table records as select {values}, 1 as _sdc_line_number")
    broken = con.execute(broken_sql(config, columns, "records")).fetchall()
    assert (f"{column} is empty", column) in [row[:2] for row in broken]


@pytest.mark.parametrize("kind", file_rules._SURE)
def test_what_is_sure_to_pass_does(con, kind):
    """The cheap expression may leave out what is good, which is looked at again; never let through what is bad."""

    sure = st.from_regex(file_rules._SURE[kind], fullmatch=True, alphabet=st.characters(max_codepoint=127))

    @settings(max_examples=40, deadline=None)
    @given(st.lists(sure))
    def check(values):
        con.execute("create or replace temp table sure (v varchar)")
        con.execute("insert into sure select unnest($1::varchar[])", [values])
        exact = file_rules._is_type_sql("v", kind)
        assert con.execute(f"select v from sure where ({exact}) is not true").fetchall() == []

    check()


def test_a_value_cannot_pass_as_two_columns(con):
    config = FileStreamConfig(name="s", path="*", format="jsonl", columns={"b": "integer"})
    con.execute("create temp table records as select '1' || chr(0) || '2' as a, '' as b, 1 as _sdc_line_number")
    ((reason, *_),) = con.execute(broken_sql(config, ["a", "b"], "records")).fetchall()
    assert reason == "NUL character in a"
