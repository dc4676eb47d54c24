"""Reading is exact: whatever text a file holds, its fields come back, by the direct way and by the sift."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.lake import connect
from ingestion.taps import file_reading
from ingestion.taps.file_bytes import Shape
from ingestion.taps.file_config import FileStreamConfig
from ingestion.taps.file_reading import FileFault, _json_fields, _shape, header_columns, read_file

TEXT = st.text(st.sampled_from(" \",;\n\r\t'xé1.0\\#"), max_size=6)
FIELD = st.one_of(st.none(), TEXT)
PLAIN = st.text(st.sampled_from(" xé1.0'\\"), min_size=1, max_size=6)


def read(content: bytes, kind: str = "csv", **setting):
    """(rows without numbers, numbers, reject payloads) of a file with this content."""
    with tempfile.TemporaryDirectory() as folder, connect(Path(folder)) as con:
        path = Path(folder) / "file"
        path.write_bytes(content)
        config = FileStreamConfig(name="s", path="*", format=kind, **setting)
        columns = read_file(con, path, config, Path(folder), max_line_bytes=1000, spelling={})
        names = ", ".join(f'"{name}"' for name in columns) or "null"
        rows = con.execute(f"select {names} from records order by _sdc_line_number").fetchall()
        numbers = [row[0] for row in con.execute("select _sdc_line_number from records order by 1").fetchall()]
        rejects = con.execute("select payload from rejects order by line_number").fetchall()
        return rows, numbers, [json.loads(payload) for (payload,) in rejects]


def field(value: str | None, delimiter: str) -> str:
    if value is None:
        return ""
    needs_quotes = not value or value[0] == '"' or any(mark in value for mark in (delimiter, "\n", "\r"))
    return '"' + value.replace('"', '""') + '"' if needs_quotes else value


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=5),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_csv_fields_come_back(records, delimiter, end, last):
    lines = ["a,b,c".replace(",", delimiter)]
    lines += [delimiter.join(field(value, delimiter) for value in record) for record in records]
    content = end.join(lines) + (end if last else "")
    rows, numbers, rejects = read(content.encode(), delimiter=delimiter)
    assert rejects == []
    # Where DuckDB would strip a blank beside a quote, the record is quoted anew and an empty text becomes null.
    if any(value and value.startswith(" ") and value.lstrip(" ")[:1] == '"' for record in records for value in record):
        rows = [tuple(value or None for value in row) for row in rows]
        records = [tuple(value or None for value in record) for record in records]
    assert rows == records
    assert numbers == list(range(1, len(records) + 1))


@settings(max_examples=30, deadline=None)
@given(records=st.lists(st.one_of(st.none(), st.tuples(PLAIN, PLAIN)), max_size=8))
def test_every_line_is_a_record_or_a_reject(records):
    lines = ["x,y,z" if record is None else ",".join(record) for record in records]
    rows, numbers, rejects = read(("a,b\n" + "".join(f"{line}\n" for line in lines)).encode())
    assert rows == [record for record in records if record is not None]
    assert numbers == [n for n, record in enumerate(records, start=1) if record is not None]
    assert rejects == [{"line": "x,y,z"}] * records.count(None)


def shape(path, content):
    path.write_bytes(content)
    return _shape(path, FileStreamConfig(name="s", path="*", format="csv"), 1000)


@pytest.mark.parametrize(
    "text", ["a,b\n1,x\n", "a,b\r\n1,x\r\n", 'a,b\n1,"x, "\n2,"y "\n3,"a ""b"", c"\n', 'a,b\n"",""""\n', "a,b\n1,x"]
)
def test_ordinary_files_take_the_direct_way(tmp_path, text):
    assert shape(tmp_path / "file", text.encode()) is Shape.LINES


@pytest.mark.parametrize("text", ['a,b\n"x\n1",é\n', 'a,b\n1,"\n"\n', 'a,b\r\n1,"x\r\n""y"""\r\n'])
def test_quoted_line_ends_are_noticed(tmp_path, text):
    assert shape(tmp_path / "file", text.encode()) is Shape.MULTILINE


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,x\0\n",
        b"a,b\n1,\xe9\n",
        b"a,b\n1,x\r\n2,y\n",
        b"a,b\r1,x\r",
        b'a,b\n1, "x"\n',
        b'a,b\n1,"x" \n',
        b'a,b\n"a" "b",1\n',
        b'a,b\n1,"x\n2,y\n',
        b'a,b\n1,x"\n2,"y\n',
        b'a,b\n1,"x"y"\n2,"z"\n',
        b'a,b\n1,5" wide\n',
        b"\na,b\n",
        b"a,b\n1," + b"x" * 1000 + b"\n",
        b"a,b\n1,x\n2," + b"x" * 1000,
    ],
)
def test_what_duckdb_would_change_takes_the_sift(tmp_path, content):
    assert shape(tmp_path / "file", content) is Shape.IRREGULAR


def test_both_ways_agree(monkeypatch):
    content = b'a,b\n1,"x, "\n2,\n3,""\n4,"y\nz"\n'
    with monkeypatch.context() as patch:
        patch.delattr(file_reading._Sift, "csv")
        direct = read(content)
    monkeypatch.setattr(file_reading, "_shape", lambda *_: Shape.IRREGULAR)
    assert read(content) == direct
    assert direct[0] == [("1", "x, "), ("2", None), ("3", ""), ("4", "y\nz")]


def test_a_quote_amid_a_text_is_a_letter():
    assert read(b"a,b\n5,it's 5\" wide\n")[0] == [("5", "it's 5\" wide")]


def test_all_line_ends_end_lines():
    assert read(b"a,b\n1,x\r\n2,y\r3,z\n")[0] == [("1", "x"), ("2", "y"), ("3", "z")]


def test_blank_lines_are_no_records_even_in_one_column():
    assert read(b'a\n\n1\n\n""\n\n')[:2] == ([("1",), ("",)], [1, 2])


def test_utf_16_is_an_encoding_too():
    assert read("a,b\n1,é\n".encode("utf-16"), encoding="utf-16")[0] == [("1", "é")]


@pytest.mark.parametrize("content", ["a,b\n1,é\n".encode("utf-16")[:-1], b"a,b\n1,2\n"])
def test_utf_16_that_is_cut_off_or_none_is_a_fault(content):
    with pytest.raises(FileFault, match=r"truncated or damaged: .*(utf|UTF)-16"):
        read(content, encoding="utf-16")


def test_bytes_that_the_encoding_does_not_know_are_rejected():
    rows, numbers, rejects = read(b"a,b\n1,\x81\n2,\x80\n", encoding="cp1252")
    assert (rows, numbers, rejects) == ([("2", "€")], [2], [{"line": "1,\\x81"}])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(
    objects=st.lists(st.dictionaries(st.sampled_from(["a", "b.c", "d/e", "~f", "$g"]), JSON), min_size=1, max_size=4)
)
def test_json_values_come_back_as_written(objects):
    texts = [{name: json.dumps(value) for name, value in each.items()} for each in objects]
    lines = ["{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in each.items()) + "}" for each in texts]
    rows, _, rejects = read("".join(f"{line}\n" for line in lines).encode(), "jsonl")
    assert rejects == []
    expected = [
        {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in each.items()
            if value is not None
        }
        for each in objects
    ]
    assert len(rows) == len(objects)
    for row, fields in zip(rows, expected, strict=True):
        assert sorted(value for value in row if value is not None) == sorted(fields.values())


def test_a_comma_before_the_end_is_no_json():
    rows, numbers, _ = read(b'{"a": 1}\n{"a": 2,}\n{"a": 3.50, }\n{"a": "x,"}\n', "jsonl")
    assert (rows, numbers) == ([("1",), ("x,",)], [1, 4])


def test_numbers_come_back_as_written_beside_texts_that_look_like_them():
    rows, _, rejects = read(
        b'{"a": 1.50, "b": "x: 2.50, \xc3\xa9", "c": -0, "d": 01}\n{"a":1e5,"b":": 3.0}"}\n', "jsonl"
    )
    assert rows == [("1e5", ": 3.0}")]
    assert len(rejects) == 1
    rows, _, _ = read(b'{"a": 1.50, "b": "x: 2.50, \xc3\xa9", "c": -0}\n{"a":12345678901234567890}\n', "jsonl")
    assert rows == [("1.50", "x: 2.50, é", "-0"), ("12345678901234567890", None, None)]


def test_names_that_are_no_text_are_no_columns(tmp_path):
    (tmp_path / "file").write_text('{"a": 1}\n{"b\\u0000": 1}\n{"\\ud800": 1}\n')
    config = FileStreamConfig(name="s", path="*", format="jsonl")
    assert header_columns(tmp_path / "file", config, max_line_bytes=100, spelling={}, whole=True) == ["a"]


def test_a_line_that_is_no_object_is_rejected_byte_for_byte():
    lines = ['{"a": 1.50, "b": 01}', '{"a": 2}', "", '{"a": 1e5, "a": 2}', "[1, 2]", ' {"a": -0} x', '{"a": 3}']
    rows, numbers, rejects = read("\n".join(lines).encode(), "jsonl")
    assert (rows, numbers) == ([("2",), ("3",)], [2, 6])
    assert rejects == [{"line": line.strip()} for line in (lines[0], *lines[3:6])]


@pytest.mark.parametrize("text", ["", "x", "[1]", '{"a" 1}', '{"a": 1,}', '{"a": 1} 2', '{"a": 1, "a": 2}', "{1: 2}"])
def test_what_is_no_object_has_no_fields(text):
    with pytest.raises(ValueError):
        _json_fields(text)
