"""PostgreSQL's texts as values of the lake."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.taps.postgres_types import Column, array_json, date_text, text_to_arrow, timestamp_text


def values(kind: str, *texts: str | None) -> list:
    converted = text_to_arrow([Column("v", kind)], [list(texts)])
    assert converted.unfit == []
    return converted.rows.column(0).to_pylist()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("integer", "INTEGER"),
        ("numeric(12,2)", "DECIMAL(12,2)"),
        ("numeric(38,38)", "DECIMAL(38,38)"),
        ("numeric(39,2)", "VARCHAR"),
        ("numeric(3,5)", "VARCHAR"),
        ("numeric(3,-2)", "VARCHAR"),
        ("numeric", "VARCHAR"),
        ("timestamp(3) with time zone", "TIMESTAMP WITH TIME ZONE"),
        ("timestamp(0) without time zone", "TIMESTAMP"),
        ("character varying(20)", "VARCHAR"),
        ("integer[]", "VARCHAR"),
        ('public."integer"', "VARCHAR"),
        ("uuid", "VARCHAR"),
        ("bytea", "BLOB"),
    ],
)
def test_type_in_the_warehouse(kind, expected):
    assert Column("v", kind).warehouse_type == expected


@given(st.integers(-(4713 * 366 - 719_162 - 400), 2_145_000_000))
def test_every_date_is_read_as_it_is_written(days):
    array = text_to_arrow([Column("v", "date")], [[date_text(days)]]).rows.column(0)
    assert array.view("int32").to_pylist() == [days]


@given(st.integers(-210_866_803_200_000_000, (1 << 63) - 2), st.booleans())
def test_every_time_is_read_as_it_is_written(microseconds, zoned):
    kind, zone = ("timestamp with time zone", "+00") if zoned else ("timestamp without time zone", "")
    array = text_to_arrow([Column("v", kind)], [[timestamp_text(microseconds, zone=zone)]]).rows.column(0)
    assert array.view("int64").to_pylist() == [microseconds]


def test_dates_before_christ():
    assert date_text(-719_163) == "0001-12-31 BC"
    assert timestamp_text(-62_135_596_800_000_001) == "0001-12-31 23:59:59.999999 BC"


def test_numbers_beyond_floats_are_exact():
    assert values("numeric(38,2)", "123456789012345678901234567890123456.78") == [
        Decimal("123456789012345678901234567890123456.78")
    ]


def test_bytes_and_booleans():
    assert values("bytea", "\\x00ff", "\\x", None) == [b"\x00\xff", b"", None]
    assert values("boolean", "t", "f", None) == [True, False, None]


@pytest.mark.parametrize(
    ("text", "element", "expected"),
    [
        ("{}", "integer", []),
        ("{1,NULL,-3}", "integer", [1, None, -3]),
        ("{{1,2},{3,4}}", "integer", [[1, 2], [3, 4]]),
        ("[0:1]={5,6}", "integer", [5, 6]),
        ('{a,"b,c","NULL",NULL,"","q\\"\\\\"}', "text", ["a", "b,c", "NULL", None, "", 'q"\\']),
        ('{"two\nlines","{}"}', "text", ["two\nlines", "{}"]),
        ("{t,f}", "boolean", [True, False]),
        ("{NaN,1e+20,-0}", "double precision", ["NaN", 1e20, 0]),
        ('{"{\\"a\\": [1]}"}', "jsonb", [{"a": [1]}]),
        ("{(1,1),(0,0);(2,2),(1,1)}", "box", ["(1,1),(0,0)", "(2,2),(1,1)"]),
    ],
)
def test_array_as_json(text, element, expected):
    assert json.loads(array_json(text, element)) == expected


def test_row_that_does_not_fit_is_put_aside_whole():
    columns = [Column("id", "integer"), Column("a", "numeric(4,1)"), Column("b", "timestamp without time zone")]
    converted = text_to_arrow(columns, [["1", "2", "3"], ["1.5", "NaN", "2.0"], [None, None, "infinity"]])
    assert converted.rows.column(0).to_pylist() == [1]
    assert converted.kept.to_pylist() == [0]
    assert [(bad.row, bad.column, bad.reason, bad.payload) for bad in converted.unfit] == [
        (1, "a", "DECIMAL(4,1) cannot hold NaN", '{"id": 2, "a": "NaN", "b": null}'),
        (2, "b", "TIMESTAMP cannot hold infinity", '{"id": 3, "a": 2.0, "b": "infinity"}'),
    ]


@pytest.mark.parametrize(
    ("held", "fitting", "unfit"),
    [
        ("INTEGER", "7", "seven"),
        ("INTEGER", "7.00", "7.5"),
        ("SMALLINT", "-32768", "32768"),
        ("DECIMAL(4,2)", "12.3", "12.345"),
        ("DECIMAL(4,2)", "99.99", "100"),
        ("BOOLEAN", "t", "maybe"),
        ("DOUBLE", "NaN", "x"),
        ("DATE", "2026-01-02", "2026-01-02 00:00:00"),
        ("TIMESTAMP", "2026-01-02 03:04:05", "2026-01-02 03:04:05+00"),
    ],
)
def test_column_kept_as_another_type_takes_what_it_holds(held, fitting, unfit):
    column = Column("v", "text").holding(held)
    assert text_to_arrow([column], [[fitting]]).unfit == []
    (bad,) = text_to_arrow([column], [[unfit]]).unfit
    assert bad.reason == f"{held} cannot hold this value"
