"""The looks at bytes by which most files and columns are spared dearer ones: they say yes only where those would."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.lake import connect
from ingestion.taps import file_bytes
from ingestion.taps.file_bytes import Shape, shape_of
from ingestion.taps.file_config import FileStreamConfig
from ingestion.taps.file_rules import broken_sql
from ingestion.taps.file_sure import unsure_columns

PLAIN = {
    "integer": ["0", "-5", "007", "123456789", None],
    "bigint": ["123456789012345678", "-1", ""],
    "decimal": ["0", "-1.50", "12345678901234.1234", None],
    "boolean": ["true", "n", "1", None, ""],
    "date": ["2026-07-01", "2024-02-29", "1970-01-01", None],
    "timestamp": ["2026-07-01T10:20:30Z", "2024-02-29T23:59:59Z", None],
}
ALPHABETS = {
    "integer": "0129-+. x",
    "bigint": "0129-+. ",
    "decimal": "019-+.e ",
    "boolean": "truefalsn10T ",
    "date": "20-13 ",
    "timestamp": "201-:TZ .",
}
NEAR_MOMENTS = [
    *("2026-02-30", "2026-13-01", "1969-12-31", "2100-01-02", "2026-07-01T24:00:00Z", "2026-07-01T10:60:00Z"),
    *("2026-07-01T10:20:30", "2026-07-01 10:20:30", "2026-07-01T10:20:30.5Z", "2026-07-01T10:20:30+02:00", "2026-07"),
    *("0000-01-01", "0000-12-31T00:00:00Z", "9999-12-31", "0000-00-00"),
    *("2026-07-01T10:20:60Z", "2026-07-01T10:20:30.123456Z", "2026-07-01x10:20:30Z", "2100-01-01T00:00:00Z"),
]


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    with connect(tmp_path_factory.mktemp("spill")) as con:
        yield con


def chunk(texts: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch({"v": pa.array(texts, pa.string()), "_sdc_line_number": pa.array(range(len(texts)))})


def config(kind: str | None, *, needed: bool = False, form: str = "csv") -> FileStreamConfig:
    columns = {"v": kind} if kind else {}
    return FileStreamConfig(name="s", path="*", format=form, columns=columns, not_empty=("v",) if needed else ())


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_values_are_sure(kind):
    assert unsure_columns(config(kind), ["v"], chunk(PLAIN[kind])) == []
    assert unsure_columns(config(kind), ["v"], chunk(PLAIN[kind]).slice(1)) == []


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(PLAIN)), needed=st.booleans())
def test_what_breaks_a_rule_is_never_sure(con, data, kind, needed):
    text = st.one_of(st.sampled_from(PLAIN[kind]), st.text(ALPHABETS[kind], max_size=20), st.sampled_from(NEAR_MOMENTS))
    texts = data.draw(st.lists(text, min_size=1, max_size=4))
    rules = config(kind, needed=needed)
    con.register("chunk", chunk(texts))
    broken = con.execute(broken_sql(rules, ["v"], "chunk")).fetchall()
    assert not broken or unsure_columns(rules, ["v"], chunk(texts)) == ["v"]


@pytest.mark.parametrize("text", NEAR_MOMENTS)
def test_every_moment_is_judged_as_by_the_rules(con, text):
    con.register("chunk", chunk([text]))
    for kind in ("date", "timestamp"):
        if con.execute(broken_sql(config(kind), ["v"], "chunk")).fetchall():
            assert unsure_columns(config(kind), ["v"], chunk([text])) == ["v"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("decimal", text) for text in ("1.23451", "100000000000000", "100000000000000.1", "1.2.3", "1.-2", "-")),
        *(("integer", text) for text in ("2147483648", "1-2", "-")),
        ("bigint", "9223372036854775808"),
    ],
)
def test_numbers_that_the_type_does_not_hold_are_unsure(kind, text):
    assert unsure_columns(config(kind), ["v"], chunk(["1", text])) == ["v"]


@pytest.mark.parametrize("texts", [["x", ""], ["x", None], ["x", " "], [" x"], ["\u00a0"], ["\u3000x"]])
def test_what_may_be_blank_is_unsure_where_it_must_not_be(texts):
    assert unsure_columns(config(None, needed=True), ["v"], chunk(texts)) == ["v"]
    assert unsure_columns(config(None), ["v"], chunk(texts)) == []


def test_a_nul_is_unsure_where_bytes_do_not_show_it():
    assert unsure_columns(config(None, form="jsonl"), ["v"], chunk(["x", "a\0b"])) == ["v"]
    assert unsure_columns(config(None, form="jsonl"), ["v"], chunk(["x", None])) == []


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(['"', " ", ",", "\n", "\r\n", "a", "é", '""', '"a"', "\r", "\0"]), max_size=25),
    size=st.sampled_from([8, 13, 64]),
    mark=st.booleans(),
)
def test_pieces_make_no_difference(parts, size, mark):
    content = ("\ufeff" * mark + "".join(parts)).encode()
    whole = shape_of(io.BytesIO(content), b",", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_bytes, "_READ_BYTES", size)
        assert shape_of(io.BytesIO(content), b",", 20) is whole


@pytest.mark.parametrize("size", [8, 64])
def test_a_quote_that_was_opened_in_an_earlier_piece_counts(monkeypatch, size):
    monkeypatch.setattr(file_bytes, "_READ_BYTES", size)
    assert shape_of(io.BytesIO(b'"x\nb",c\n'), b",", 20) is Shape.MULTILINE
    assert shape_of(io.BytesIO(b'"x\nb",c"\n'), b",", 20) is Shape.IRREGULAR
    assert shape_of(io.BytesIO(b'"x\n\n\nb\nc'), b",", 20) is Shape.IRREGULAR


@pytest.mark.parametrize("content", [b"\r\n\xff", b"a\n" * 50 + b"\0" + b"b\n" * 50, b"a" * 100])
def test_a_file_is_read_to_its_end_whatever_is_found(monkeypatch, content):
    # Damage of its compression shows only there.
    monkeypatch.setattr(file_bytes, "_READ_BYTES", 16)
    file = io.BytesIO(content)
    assert shape_of(file, b",", 20) is Shape.IRREGULAR
    assert file.read() == b""
