"""How JSON values become columns: exactly, or with a reason why not."""

from __future__ import annotations

import json
from decimal import Decimal

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.errors import UserError
from ingestion.lake import Stream
from ingestion.lake.column_types import (
    LARGE_INTEGER,
    NUMBER,
    TEXT,
    TIME,
    as_text,
    column_type,
    column_widened,
    needed_type,
    widened,
)
from ingestion.target.records import BadRecord, RecordSchema

ORDERS = Stream("shop", "orders")
CON = duckdb.connect()  # One for all examples: opening takes longer than an example.


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer"}, "BIGINT"),
        ({"type": ["null", "integer"]}, "BIGINT"),
        ({"type": ["integer", "number"]}, NUMBER),
        ({"type": "boolean"}, "BOOLEAN"),
        ({"type": "string", "format": "date-time"}, TIME),
        ({"type": "string", "format": "date"}, "DATE"),
        ({"type": "string", "format": "email"}, TEXT),
        ({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}, TIME),
        ({"anyOf": [{"type": "string", "format": "date-time"}, {"type": ["string", "null"]}]}, TEXT),
        ({"type": ["string", "integer"]}, TEXT),
        ({"type": "object"}, TEXT),
        ({"type": ["array", "null"]}, TEXT),
        ({}, TEXT),
    ],
)
def test_column_types(schema, kind):
    assert column_type(schema) == kind


@pytest.mark.parametrize(
    ("old", "new", "wide"),
    [
        ("INTEGER", "BIGINT", "BIGINT"),
        ("BIGINT", "INTEGER", "BIGINT"),
        ("BIGINT", NUMBER, "DECIMAL(38,10)"),
        ("DECIMAL(10,2)", "DECIMAL(8,4)", "DECIMAL(12,4)"),
        (LARGE_INTEGER, NUMBER, TEXT),
        ("DATE", TIME, TIME),
        (TEXT, "BIGINT", TEXT),
        ("BIGINT", TEXT, None),
        ("BOOLEAN", "BIGINT", None),
        ("DOUBLE", "BIGINT", None),
    ],
)
def test_widening(old, new, wide):
    assert widened(old, new) == wide


def test_a_closed_batch_may_bring_text_for_any_type():
    assert column_widened("BIGINT", TEXT) == TEXT
    assert column_widened("BOOLEAN", TEXT) == TEXT


numbers = st.integers(-(10**45), 10**45) | st.decimals(allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(numbers, st.sampled_from(["SMALLINT", "BIGINT", NUMBER, "DECIMAL(12,4)"]))
def test_every_number_survives_its_column(value, kind):
    if kind in {"SMALLINT", "BIGINT"} and not isinstance(value, int):
        kind = NUMBER
    needed = needed_type(kind, value)
    text = as_text(needed, value)
    ((stored,),) = CON.execute(f"select cast(cast($1 as varchar) as {needed})", [text]).fetchall()
    assert Decimal(stored) == Decimal(value)


@settings(max_examples=200)
@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 5))
def test_equal_numbers_have_equal_text(value, zeros):
    sign, digits, exponent = value.as_tuple()
    assert as_text(NUMBER, value) == as_text(NUMBER, Decimal((sign, digits + (0,) * zeros, exponent - zeros)))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("BIGINT", "7"),
        ("BIGINT", True),
        ("BOOLEAN", 1),
        (NUMBER, float("nan")),
        (NUMBER, Decimal("Infinity")),
        (TIME, "yesterday"),
        (TIME, "0001-01-01T00:00:00+05:00"),
        ("DATE", "2026-02-30"),
        ("DATE", {}),
        (TEXT, "\ud800"),
    ],
)
def test_a_value_of_another_type_is_refused(kind, value):
    with pytest.raises(ValueError, match=r"expected|no date|NaN|Unicode"):
        as_text(kind, value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "n", "when", "flag", "text", "other", "OTHER"]), json_values))
def test_any_record_is_a_row_or_a_bad_record(record):
    """Nothing that a tap can send makes anything but a row or a reason."""
    properties = {
        "id": {"type": "integer"},
        "n": {"type": ["number", "null"], "multipleOf": Decimal("0.01")},
        "when": {"type": ["string", "null"], "format": "date-time"},
        "flag": {"type": ["boolean", "null"]},
        "text": {"type": ["string", "null"], "maxLength": 3},
    }
    sent = json.loads(json.dumps(record), parse_float=Decimal)
    schema = RecordSchema(ORDERS, {"type": "object", "properties": properties}, ["id"], {})
    try:
        row = schema.row(sent)
    except BadRecord as error:
        assert error.reason
        return
    assert isinstance(sent["id"], int)
    assert row.values.keys() == sent.keys()
    assert {name for name, value in row.values.items() if value is None} == {
        name for name, value in sent.items() if value is None
    }


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("value", [None, True, 1, Decimal("1.5"), "x", {}, []])
@pytest.mark.parametrize("kind", ["null", "boolean", "integer", "number", "string", "object", "array"])
def test_the_quick_look_at_types_agrees_with_the_validator(plain, value, kind):
    properties = {"id": {"type": kind}}
    schema = {"properties": properties} if plain else {"properties": properties, "additionalProperties": True}
    accepted = {
        "null": value is None,
        "boolean": value is True,
        "integer": value == 1 and value is not True,
        "number": value is not True and isinstance(value, int | Decimal),
        "string": value == "x",
        "object": value == {},
        "array": value == [],
    }[kind]
    try:
        RecordSchema(ORDERS, schema, [], {}).row({"id": value})
    except BadRecord:
        assert not accepted
    else:
        assert accepted


def test_a_schema_whose_names_differ_only_by_case_is_refused():
    with pytest.raises(UserError, match="only by case"):
        RecordSchema(ORDERS, {"properties": {"id": {}, "ID": {}}}, [], {})


@pytest.mark.parametrize(("kind", "bits"), [("TINYINT", 8), ("SMALLINT", 16), ("INTEGER", 32), ("BIGINT", 64)])
def test_an_integer_type_takes_all_of_its_range(kind, bits):
    assert needed_type(kind, -(2 ** (bits - 1))) == kind
    assert needed_type(kind, 2 ** (bits - 1) - 1) == kind


def test_an_integer_beyond_the_widest_type_is_a_large_one():
    assert needed_type("BIGINT", -(2**63) - 1) == LARGE_INTEGER
    assert needed_type("BIGINT", 2**63) == LARGE_INTEGER
