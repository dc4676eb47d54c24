"""The suppression list: what of an erased person is taken out of rows, records and text, and what stays."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from decimal import Decimal
from functools import cache

import duckdb
import hypothesis
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from ingestion import erased
from ingestion.erased import MARK, Erased, Persons
from ingestion.errors import UserError
from ingestion.lake import connect
from ingestion.settings import PROJECT_ROOT, Settings

USERS = "crm-users"
PERSONS = Persons("user_id", ("name", "email", "phone", "age"), is_integer=True)
KEY = b"k" * 64
LIST = (
    Erased(KEY, {USERS: PERSONS})
    .with_persons(["17", "23"])
    .with_values(
        ["Anna O'Brien", "anna@shop.example", "(030) 12-34", "Jörg Müller", "Al", "Eva", "Bö", "12345", "12 34"]
    )
    .with_values(["017612345", "49 176 123"])
)


@pytest.fixture
def home(tmp_path):
    return Settings("demo_shop", tmp_path, tmp_path / "source")


# The list on the disk

NO_CHECK = '{"streams": {}, "persons": ["ab"], "values": [], "pending": []}'


def test_nobody_was_erased(home):
    assert erased.load(home) is None


def test_the_list_comes_back_as_it_was_saved_and_says_nothing_plain(home):
    begun = erased.begin(home).with_streams({USERS: PERSONS}).with_persons(["17"]).with_values(["Anna Meyer"])
    begun.save(home)
    assert erased.load(home) == begun
    assert begun.pending == begun.persons
    assert home.erased_file.stat().st_mode & 0o777 == 0o600
    assert home.erasure_key_file.stat().st_mode & 0o777 == 0o600
    text = home.erased_file.read_text().lower()
    assert "anna" not in text
    assert '"17"' not in text
    ended = begun.without_pending()
    ended.save(home)
    assert erased.load(home) == ended != begun
    assert repr(begun).count("k" * 8) == 0
    assert home.erasure_key_file.read_text() not in repr(begun)


def test_a_list_without_its_key_is_refused(home):
    erased.begin(home).with_persons(["17"]).save(home)
    home.erasure_key_file.unlink()
    with pytest.raises(UserError, match=r"erasure\.key.* is missing: bring it back .* would come back"):
        erased.load(home)
    assert not home.erasure_key_file.exists()


def test_the_key_of_another_list_is_refused(home, tmp_path):
    erased.begin(home).with_persons(["17"]).save(home)
    (tmp_path / "other").mkdir()
    other = replace(home, home=tmp_path / "other")
    erased.begin(other)
    other.erasure_key_file.replace(home.erasure_key_file)
    for ask in (erased.load, erased.begin):
        with pytest.raises(UserError, match=r"erasure\.key, is not the key of the suppression list: bring it back"):
            ask(home)


@pytest.mark.parametrize("left", ["key", "certificate"])
def test_a_list_that_was_lost_is_refused(home, left):
    begun = erased.begin(home).with_persons(["17"])
    begun.save(home)
    home.erased_file.unlink()
    if left == "certificate":
        home.erasure_key_file.unlink()
        (home.home / "erasures").mkdir()
        (home.home / "erasures" / "20260101T000000Z.json").write_text("{}")
    for ask in (erased.load, erased.begin):
        with pytest.raises(
            UserError, match=r"erased\.json, the suppression list, is missing: bring it back .* come back"
        ):
            ask(home)
    if left == "certificate":
        erased.Erased(KEY).save(home)
        with pytest.raises(UserError, match="has nobody, whom certificates name"):
            erased.load(home)


def test_a_list_that_was_begun_and_not_filled_is_of_nobody(home, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(erased, "kept_key", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            erased.begin(home)
    assert erased.load(home) is None
    begun = erased.begin(home)
    assert erased.load(home) is None
    assert erased.begin(home) == begun
    # What an erasure keeps until it ends is no certificate.
    (home.home / "erasures").mkdir()
    (home.home / "erasures" / "pending.json").write_text("{}")
    assert erased.load(home) is None


@pytest.mark.parametrize("content", ["", "[]", '{"persons": []}', '{"streams": []}', NO_CHECK])
def test_a_damaged_list_is_refused(home, content):
    erased.begin(home)
    home.erased_file.write_text(content)
    with pytest.raises(UserError, match=r"erased\.json, the suppression list, cannot be read: bring it back"):
        erased.load(home)


# Rows

SPELLINGS = [
    "17",
    " 17\t",
    "017",
    "+17",
    "17.",
    "17.0",
    "17.000",
    "+017.00",
    "\u00a017\u3000",
    "0" * 50 + "17",
    "\v17\f\r\n",
]
OTHERS = [
    "1",
    "171",
    "17x",
    "",
    None,
    "-17",
    "17.5",
    "17.05",
    "+-17",
    "17..0",
    ".17",
    "17e0",
    "1_7",
    "9" * 45,
    "\u200b17",
    "0",
]
NUMBERS = [*SPELLINGS, *OTHERS, "23"]
OF_ERASED = [*SPELLINGS, "23", "17.00"]
TYPES = {
    pa.string(): NUMBERS,
    pa.int64(): [17, 1, None, 23, -17],
    pa.int16(): [17, 1, None],
    pa.decimal128(9, 0): [Decimal(17), Decimal(1), None],
    pa.decimal128(10, 2): [Decimal("17.00"), Decimal("17.50"), None],
    pa.float64(): [17.0, 17.5, None],
}


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_sql_arrow_and_records_agree_whose_row_it_is(kind, tmp_path):
    numbers = TYPES[kind]
    rows = pa.record_batch(
        {
            "USER_ID": pa.array(numbers, kind),
            "Name": [f"n{n}" for n in range(len(numbers))],
            "age": pa.array(range(len(numbers)), pa.int32()),
            "country": ["DE"] * len(numbers),
        }
    )
    belongs = [str(number) in OF_ERASED for number in numbers]
    expected = [
        {**row, "Name": None, "age": None} if of_erased else row
        for row, of_erased in zip(rows.to_pylist(), belongs, strict=True)
    ]
    assert LIST.arrow(USERS, rows).to_pylist() == expected
    assert LIST.arrow(USERS, rows).schema.types == rows.schema.types
    assert [dict(LIST.record(USERS, row)) for row in rows.to_pylist()] == expected
    with connect(tmp_path) as con:
        con.register("people", rows)
        LIST.install(con)
        found = con.sql(LIST.sql(USERS, "people", rows.schema.names)).to_arrow_table()
        assert found.to_pylist() == expected
        assert found.schema.types == rows.schema.types
        assert con.execute("select count(*) from duckdb_variables() where value like '%kkkk%'").fetchall() == [(0,)]


@cache
def staging_sql() -> str:
    """`to_whole_number` of a column v, as staging asks DuckDB."""
    folder = PROJECT_ROOT / "dbt_project" / "macros"
    macros = [(folder / name).read_text() for name in ("staging.sql", "engine/values.sql")]
    ask = "{% macro trimmed(e) %}{{ duckdb__trimmed(e) }}{% endmacro %}{{ duckdb__to_whole_number('v', 'bigint') }}"
    template = Environment(extensions=["jinja2.ext.do"]).from_string("\n".join([*macros, ask]))
    return template.render(type_string=lambda: "varchar")


#: The list knows these too: of more blanks around it, and of more digits than a number has.
OF_THE_LIST_ALONE = (" 17\t", "\v17\f\r\n", "9" * 45)


@pytest.mark.parametrize("text", [*SPELLINGS, *filter(None, OTHERS), "-17.0", "-0", "+0.0", "-00", "000", "7" * 18])
def test_numbers_are_what_staging_reads(text):
    [(read,)] = duckdb.execute(f"select {staging_sql()} from (select $1 as v)", [text]).fetchall()
    assert PERSONS.is_number(text) == (read is not None or text in OF_THE_LIST_ALONE)
    assert read is None or PERSONS.normalised(text) == str(read)


@given(st.lists(st.text(st.sampled_from("+-0127. \t\v\u00a0"), max_size=7), min_size=50, max_size=50))
@hypothesis.settings(max_examples=5, deadline=None)
def test_duckdb_and_python_read_the_same_numbers(texts):
    texts += ["-0", "+00", " -0.0", "-00."]
    with duckdb.connect() as con:
        for person in {"0", *(PERSONS.normalised(text) for text in texts[:5])}:
            whom = Erased(KEY, {USERS: PERSONS}).with_persons([person])
            whom.install(con)
            query = f"select {whom.is_erased_sql(PERSONS, 'v')} from (select unnest($1::varchar[]) as v)"
            found = [is_erased for (is_erased,) in con.execute(query, [texts]).fetchall()]
            assert found == [PERSONS.normalised(text) == person for text in texts]


def test_numbers_that_are_text_are_persons_of_their_own():
    texts = replace(LIST, streams={USERS: replace(PERSONS, is_integer=False)})
    assert dict(texts.record(USERS, {"user_id": "017", "name": "x"}))["name"] == "x"
    assert dict(texts.record(USERS, {"user_id": " 17", "name": "x"}))["name"] is None


def test_other_streams_and_an_empty_list_leave_rows_alone():
    rows = pa.record_batch({"user_id": ["17"], "name": ["Anna"]})
    assert LIST.arrow("shop-orders", rows) is rows
    assert LIST.sql("shop-orders", "people", ["user_id", "name"]) == "from people"
    nobody = Erased(KEY, {USERS: PERSONS})
    assert nobody.arrow(USERS, rows) is rows
    record = {"user_id": "17", "name": "Anna"}
    assert nobody.record(USERS, record) is record
    assert LIST.record("shop-orders", record) is record


def test_rows_that_do_not_tell_whose_they_are_are_refused():
    rows = pa.record_batch({"key": ["17"], "Name": ["Anna"]})
    says = r"crm-users: Name without user_id, by which erased persons are known: select user_id; .* list of sources"
    for ask in (
        lambda: LIST.arrow(USERS, rows),
        lambda: LIST.record(USERS, rows.to_pylist()[0]),
        lambda: LIST.sql(USERS, "people", rows.schema.names),
    ):
        with pytest.raises(UserError, match=says):
            ask()
    nothing_personal = rows.drop_columns(["Name"])
    assert LIST.arrow(USERS, nothing_personal) is nothing_personal
    assert LIST.payload(USERS, '{"name":"x"}') == '{"name":"x"}'


def test_the_order_of_many_rows_stays(tmp_path):
    many = LIST.with_persons(map(str, range(0, 300_000, 300)))
    with connect(tmp_path) as con:
        many.install(con)
        con.execute("create table people as select i as user_id, 'n' || i as name from range(300000) as t(i)")
        rows = con.execute(many.sql(USERS, "people", ["user_id", "name"])).fetchall()
    assert all(number == place for place, (number, _) in enumerate(rows))
    assert sum(name is None for _, name in rows) == 1002


# Text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("anna@shop.example", MARK),
        ("mail to <ANNA@Shop.example>, now.", f"mail to <{MARK}>, now."),
        ("anna o'brien", MARK),
        ('{"name":"Anna O\'Brien","x":1}', f'{{"name":"{MARK}","x":1}}'),
        ("17,Anna  O'Brien;(030) 12-34|DE", f"17,{MARK};({MARK}|DE"),
        ("of Anna O'Brien's", f"of {MARK}'s"),
        ("Al is too short to be known", "Al is too short to be known"),
        ("Eva, Evan and Medieval", f"{MARK}, Evan and Medieval"),
        ("Bö, Böhm", f"{MARK}, Böhm"),
        ("order 12345 of 12 34, rows: 12345", "order 12345 of 12 34, rows: 12345"),
        ("call 017612345", f"call {MARK}"),
        ("call 49 176 123", "call 49 176 123"),
        ("hanna@shop.example and anna@shop.example.org", "hanna@shop.example and anna@shop.example.org"),
        ("", ""),
    ],
)
def test_known_values_go_from_messages(text, left):
    assert LIST.text(text) == left


@given(st.lists(st.sampled_from(["17", "Jörg", "Müller", "x", "a b", "é"]), max_size=6), st.sampled_from(",;|\t: \"'{"))
def test_a_value_is_found_between_any_marks(words, mark):
    text = f"{mark.join([*words, 'Jörg Müller', *words])}"
    assert "Jörg Müller" not in LIST.text(text)
    assert LIST.tells(text)


@pytest.mark.parametrize(
    "line", [json.dumps({"n": "Jörg Müller"}), r'{"n":"J\xf6rg M\xfcller"', r"1,J\u00f6rg M\u00FCller"]
)
def test_escaped_letters_hide_nobody(line):
    assert LIST.tells(line)


def payload(fields, **more):
    return LIST.payload(more.get("stream", USERS), json.dumps(fields, separators=(",", ":"), ensure_ascii=False))


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        # Of an erased person: by the number, whatever the values are.
        ({"user_id": "17", "name": "New", "country": "DE"}, '{"user_id":"17","name":null,"country":"DE"}'),
        ({"user_id": 17.0, "name": "New"}, '{"user_id":17.0,"name":null}'),
        ({"user_id": "17.", "name": "New"}, '{"user_id":"17.","name":null}'),
        ({"line": "17.0,New,x,y"}, '{"line":"[erased]"}'),
        ({"USER_ID": 17, "EMAIL": None, "age": 4}, '{"USER_ID":17,"EMAIL":null,"age":null}'),
        # Of somebody else, who has the same name.
        ({"user_id": "18", "name": "Jörg Müller"}, '{"user_id":"18","name":"Jörg Müller"}'),
        # Of nobody that is known: by the values.
        ({"user_id": "17x", "name": "Jörg Müller", "age": 5}, '{"user_id":"17x","name":null,"age":5}'),
        ({"user_id": None, "note": "call (030) 12-34!"}, '{"user_id":null,"note":null}'),
        ({"a": {"b": ["jörg müller"]}, "c": [1, None, True]}, '{"a":null,"c":[1,null,true]}'),
        # Few digits are a value in a column of persons alone: elsewhere they are anything.
        ({"user_id": "17x", "phone": "12345", "x": "12345"}, '{"user_id":"17x","phone":null,"x":"12345"}'),
        ({"order_id": 12345, "user_id": "x", "x": {"y": 12345}}, '{"order_id":12345,"user_id":"x","x":{"y":12345}}'),
        ({"user_id": 12345, "phone": "12345"}, '{"user_id":12345,"phone":"12345"}'),
        ({"line": "12345,x"}, '{"line":"12345,x"}'),
        # Lines that are no record: as a whole.
        ({"line": "17,New,new@shop.example,x,y"}, '{"line":"[erased]"}'),
        ({"line": '{"user_id": 17, "name": "Ne'}, '{"line":"[erased]"}'),
        ({"line": "x,anna@shop.example"}, '{"line":"[erased]"}'),
        ({"line": "18,Other,17.5"}, '{"line":"18,Other,17.5"}'),
        (
            {"line": "23;x", "truncated_from_bytes": 9, "sha256": "ab"},
            '{"line":"[erased]","truncated_from_bytes":9,"sha256":null}',
        ),
        ({}, "{}"),
    ],
)
def test_quarantined_records(fields, left):
    assert payload(fields) == left
    assert LIST.payload(USERS, left) == left


def test_lines_of_other_streams_go_by_values_alone():
    assert payload({"line": "17,x"}, stream="shop-orders") == '{"line":"17,x"}'
    assert payload({"line": "17,Jörg Müller"}, stream="shop-orders") == '{"line":"[erased]"}'


def test_few_digits_are_nobody_in_other_streams():
    assert (
        payload({"order_id": "12345", "phone": "12345"}, stream="shop-orders") == '{"order_id":"12345","phone":"12345"}'
    )
    assert payload({"note": "017612345"}, stream="shop-orders") == '{"note":null}'


def test_the_rest_of_a_payload_stays_letter_for_letter():
    text = '{ "user_id" : "17" , "name":"New", "x": 1.50, "y": "\\u00e9" }\n'
    assert LIST.payload(USERS, text) == text.replace('"New"', "null")
    assert LIST.payload(USERS, "no JSON, 17") == MARK
    assert LIST.payload(USERS, '{"user_id": 18') == '{"user_id": 18'


def test_what_is_personal_in_a_record():
    row = {"user_id": 17, "Name": "Anna", "age": 4, "phone": None, "born": dt.date(2000, 1, 1)}
    assert LIST.personal_values(USERS, row) == {"name": "Anna", "age": "4"}
    assert LIST.personal_values(USERS, row | {"user_id": 18}) == {}
    assert LIST.personal_values_of(USERS, '{"user_id":"17","name":"Anna"}') == {"name": "Anna"}
    assert LIST.personal_values_of(USERS, '{"line":"17"}') == {}
