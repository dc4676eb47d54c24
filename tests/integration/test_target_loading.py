"""What target-warehouse leaves in raw, the ledger and quarantine."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from decimal import Decimal

import duckdb
import pytest

from ingestion.errors import UserError
from ingestion.lake import Lake, Stream, connect
from tests.integration.conftest import ENGINES

pytestmark = ENGINES
ORDERS = Stream("shop", "orders")


def schema(properties=None, keys=("id",), stream="shop-orders", **more):
    properties = properties or {"id": {"type": "integer"}, "amount": {"type": ["number", "null"]}}
    return {
        "type": "SCHEMA",
        "stream": stream,
        "key_properties": list(keys),
        "schema": {"type": "object", "properties": properties, **more},
    }


def record(stream="shop-orders", **values):
    return {"type": "RECORD", "stream": stream, "record": values}


def state(value):
    return {"type": "STATE", "value": {"at": value}}


def batch(file, stream="shop-orders", file_format="parquet", compression=None):
    return {
        "type": "BATCH",
        "stream": stream,
        "encoding": {"format": file_format, "compression": compression},
        "manifest": [file.as_uri()],
    }


def write_batch(warehouse, rows, *, batch_id="one", bad=None, origin=None, sql_type="varchar"):
    """A closed batch of (id, status) rows, as tap-files writes it."""
    with connect(warehouse.home / "spill") as con:
        con.execute(f"create table rows (id {sql_type}, status varchar)")
        con.execute(
            "insert into rows select unnest($1), unnest($2)", [[row[0] for row in rows], [row[1] for row in rows]]
        )
        con.execute(
            "create table bad as select 'torn' as reason, null as column_name, 'x' as payload, 'f' as source_file,"
            f" i as line_number from range({bad or 0}) as t(i)"
        )
        return warehouse.lake.write(
            con, ORDERS, rows="rows", quarantine="bad", batch_id=batch_id, origin=origin or {},
            extracted_at=dt.datetime.now(dt.UTC),
        )  # fmt: skip


TEXT_SCHEMA = schema({"id": {"type": "string"}, "status": {"type": ["string", "null"]}})


def counts(warehouse, table="ops.loads"):
    return warehouse.query(
        f"select sum(rows_extracted), sum(rows_loaded), sum(rows_quarantined), sum(rows_dropped) from {table}"
    )[0]


# Records


def test_money_arrives_exactly(warehouse):
    text = ["0.1", "1.10", "12345678901234567890.1234567891", "-7", "1e-3"]
    lines = "".join(
        f'{{"type": "RECORD", "stream": "shop-orders", "record": {{"id": {n}, "amount": {value}}}}}\n'
        for n, value in enumerate(text)
    )
    warehouse.load_lines(json.dumps(schema()) + "\n" + lines)
    assert warehouse.query("select amount from raw_shop.orders order by id") == [(Decimal(value),) for value in text]
    warehouse.check_identities()


def test_a_number_that_no_decimal_holds_makes_its_column_text(warehouse):
    warehouse.load([schema(), record(id=1, amount=1.5)])
    lines = json.dumps(schema()) + '\n{"type":"RECORD","stream":"shop-orders","record":{"id":2,"amount":1e-30}}\n'
    warehouse.load_lines(lines)
    rows = warehouse.query("select id, cast(amount as double precision) from raw_shop.orders order by id")
    assert rows == [(1, 1.5), (2, 1e-30)]


def test_types_follow_the_schema(warehouse):
    properties = {
        "id": {"type": "integer"},
        "is_paid": {"type": ["boolean", "null"]},
        "seen_at": {"type": "string", "format": "date-time"},
        "day": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "either": {"type": ["string", "integer"]},
    }
    values = {"id": 2**40, "is_paid": True, "seen_at": "2026-01-01T02:00:00+02:00", "day": "2026-01-02", "tags": ["ä"]}
    warehouse.load([schema(properties), record(**values, either=7, undeclared={"a": 1})])
    assert warehouse.query("select id, is_paid, seen_at, day, tags, either, undeclared from raw_shop.orders") == [
        (2**40, True, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.date(2026, 1, 2), '["ä"]', "7", '{"a":1}')
    ]


def test_metadata_is_stamped(warehouse):
    message = record(id=1) | {"time_extracted": "2026-01-01T00:00:00Z", "version": 3}
    warehouse.load([schema(), message, record(id=2, _sdc_deleted_at="2026-02-01T00:00:00Z")])
    rows = warehouse.query(
        "select _sdc_extracted_at, _sdc_table_version, _sdc_operation, _sdc_deleted_at from raw_shop.orders order by id"
    )
    assert rows[0] == (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 3, "upsert", None)
    assert rows[1][2:] == ("delete", dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    assert warehouse.query(
        "select count(*) from raw_shop.orders where _sdc_received_at is null or _sdc_batched_at is null "
        "or _sdc_sequence is null or _sdc_sync_started_at is null or _sdc_row_hash is null"
    ) == [(0,)]


def test_a_keyed_row_equal_to_its_current_version_is_dropped(warehouse):
    first = [schema(), record(id=1, amount=1.5), record(id=1, amount=1.5), record(id=2, amount=2)]
    warehouse.load(first)
    assert counts(warehouse) == (3, 2, 0, 1)
    warehouse.load([schema(), record(id=2, amount=2.0), record(id=1, amount=9), record(id=1, amount=1.5)])
    assert warehouse.query("select id, amount from raw_shop.orders order by _sdc_sequence") == [
        (1, Decimal("1.5")), (2, 2), (1, 9), (1, Decimal("1.5")),
    ]  # fmt: skip
    assert counts(warehouse) == counts(warehouse, "ops.syncs") == (6, 4, 0, 2)
    warehouse.check_identities()


def test_keyless_rows_all_land(warehouse):
    warehouse.load([schema(keys=()), record(id=1), record(id=1)])
    warehouse.load([schema(keys=()), record(id=1)])
    assert warehouse.query("select count(*) from raw_shop.orders") == [(3,)]


def test_a_batch_closes_when_it_is_full(warehouse):
    warehouse.load([schema(), *(record(id=n) for n in range(25))], batch_size_rows=10)
    assert warehouse.query("select rows_loaded from ops.loads order by load_id") == [(10,), (10,), (5,)]
    warehouse.check_identities()


def test_a_field_that_the_schema_no_longer_names_keeps_its_type(warehouse):
    warehouse.load([schema(), record(id=1, amount=1)])
    warehouse.load([schema({"id": {"type": "integer"}}), record(id=2, amount=2.5)])
    assert warehouse.query("select id, amount from raw_shop.orders order by id") == [(1, 1), (2, Decimal("2.5"))]


# Quarantine


def bad_records(number):
    return [record(id=n, amount="many") for n in range(number)]


def test_bad_records_are_kept_aside_with_their_reason(warehouse):
    warehouse.load([schema(), record(id=1, amount=1), record(id=2, amount="a lot"), record(amount=3), record(id=None)])
    assert counts(warehouse) == counts(warehouse, "ops.syncs") == (4, 1, 3, 0)
    rows = warehouse.query("select column_name, payload, replayed_load_id from ops.quarantine order by quarantine_id")
    assert rows == [
        ("amount", '{"id":2,"amount":"a lot"}', None),
        ("id", '{"amount":3}', None),
        ("id", '{"id":null}', None),
    ]
    warehouse.check_identities()


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1e400", '"\\ud800"'])
def test_odd_values_never_stop_a_run(warehouse, amount):
    properties = {"id": {"type": "integer"}, "amount": {}}
    line = f'{{"type":"RECORD","stream":"shop-orders","record":{{"id":1,"amount":{amount}}}}}\n'
    warehouse.load_lines(json.dumps(schema(properties)) + "\n" + line)
    assert counts(warehouse) in {(1, 0, 1, 0), (1, 1, 0, 0)}
    assert (counts(warehouse)[1] == 1) == (amount == "1e400")


def test_a_large_share_of_bad_records_fails_the_run_after_loading_the_rest(warehouse):
    good = [record(id=n, amount=n) for n in range(100, 150)]
    with pytest.raises(UserError, match=r"shop-orders 11 of 61.*warehouse-replay"):
        warehouse.load([schema(), *good, *bad_records(11), state(1)])
    assert counts(warehouse) == (61, 50, 11, 0)
    assert warehouse.query("select status from ops.syncs") == [("failed",)]


def test_few_bad_records_do_not_fail_a_small_run(warehouse):
    warehouse.load([schema(), record(id=100), *bad_records(10)])
    assert warehouse.query("select status from ops.syncs") == [("ok",)]


# Batches of the lake


def test_a_batch_is_loaded_once(warehouse):
    closed = write_batch(warehouse, [("1", "new"), ("2", None)], bad=1)
    for _ in range(2):
        assert warehouse.load([TEXT_SCHEMA, batch(closed.file), state(1), batch(closed.file)]) == [{"at": 1}]
    assert warehouse.query("select id, status from raw_shop.orders order by id") == [("1", "new"), ("2", None)]
    assert warehouse.query("select batch_id, kind, rows_extracted from ops.loads") == [("one", "batch", 3)]
    assert warehouse.query("select rows_loaded, status from ops.syncs order by started_at") == [(2, "ok"), (0, "ok")]
    assert warehouse.query("select reason, source_file, line_number from ops.quarantine") == [("torn", "f", 0)]
    warehouse.check_identities()


def test_another_lakes_batch_is_refused(warehouse, tmp_path):
    closed = write_batch(warehouse, [("1", "new")])
    elsewhere = tmp_path / "elsewhere" / "raw" / "shop" / "orders" / closed.file.name
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(closed.file.read_bytes())
    with pytest.raises(UserError, match="another lake"):
        warehouse.load([TEXT_SCHEMA, batch(elsewhere)])
    assert warehouse.query("select count(*) from ops.loads") == [(0,)]


def test_a_missing_or_damaged_batch_file_is_one_line(warehouse):
    closed = write_batch(warehouse, [("1", "new")])
    closed.file.write_bytes(closed.file.read_bytes()[:-100])
    damaged = warehouse.run("".join(json.dumps(message) + "\n" for message in [TEXT_SCHEMA, batch(closed.file)]))
    closed.file.unlink()
    missing = warehouse.run("".join(json.dumps(message) + "\n" for message in [TEXT_SCHEMA, batch(closed.file)]))
    for done in (damaged, missing):
        assert done.returncode == 1
        assert "target-warehouse: stream shop-orders: batch file" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file_format", ["jsonl", "jsonl.gz", "parquet"])
def test_a_foreign_batch_file_goes_through_the_lake_once(warehouse, tmp_path, file_format):
    file = tmp_path / f"foreign.{file_format}"
    records = [{"id": n, "amount": 0.1, "seen_at": "2026-01-01T00:00:00+00:00"} for n in range(5)]
    lines = "".join(json.dumps(each) + "\n" for each in records).encode()
    if file_format == "parquet":
        query = (
            "select i as id, 0.1::double as amount, timestamptz '2026-01-01 00:00:00Z' as seen_at from range(5) t(i)"
        )
        duckdb.sql(query).write_parquet(str(file))
    else:
        file.write_bytes(gzip.compress(lines) if file_format.endswith("gz") else lines)
    properties = {
        "id": {"type": "integer"}, "amount": {"type": "number"}, "seen_at": {"type": "string", "format": "date-time"},
    }  # fmt: skip
    compression = "gzip" if file_format.endswith("gz") else None
    message = batch(file, file_format=file_format.removesuffix(".gz"), compression=compression)
    for _ in range(2):
        warehouse.load([schema(properties, keys=()), message, message, state(1)], batch_size_rows=2)
    assert warehouse.query("select count(*), sum(amount), count(distinct id), max(seen_at) from raw_shop.orders") == [
        (5, Decimal("0.5"), 5, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    ]
    assert warehouse.query("select distinct kind from ops.loads") == [("batch",)]
    assert len(warehouse.lake.manifest(ORDERS)) == 3
    warehouse.check_identities()


# Drift


def test_new_columns_are_added_and_vanished_ones_are_null(warehouse):
    warehouse.load([schema(), record(id=1, amount=1)])
    warehouse.load([schema({"id": {"type": "integer"}, "note": {"type": "string"}}), record(id=2, note="n")])
    assert warehouse.query("select id, amount, note from raw_shop.orders order by id") == [(1, 1, None), (2, None, "n")]
    assert json.loads(warehouse.query("select schema from ops.streams")[0][0])["properties"].keys() == {"id", "note"}


def test_a_wider_type_widens_the_column(warehouse):
    integer, number = ({"id": {"type": "integer"}, "n": {"type": kind}} for kind in ("integer", "number"))
    warehouse.load([schema(integer), record(id=1, n=1), record(id=2, n=2**70)])
    assert warehouse.columns(ORDERS)["n"] == "DECIMAL(38,0)"
    assert warehouse.query("select n from raw_shop.orders order by id") == [(1,), (2**70,)]
    warehouse.load([schema(integer, stream="shop-lines"), record("shop-lines", id=1, n=1)])
    warehouse.load([schema(number, stream="shop-lines"), record("shop-lines", id=2, n=1.5)])
    assert warehouse.query("select n from raw_shop.lines order by id") == [(1,), (Decimal("1.5"),)]


def test_a_type_that_does_not_widen_is_quarantined(warehouse):
    warehouse.load([schema(), record(id=1, amount=1)])
    changed = schema({"id": {"type": "integer"}, "amount": {"type": ["string", "null"]}})
    warehouse.load([changed, record(id=2, amount="2 EUR"), record(id=3, amount=None)])
    assert warehouse.query("select id from raw_shop.orders order by id") == [(1,), (3,)]
    ((reason, column),) = warehouse.query("select reason, column_name from ops.quarantine")
    assert (column, reason) == ("amount", "type changed: VARCHAR now, DECIMAL(38,10) in raw")
    with pytest.raises(UserError, match="column amount: type changed"):
        warehouse.load([changed, record(id=4, amount="4 EUR")], on_type_change="fail")


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_field_whose_name_no_column_can_have_is_quarantined(warehouse, name):
    warehouse.load([schema(), record(id=1), record(id=2, **{name: 1})])
    assert warehouse.query("select id from raw_shop.orders") == [(1,)]
    assert warehouse.query("select column_name, replayed_load_id from ops.quarantine") == [(None, None)]
    with pytest.raises(UserError, match="rename it with a stream map"):
        warehouse.load([schema({"id": {"type": "integer"}, name: {"type": "string"}})])


def test_a_closed_batch_of_another_type_changes_nothing(warehouse):
    first = write_batch(warehouse, [(1, "new")], sql_type="boolean")
    warehouse.load([TEXT_SCHEMA, batch(first.file)])
    second = write_batch(warehouse, [("2026-01-01", "new")], batch_id="two", bad=1, sql_type="date")
    with pytest.raises(UserError, match=r"column id is DATE in .* and BOOLEAN in raw"):
        warehouse.load([TEXT_SCHEMA, batch(second.file)])
    assert warehouse.query("select batch_id from ops.loads") == [("one",)]
    assert warehouse.query("select count(*) from ops.quarantine") == [(0,)]
    warehouse.check_identities()


def test_activate_version_deletes_nothing(warehouse):
    warehouse.load([schema(), record(id=1), {"type": "ACTIVATE_VERSION", "stream": "shop-orders", "version": 2}])
    assert warehouse.query("select _sdc_operation from raw_shop.orders") == [("upsert",)]


# A stream and its warehouse


def test_every_run_leaves_a_sync_also_with_nothing_new(warehouse):
    warehouse.load([schema()])
    warehouse.load([schema()])
    assert warehouse.query("select stream, rows_extracted, status from ops.syncs") == [("orders", 0, "ok")] * 2
    assert warehouse.query("select id, amount, _sdc_load_id from raw_shop.orders") == []


def test_another_shops_data_is_refused(warehouse):
    warehouse.load([schema(), record(id=1)])
    done = warehouse.run("", WAREHOUSE_SHOP="other")
    assert done.returncode == 1
    assert "holds the shop demo_shop, not other; set WAREHOUSE_SHOP" in done.stderr.splitlines()[-1]
    assert Lake(warehouse.home / "lake").manifest(ORDERS)
