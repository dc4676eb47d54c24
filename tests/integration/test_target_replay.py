"""`warehouse-replay`: what passes now is loaded once, the rest waits on with its reason."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from ingestion.lake import Stream, connect
from tests.integration.conftest import ENGINES
from tests.integration.tap_files_runs import Shop
from tests.integration.test_target_loading import record, schema

pytestmark = ENGINES
TEXT_AMOUNT = schema({"id": {"type": "integer"}, "amount": {"type": ["string", "null"]}})


def test_records_that_pass_the_current_schema_are_loaded_once(warehouse, run_replay):
    note = {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 3}}
    warehouse.load([schema(note), record(id=1, note="ok"), record(id=2, note="long"), record(id=3, note=3)])
    assert run_replay() == "shop-orders: 0 loaded, 0 known already, 2 still wait\n"
    note["note"] = {"type": "string"}
    warehouse.load([schema(note)])
    before = warehouse.query("select count(*) from ops.syncs")
    assert run_replay() == "shop-orders: 1 loaded, 0 known already, 1 still wait\n"
    assert run_replay() == "shop-orders: 0 loaded, 0 known already, 1 still wait\n"
    assert warehouse.query("select id, note from raw_shop.orders order by id") == [(1, "ok"), (2, "long")]
    ((load_id, extracted),) = warehouse.query("select load_id, rows_extracted from ops.loads where kind = 'replay'")
    assert extracted == 1
    marks = warehouse.query("select payload, replayed_load_id, column_name from ops.quarantine order by quarantine_id")
    assert marks == [('{"id":2,"note":"long"}', load_id, "note"), ('{"id":3,"note":3}', None, "note")]
    assert warehouse.query("select count(*) from ops.syncs") == before
    warehouse.check_identities()


def test_a_record_that_came_again_meanwhile_is_known(warehouse, run_replay):
    note = {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 3}}
    warehouse.load([schema(note), record(id=2, note="long")])
    note["note"] = {"type": "string"}
    warehouse.load([schema(note), record(id=2, note="long")])
    assert run_replay() == "shop-orders: 0 loaded, 1 known already, 0 still wait\n"
    assert warehouse.query("select count(*) from raw_shop.orders") == [(1,)]
    assert run_replay() == "nothing waits in quarantine\n"
    warehouse.check_identities()


def test_versions_of_a_key_are_replayed_in_their_order(warehouse, run_replay, monkeypatch):
    note = {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 3}}
    versions = [record(id=2, note=f"long {n}") for n in range(12)]
    warehouse.load([schema(note), *versions[:11]], max_quarantine_share=1)
    warehouse.load([schema(note), versions[11]], max_quarantine_share=1)
    note["note"] = {"type": "string"}
    warehouse.load([schema(note)])
    monkeypatch.setattr("ingestion.target.sql_engine._REPLAY_CHUNK", 5)
    run_replay()
    rows = warehouse.query("select note from raw_shop.orders order by _sdc_load_id, _sdc_sequence")
    assert rows == [(f"long {n}",) for n in range(12)]


def test_a_widened_column_lets_changed_types_through(warehouse, run_replay):
    warehouse.load([schema(), record(id=1, amount=1)])
    warehouse.load([TEXT_AMOUNT, record(id=2, amount="2 EUR")])
    assert "1 still wait" in run_replay()
    warehouse.query("alter table raw_shop.orders alter column amount type varchar")
    assert "1 loaded" in run_replay()
    assert warehouse.query("select amount from raw_shop.orders where id = 2") == [("2 EUR",)]


def test_a_deleted_record_is_replayed_as_a_delete(warehouse, run_replay):
    note = {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 3}}
    deleted = record(id=2, note="long", _sdc_deleted_at="2026-01-01T00:00:00Z")
    warehouse.load([schema(note), deleted])
    warehouse.load([schema({"id": {"type": "integer"}, "note": {"type": "string"}})])
    run_replay()
    assert warehouse.query("select _sdc_operation, _sdc_deleted_at from raw_shop.orders") == [
        ("delete", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    ]


def test_a_crash_between_lake_and_commit_is_made_good_by_the_next_replay(warehouse, run_replay, monkeypatch):
    note = {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 3}}
    warehouse.load([schema(note, keys=()), record(id=2, note="long"), record(id=2, note="long")])
    warehouse.load([schema({"id": {"type": "integer"}, "note": {"type": "string"}}, keys=())])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ingestion.target.core.Loader.commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run_replay()
    run_replay()
    assert warehouse.query("select count(*) from raw_shop.orders") == [(2,)]
    assert warehouse.query("select count(*) from ops.quarantine where replayed_load_id is null") == [(0,)]
    warehouse.check_identities()


# Files


@pytest.fixture
def streams_file(tmp_path, monkeypatch):
    """A shop's list of file streams, rewritten by the test."""
    path = tmp_path / "streams.yml"
    monkeypatch.setattr("ingestion.settings.Settings.streams_file", path)

    def write(columns):
        entry = {"name": "shop-orders", "path": "*.csv", "format": "csv", "keys": ["id"], "columns": columns}
        path.write_text(json.dumps({"streams": [entry | {"deleted_at": "deleted_at"}]}))

    return write


def test_records_of_files_follow_the_rules_of_their_stream(warehouse, run_replay, streams_file):
    streams_file({"quantity": "integer"})
    text = {"type": ["string", "null"]}
    with connect(warehouse.home / "spill") as con:
        con.execute("create table rows as select '1' as id, '1' as quantity, null::varchar as deleted_at")
        con.execute(
            "create table bad (reason varchar, column_name varchar, payload varchar, source_file varchar,"
            " line_number bigint)"
        )
        payloads = [
            {"id": "2", "quantity": "two", "deleted_at": None},
            {"id": "2", "quantity": "two", "deleted_at": None},
            {"id": "3", "quantity": "three", "deleted_at": "2026-01-01T00:00:00Z"},
            {"id": "", "quantity": "4", "deleted_at": None},
            {"line": 'torn "line'},
        ]
        for number, payload in enumerate(payloads, start=7):
            con.execute("insert into bad values ('rule', 'quantity', ?, 'a.csv', ?)", [json.dumps(payload), number])
        closed = warehouse.lake.write(
            con, Stream("shop", "orders"), rows="rows", quarantine="bad", batch_id="one",
            origin={"source_file": "a.csv"}, extracted_at=dt.datetime.now(dt.UTC),
        )  # fmt: skip
    encoding = {"format": "parquet", "compression": "zstd"}
    message = {"type": "BATCH", "stream": "shop-orders", "encoding": encoding, "manifest": [closed.file.as_uri()]}
    warehouse.load([schema(dict.fromkeys(("id", "quantity", "deleted_at"), text)), message])
    assert run_replay() == "shop-orders: 0 loaded, 0 known already, 5 still wait\n"
    streams_file({})
    assert run_replay() == "shop-orders: 3 loaded, 0 known already, 2 still wait\n"
    rows = warehouse.query(
        "select id, quantity, _sdc_operation, _sdc_source_file, _sdc_line_number, _sdc_occurrence,"
        " _sdc_sequence = _sdc_load_id from raw_shop.orders where _sdc_load_id <> "
        f"{closed.load_id} order by _sdc_line_number"
    )
    assert rows == [
        ("2", "two", "upsert", "a.csv", 7, 1, True),
        ("2", "two", "upsert", "a.csv", 8, 2, True),
        ("3", "three", "delete", "a.csv", 9, 1, True),
    ]
    of_file = [b for b in warehouse.lake.manifest(Stream("shop", "orders")) if b.origin.get("source_file") == "a.csv"]
    assert of_file == [closed]
    warehouse.check_identities()


@pytest.fixture
def shop_of_files(tmp_path, warehouse, monkeypatch):
    """A shop whose tap and warehouse share a lake; `load` runs the tap and the target, `rule` sets the type of n."""
    shop = Shop(tmp_path, name="shop-orders", path="*.csv")
    shop.lake = warehouse.lake
    monkeypatch.setattr("ingestion.settings.Settings.streams_file", shop.streams_file)
    entry = {"name": "shop-orders", "path": "*.csv", "format": "csv"}

    def rule(kind):
        shop.streams_file.write_text(json.dumps({"streams": [entry | {"columns": {"n": kind}}]}))

    def load():
        run = shop.run()
        assert run.faults == []
        warehouse.load(run.messages)

    shop.rule, shop.load = rule, load
    return shop


def current(warehouse):
    """What raw says that the files have now."""
    return warehouse.query(
        "select n from (select *, row_number() over (partition by _sdc_source_file, _sdc_row_hash, _sdc_occurrence"
        " order by _sdc_load_id desc) as place from raw_shop.orders)"
        " where place = 1 and _sdc_operation <> 'withdraw' order by n"
    )


def test_a_file_corrected_after_a_replay_withdraws_the_replayed_row(warehouse, run_replay, shop_of_files):
    shop_of_files.rule("integer")
    shop_of_files.put("1.csv", "n\n1\n2.5\n3.5\n")
    shop_of_files.load()
    shop_of_files.rule("decimal")
    assert run_replay() == "shop-orders: 2 loaded, 0 known already, 0 still wait\n"
    assert current(warehouse) == [("1",), ("2.5",), ("3.5",)]
    shop_of_files.put("1.csv", "n\n1\n2\n3.5\n")
    shop_of_files.load()
    assert current(warehouse) == [("1",), ("2",), ("3.5",)]
    # A rule that is tightened again takes the replayed row back to quarantine.
    shop_of_files.rule("integer")
    shop_of_files.put("1.csv", "n\n1\n2\n3.5\n4\n")
    shop_of_files.load()
    assert current(warehouse) == [("1",), ("2",), ("4",)]
    waiting = "select payload from ops.quarantine where replayed_load_id is null"
    assert warehouse.query(waiting) == [('{"n":"3.5"}',)]
    warehouse.check_identities()


def test_a_record_whose_file_was_corrected_is_not_replayed(warehouse, run_replay, shop_of_files):
    shop_of_files.rule("integer")
    shop_of_files.put("1.csv", "n\n1\n2.5\n3.5\n")
    shop_of_files.load()
    # Corrected is the second record only; the third waits on.
    shop_of_files.put("1.csv", "n\n1\n2\n3.5\n")
    shop_of_files.load()
    shop_of_files.rule("decimal")
    assert run_replay() == "shop-orders: 1 loaded, 0 known already, 1 still wait\n"
    assert current(warehouse) == [("1",), ("2",), ("3.5",)]
    # The correction is taken back: the record is new, and passes now.
    shop_of_files.put("1.csv", "n\n1\n2.5\n3.5\n")
    shop_of_files.load()
    assert "0 loaded" in run_replay()
    assert current(warehouse) == [("1",), ("2.5",), ("3.5",)]
    warehouse.check_identities()
