"""The parts of `scripts/erase-user`: where persons are declared, what is looked for, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion.erased import Erased, Persons
from ingestion.errors import UserError
from ingestion.lake import Stream
from ingestion.settings import Settings
from orchestration.erasure import __main__ as command
from orchestration.erasure import building, duckdb_warehouse, files, values
from orchestration.erasure.declaration import Looked, PersonTable, Wanted, declared
from orchestration.erasure.duckdb_warehouse import DuckDBWarehouse
from orchestration.erasure.values import Search, Value, is_identifying
from orchestration.erasure.work import Erasure

SOURCES = """
sources:
  - name: raw_crm
    tables:
      - name: users
        config: {meta: {person: number}}
        columns:
          - name: number
          - {name: mail, config: {tags: [pii], meta: {pii: email}}}
          - {name: age, config: {meta: {pii: age}}}
      - name: logins
  - name: ops
    tables:
      - name: quarantine
        columns: [{name: payload, config: {meta: {pii: record}}}]
"""


def project(folder: Path, text: str) -> Path:
    place = folder / "models" / "staging" / "corner_shop"
    place.mkdir(parents=True)
    (place / "_corner_shop__sources.yml").write_text(text)
    return folder


def test_the_list_of_sources_says_whose_personal_data_are_where(tmp_path: Path) -> None:
    [table] = declared("corner_shop", project(tmp_path, SOURCES))
    assert (table.stream, table.person) == (Stream("crm", "users"), "number")
    assert table.columns == {"mail": "email", "age": "age"}
    assert declared("online_retail") == []
    assert [table.stream.id for table in declared("demo_shop")] == ["crm-users"]


@pytest.mark.parametrize(
    ("person", "record", "is_named"),
    [
        ("7", '{"user_id":7,"x":1}', True),
        ("7", '{"user_id": "+07.00" }', True),
        ("7", '{"number":7.}', True),
        ("7", '{"user_id":"\\t7\\u00a0"}', True),
        ("7", '{"user_id":-7}', False),
        ("7", '{"user_id":7.5}', False),
        ("7", '{"user_id":17}', False),
        ("-7", '{"user_id":"-007"}', True),
        ("-7", '{"user_id":"7"}', False),
        ("0", '{"user_id":-0.0}', True),
    ],
)
def test_records_that_name_a_person(person: str, record: str, is_named: bool) -> None:
    table = PersonTable(Stream("crm", "users"), "number", {"mail": "email"})
    listed = Erased(b"k" * 64, {"crm-users": Persons("number", ("mail",), is_integer=True)})
    pattern = Wanted([table], [person], listed, Search([])).record_pattern
    assert bool(re.search(pattern, record)) == is_named
    assert duckdb.execute("select regexp_matches($1, $2)", [record, pattern]).fetchall() == [(is_named,)]


def test_personal_data_of_nobody_is_refused(tmp_path: Path) -> None:
    text = SOURCES.replace("config: {meta: {person: number}}", "")
    with pytest.raises(UserError, match=r"raw_crm\.users has personal data \(mail, age\) and does not say whose"):
        declared("corner_shop", project(tmp_path, text))


NAMES = st.text(st.characters(categories=("L", "Nd", "Zs"), include_characters="-'.@+/ßéŁ"), min_size=5, max_size=20)


@settings(deadline=None, max_examples=50)
@given(
    NAMES.filter(lambda text: is_identifying(text, "name") and not text.strip().isdecimal()),
    st.sampled_from(["name", "email"]),
)
@example("Zoë O'Neill", "name")
@example("Łukasz Müller", "name")
@example("a.b+c@x.example", "email")
def test_a_value_is_found_and_replaced_however_it_is_written(text: str, kind: str) -> None:
    search = Search([Value(text, kind), Value("somebody@else.example", "email")])
    stripped = text.strip()
    forms = [stripped, stripped.lower(), json.dumps(stripped), json.dumps(json.dumps({"x": stripped}))]
    forms += [stripped.replace("'", "''"), stripped.upper()]
    for form in forms:
        content = f"before {form} after".encode()
        assert search.is_in(content) and search.is_in_text(content), form
        assert search.replaced(content).count(b"[erased]") == 1 and search.replaced(content).endswith(b" after")
        assert not search.is_in_text(search.replaced(content))
        found = "regexp_matches($1, $2, 'i')"
        in_column = [duckdb.execute(f"select {found}", [form, each]).fetchall() for each in search.text_patterns]
        assert [(True,)] in in_column, form
    assert not search.is_in(b"nobody at all") and not search.is_in_text(b"nobody at all")


def test_a_number_is_found_as_staging_keeps_it_but_not_within_another() -> None:
    search = Search([Value("+49 (171) 555-0199", "phone"), Value("12 34 567", "phone")])
    assert search.is_in(b"x491715550199x") and search.is_in(b"call +49 (171) 555-0199")
    assert not search.is_in(b"d41d12345678cd98f00b2"), "seven digits stand in a hash too"
    matches = [
        duckdb.execute("select regexp_matches($1, $2, 'i')", ["id 1234567.", each]).fetchall()
        for each in search.own_patterns
    ]
    assert [(True,)] in matches
    assert not search.is_in_texts(["id 1234567."]), "where no persons are, it is an order"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("n/a", "phone"), ("", "email"), (None, "name"), ("unknown@example.com", "email"), ("44 years", "age")],
)
def test_what_tells_nobody_is_not_looked_for(text: str | None, kind: str) -> None:
    assert not is_identifying(text, kind)


def test_texts_are_rewritten_caches_removed_and_all_else_left(tmp_path: Path) -> None:
    home = Settings(shop="demo_shop", home=tmp_path, data=tmp_path / "source")
    for name, content in {
        "logs/run.log": b"a Ann Lee-Moore b\n" * 3,
        "dbt/partial_parse.msgpack": b"\0ann lee-moore",
        "dbt/graph.gpickle": b"\0nobody",
        "meltano/meltano.db": b"\0Ann Lee-Moore",
        "source/users.csv": b"Ann Lee-Moore",
        "notes.txt": b"Ann Lee-Moore",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    search = Search([Value("Ann Lee-Moore", "name")])
    files.erase(home, search)
    assert (tmp_path / "logs/run.log").read_bytes() == b"a [erased] b\n" * 3
    assert not (tmp_path / "dbt/partial_parse.msgpack").exists() and (tmp_path / "dbt/graph.gpickle").exists()
    # What another program keeps, or nobody knows, is not ours to change: it is said.
    left = [path.relative_to(tmp_path) for path in files.all_files(home) if files.contains(path, search)]
    assert sorted(map(str, left)) == ["meltano/meltano.db", "notes.txt"]


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (["anna"], "'anna' is no user's id: the ids of this shop are whole numbers"),
        (["-1"], "-1 is the unknown user, which is nobody"),
        (["-01"], "-01 is the unknown user, which is nobody"),
        ([" "], "' ' is no user's id"),
        (["17"], "has no batches; check WAREHOUSE_HOME"),
    ],
)
def test_a_mistake_is_one_line(
    users: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAREHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WAREHOUSE_SHOP", "demo_shop")
    monkeypatch.setattr(sys, "argv", ["erase-user", *users, "--apply"])
    assert command.main() == 1
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_a_shop_without_personal_data_has_nothing_to_erase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAREHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WAREHOUSE_SHOP", "online_retail")
    monkeypatch.setattr(sys, "argv", ["erase-user", "17850", "--apply"])
    assert command.main() == 0
    assert "online_retail has no personal data" in capsys.readouterr().out


PERSONS = {"crm-users": Persons("user_id", ("name", "email", "phone", "age"), is_integer=True)}


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """A warehouse in files whose lake has nothing any more: its periods are over."""
    home = Settings(shop="demo_shop", home=tmp_path, data=tmp_path / "source")
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("create schema raw_crm; create schema ops; create table ops.builds (invocation_id text)")
        connection.execute("create table raw_crm.users (user_id text, name text, email text, phone text, age text)")
        connection.execute(
            "insert into raw_crm.users values ('7', null, 'old7@post.example.net', null, '44'),"
            " (' +07 ', null, null, null, null), ('8', 'Other Body', 'other8@post.example.net', null, null)"
        )
    return home


def marts(home: Settings) -> None:
    with duckdb.connect(str(home.marts_file)) as connection:
        connection.execute("create table dim_users (user_id bigint, name text, email text, phone text, age bigint)")
        connection.execute(
            "insert into dim_users values (7, 'Ann Lee-Moore', 'unknown@example.com', '491715550199', 44),"
            " (8, 'Other Body', 'other8@post.example.net', null, 44)"
        )


def looked(home: Settings, person: str = "7") -> Erasure:
    erasure = Erasure(home, declared("demo_shop"), PERSONS)
    erasure.look([person], keyed=True)
    return erasure


def test_what_the_lake_has_forgotten_is_found_in_raw_and_in_the_models(home: Settings) -> None:
    marts(home)
    (home.home / "logs").mkdir()
    (home.home / "logs" / "run.log").write_text("sent to old7@post.example.net, other8@post.example.net\n")
    erasure = looked(home)
    assert {(value.text, value.kind) for value in erasure.pending.values} == {
        ("old7@post.example.net", "email"),
        ("Ann Lee-Moore", "name"),
        ("491715550199", "phone"),
    }
    counts = {place: count for place, count in erasure.pending.counts.items() if count}
    assert counts == {"raw: crm-users": 1, "models": 1, "logs and the like": 1}
    erasure.clean_files()
    assert (home.home / "logs" / "run.log").read_text() == "sent to [erased], other8@post.example.net\n"


def test_an_erasure_that_did_not_end_is_needed_whatever_became_of_its_file(home: Settings) -> None:
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set email = null, age = null where user_id = '7'")
    assert not looked(home).is_needed
    marts(home)
    assert looked(home).is_needed, "the models have the person, and raw has not"
    home.marts_file.unlink()
    erasure = looked(home)
    erasure._known.with_persons(["7"]).save(home)
    assert looked(home).is_needed and not looked(home, "8").went_on, "the list says that it did not end"


def test_a_warehouse_that_has_forgotten_its_builds_still_has_models(home: Settings) -> None:
    assert not DuckDBWarehouse(home).is_built
    marts(home)
    assert DuckDBWarehouse(home).is_built


def test_a_value_that_is_something_else_in_the_shop_is_said_and_no_failure(home: Settings) -> None:
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set name = 'Mozartkugel', phone = '880011' where user_id = '7'")
        connection.execute("create schema raw_shop; create table raw_shop.orders as select '880011' as order_id")
        connection.execute("create table raw_shop.products as select 'a Mozartkugel' as name")
    marts(home)
    erasure = looked(home)
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set name = null, phone = null, email = null, age = null")
        connection.execute("create table copied as from raw_crm.users; drop table raw_crm.users")
        connection.execute("create table raw_crm.users as from copied; drop table copied; checkpoint")
    found = [place for place in erasure.verify()["found"] if place.endswith("rows")]
    assert found == ["marts: main.dim_users.name: 1 rows", "marts: main.dim_users.phone: 1 rows"]
    home.marts_file.unlink()
    # The other's bytes stay in a file of DuckDB's until it is made anew.
    erasure.pending.values = [value for value in erasure.pending.values if value.kind != "email"]
    verified = erasure.verify()
    assert b"Mozartkugel" in home.warehouse_file.read_bytes()
    assert verified["found"] == []
    assert verified["elsewhere"] == ["warehouse: raw_shop.products.name: 1 rows"]


def test_an_address_is_found_in_whatever_column() -> None:
    mail, name = Value("ann@post.example.net", "email"), Value("Mozartkugel", "name")
    looked = Looked()
    looked.note("orders.note", 1, Search([mail, name]), ["for Ann@post.example.net"], is_personal=False)
    looked.note("products.name", 2, Search([mail, name]), ["a Mozartkugel"], is_personal=False)
    assert looked.found == ["orders.note: 1 rows"]
    assert looked.elsewhere == ["products.name: 2 rows"] and looked.equal == {name}


def test_what_names_models_and_streams_is_nobodys_name(home: Settings) -> None:
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute(
            "create table ops.model_runs as select 'fact_zebedee.v1' as unique_id, 'no Zebedee' as message"
        )
        connection.execute("attach ':memory:' as rebuilt; create schema rebuilt.ops")
        wanted = Wanted([], [], Erased(b"k" * 32), Search([Value("Zebedee", "name")]))
        duckdb_warehouse._keep_history(connection, wanted)
        rows = connection.execute("from rebuilt.ops.model_runs").fetchall()
        assert rows == [("fact_zebedee.v1", "no [erased]")]
        connection.execute("update raw_crm.users set name = 'Orders' where user_id = '7'")
    (home.home / "dbt").mkdir()
    (home.home / "dbt" / "manifest.json").write_text('{"fact_orders": "old7@post.example.net"}')
    erasure = looked(home)
    erasure.clean_files()
    assert (home.home / "dbt" / "manifest.json").read_text() == '{"fact_orders": "[erased]"}'
    erasure.pending.save(home.home / "erasures" / "pending.json")
    assert looked(home)._search.values == erasure._search.values


def test_all_files_are_searched_wherever_the_data_are(home: Settings) -> None:
    (home.home / "source").mkdir()
    (home.home / "source" / "users.csv").touch()
    for data in (home.home, home.home.parent, home.home / "source"):
        seen = set(files.all_files(replace(home, data=data)))
        assert home.warehouse_file in seen and home.home / "source" / "users.csv" not in seen


def test_another_shops_warehouse_is_not_said_to_hold_nobody(
    home: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("create table ops.warehouse as select 'demo_shop' as shop, now() as created_at")
    monkeypatch.setenv("WAREHOUSE_HOME", str(home.home))
    monkeypatch.setenv("WAREHOUSE_SHOP", "online_retail")
    monkeypatch.setattr(sys, "argv", ["erase-user", "17850", "--apply"])
    assert command.main() == 1
    said = capsys.readouterr()
    assert "holds the shop demo_shop, not online_retail" in said.err and said.out == ""


def test_a_very_long_value_is_found_and_replaced_too() -> None:
    text = "".join(f"name {number} é" for number in range(8_000))
    search = Search([Value(text, "name")])
    assert search.is_in(f"a {text} b".encode()) and not search.is_in(b"name 1 name 2")
    assert search.is_in_text(f"a {text} b".encode())
    assert search.replaced(f"a {text} b".encode()).replace(b"[erased]", b"").split() == [b"a", b"b"]


def test_new_marts_are_for_the_readers_of_the_old_ones(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    marts(home)
    home.marts_file.chmod(0o600)
    # As dbt makes it, which has no eye for the old one.
    monkeypatch.setattr(building, "build", marts)
    Erasure(home, declared("demo_shop"), PERSONS).build()
    assert home.marts_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "text", "cleaned"),
    [
        ("Peter", "Peter, peter_x and PETER Peter Peter", "[erased], [erased]_x and [erased] [erased] [erased]"),
        ("Peter", "Petersen, Kupeter, Peter2, Petér", None),
        ("Peter", r'{"msg": "no\nPeter", "at": "x%20Peter%20"}', r'{"msg": "no\n[erased]", "at": "x%20[erased]%20"}'),
        ("Anna", "Anna! Hanna Anna-Lena Annas Annaë", "[erased]! Hanna [erased]-Lena Annas Annaë"),
        ("Anna", "订单Anna的", "订单[erased]的"),
        ("Zoë", "Zoë Zoën ZOË Zo\u0065\u0308", "[erased] Zoën [erased] [erased]"),
        ("Zoë", r'{"x": "Zo\u00eb"}', '{"x": "[erased]"}'),
        ("王明", "订单王明的 VIP王明x 王小明", "订单[erased]的 VIP[erased]x 王小明"),
        ("김철수", "김철수는", "[erased]는"),
        ("Ив", "Ив Ивана", "[erased] Ивана"),
        ("Al", "Al", None),
        ("Max Lee", "Max Lee, Max Leeds, max%20lee", "[erased], Max Leeds, [erased]"),
    ],
)
def test_a_name_is_a_whole_word_in_texts(name: str, text: str, cleaned: str | None) -> None:
    assert is_identifying(name, "name") == (name != "Al")
    search = Search([Value(name, "name")])
    assert search.replaced(text.encode()).decode() == (cleaned or text)
    assert search.is_in_text(text.encode()) == (cleaned is not None)
    for pattern in (*search.text_patterns, *search.own_patterns):
        found = duckdb.execute("select regexp_matches($1, $2, 'i')", [text, pattern]).fetchall()
        assert found == [(cleaned is not None,)]
    assert not search.is_in_text(search.replaced(text.encode()))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Peter", ["\x1b[35mPeter\x1b[0m", r"\u001b[1;35mPeter", r"\x1b[mPeter"]),
        ("Max Lee", ["x=Max+Lee&y"]),
        ("Zoë", [json.dumps("ZOË"), "ZO%C3%8B", repr("Zoë".encode()), json.dumps(json.dumps(json.dumps("Zoë")))]),
        ("O'Brien", ["O&#39;Brien", "O&#x27;Brien", r"'O\'Brien'"]),
        ('Zoë "Z" Lee', [json.dumps('Zoë "Z" Lee', ensure_ascii=False), json.dumps(json.dumps('Zoë "Z" Lee'))]),
        ('Ann "Z" Lee', ['"Ann ""Z"" Lee"', json.dumps(json.dumps(json.dumps('Ann "Z" Lee')))]),
    ],
)
def test_a_name_is_found_and_replaced_as_programs_write_it(name: str, written: list[str]) -> None:
    search = Search([Value(name, "name")])
    for text in written:
        assert search.is_in_text(text.encode()) and b"[erased]" in search.replaced(text.encode()), text
        assert not search.is_in_text(search.replaced(text.encode())), text


@pytest.mark.parametrize(
    ("name", "other"), [("Zoe\u0301", "Zoétrope"), ("Zoe\u0301", "Zoe\u0301s"), ("सीता", "सीताराम")]
)
def test_a_name_that_ends_with_a_mark_on_a_letter_is_a_whole_word_too(name: str, other: str) -> None:
    search = Search([Value(name, "name")])
    assert search.replaced(f"{name} {other}".encode()).decode() == f"[erased] {other}"


def test_many_texts_are_searched_one_by_one_without_making_the_expressions_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = Search(Value(f"Maria{number} Nowak", "name") for number in range(100))
    texts = [None, "maria7 nowak", *(f"maria{number}" for number in range(5_000)), "of Maria99 Nowak."]
    searches, match = [], values.pc.match_substring_regex
    monkeypatch.setattr(values.pc, "match_substring_regex", lambda *a, **kw: searches.append(1) or match(*a, **kw))
    assert [place for place, has in enumerate(search.each_is_in(texts)) if has] == [1, 5_002]
    assert len(searches) == len(search.text_patterns)
    assert search.each_is_in(texts, []) == [False] * len(texts) and search.each_is_in([]) == []


def test_a_log_with_a_block_of_zeros_is_a_text(tmp_path: Path) -> None:
    home = Settings(shop="demo_shop", home=tmp_path, data=tmp_path / "source")
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "run.log.1"
    log.write_bytes(b"of Anna\n" + b"\0" * 4_096 + b"\nPeter, Petersen\n\xff")
    files.erase(home, Search([Value("Anna", "name"), Value("Peter", "name")]))
    assert log.read_bytes() == b"of [erased]\n" + b"\0" * 4_096 + b"\n[erased], Petersen\n\xff"


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    search = Search([Value("Anna", "name"), Value("Peter", "name"), Value("a@b.example", "email")])
    assert search.replaced(b"\xff\xe9 Anna \xff xa@b.exampley") == b"\xff\xe9 [erased] \xff x[erased]y"
    assert search.is_in(b"\xffpetersen") and not search.is_in(b"\xff Anna \xff"), "short names are in bytes by chance"


def test_short_names_are_looked_for_as_far_as_they_tell(home: Settings) -> None:
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set name = '王小明' where user_id = '7'")
        connection.execute("insert into raw_crm.users (user_id, name) values ('7', 'Inka'), ('7', 'Al')")
        connection.execute("create table ops.model_runs as select 'of Inka, Joinka' as message")
    (home.home / "logs").mkdir()
    (home.home / "logs" / "run.log").write_text("Inka, Joinka\n")
    erasure = looked(home)
    assert {value.text for value in erasure.pending.values} == {"王小明", "Inka", "old7@post.example.net"}
    counts = erasure.pending.counts
    assert (counts["values too short to look for"], counts["ops.model_runs"], counts["logs and the like"]) == (1, 1, 1)
    erasure.clean_files()
    assert (home.home / "logs" / "run.log").read_text() == "[erased], Joinka\n"
    assert "warehouse: ops.model_runs.message: 1 rows" in erasure.verify()["found"]
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("attach ':memory:' as rebuilt; create schema rebuilt.ops")
        duckdb_warehouse._keep_history(connection, erasure._wanted(erasure._search))
        assert connection.execute("from rebuilt.ops.model_runs").fetchall() == [("of [erased], Joinka",)]


def test_what_stands_within_others_words_is_no_failure(home: Settings) -> None:
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set name = 'Mozart', email = null, age = null where user_id = '7'")
        connection.execute("create table ops.model_runs as select 'no Mozartkugel' as message, 'mozarts.x' as name")
    marts(home)
    (home.home / "logs").mkdir()
    (home.home / "logs" / "run.log").write_text("Mozart, Mozarteum\n")
    erasure = looked(home)
    erasure.pending.values = [value for value in erasure.pending.values if value.text == "Mozart"]
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set name = null; checkpoint")
    home.marts_file.unlink()
    verified = erasure.verify()
    assert verified["found"] == [str(home.home / "logs" / "run.log")] and verified["elsewhere"] == []
    assert b"Mozart" in home.warehouse_file.read_bytes()
    erasure.clean_files()
    assert (home.home / "logs" / "run.log").read_text() == "[erased], Mozarteum\n"
    assert erasure.verify()["found"] == []


def test_a_part_of_the_projects_words_is_looked_for_in_texts_alone(home: Settings) -> None:
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set name = 'Ustome', email = null, age = null where user_id = '7'")
    for name, content in {"meltano/meltano.db": b"\0customers", "logs/run.log": b"Ustome of customers"}.items():
        (home.home / name).parent.mkdir()
        (home.home / name).write_bytes(content)
    erasure = looked(home)
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("update raw_crm.users set name = null; checkpoint")
    found = {Path(place).name for place in erasure.verify()["found"]}
    assert "run.log" in found and "meltano.db" not in found
    erasure.clean_files()
    assert (home.home / "logs" / "run.log").read_bytes() == b"[erased] of customers"
