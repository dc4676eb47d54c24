"""tap-postgres: whole tables and extracts by a replication key, from a real server into raw."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from tests.integration.conftest import ENGINES
from tests.integration.postgres_runs import Source, let_nan_pass


@pytest.fixture
def shop(postgres, warehouse) -> Source:
    return Source(postgres, warehouse)


def test_whole_table_arrives_with_its_types(shop):
    shop.database.execute(
        "create table orders (id bigint primary key, amount numeric(12,2), since timestamptz, note text, tags text[])",
        "insert into orders values (1, 12.50, '2026-01-02 03:04:05.6+02', '', '{a,NULL}'), (2, null, null, null, null)",
    )
    shop.run()
    assert shop.warehouse.query("select id, amount, since, note, tags from raw_shop.orders order by id") == [
        (1, Decimal("12.50"), dt.datetime(2026, 1, 2, 1, 4, 5, 600000, dt.UTC), "", '["a",null]'),
        (2, None, None, None, None),
    ]
    types = shop.warehouse.query("select data_type from duckdb_columns() where table_name = 'orders' limit 5")
    assert [row[0] for row in types] == ["BIGINT", "DECIMAL(12,2)", "TIMESTAMP WITH TIME ZONE", "VARCHAR", "VARCHAR"]


def test_second_extract_appends_only_what_changed(shop):
    shop.database.execute(
        "create table orders (id int primary key, status text)",
        "insert into orders select i, 'new' from generate_series(1, 5) as i",
    )
    shop.run()
    shop.database.execute(
        "update orders set status = 'paid' where id = 2",
        "delete from orders where id = 3",
        "insert into orders values (6, null)",
    )
    shop.run()
    assert shop.versions("orders", "id, status")[5:] == [
        (3, "new", "delete"),
        (2, "paid", "upsert"),
        (6, None, "upsert"),
    ]
    counts = "select rows_extracted, rows_loaded, rows_dropped from ops.loads order by load_id"
    assert shop.warehouse.query(counts) == [(5, 5, 0), (6, 3, 3)]


def test_unchanged_table_adds_nothing(shop):
    shop.database.execute("create table orders (id int primary key)", "insert into orders values (1)")
    shop.run()
    assert shop.run().of_type("BATCH") == []
    assert len(shop.manifest("orders")) == 1


def test_deleted_row_that_comes_back_is_a_new_version(shop):
    shop.database.execute("create table t (id int primary key, v int)", "insert into t values (1, 1), (2, 2), (3, 3)")
    shop.run()
    shop.database.execute("delete from t where id = 1")
    shop.run()
    shop.database.execute("insert into t values (1, 1)")
    shop.run()
    assert shop.current("t", "id, v") == [(1, 1), (2, 2), (3, 3)]
    assert len(shop.versions("t", "id")) == 5


def test_rows_without_key_count_by_content(shop):
    shop.database.execute("create table t (a int, b text)", "insert into t values (1, 'x'), (1, 'x'), (2, null)")
    shop.run()
    shop.database.execute(
        "insert into t values (2, null), (3, 'y'), (3, 'y')", "delete from t where a = 1 and ctid = '(0,1)'"
    )
    shop.run()
    assert shop.current("t", "a, b", key=None) == [(1, "x", 1), (2, None, 2), (3, "y", 2)]
    assert len(shop.versions("t", "a")) == 3 + 4


@pytest.mark.parametrize("key", ["primary key", ""])
def test_too_many_vanished_rows_fail_the_stream_until_the_user_says_so(shop, key):
    shop.database.execute(f"create table t (id int {key})", "insert into t select generate_series(1, 10)")
    shop.run()
    shop.database.execute("delete from t where id <= 6", "insert into t select generate_series(11, 20)")
    for _ in range(2):  # What the first run took would make the share smaller in the second.
        run = shop.try_run()
        assert "6 of 10 rows vanished, more than max_vanished_share 0.5" in run.faults[0]
        assert shop.versions("t", "id") == [(number, "upsert") for number in range(1, 11)]
    shop.run(max_vanished_share=1)
    assert [row[0] for row in shop.current("t", "id", "id" if key else None)] == list(range(7, 21))


def test_a_named_key_that_several_rows_have_is_refused(shop):
    shop.database.execute("create table t (code int, name text)", "insert into t values (1, 'a'), (2, 'b')")
    catalog = shop.catalog(**{"table-key-properties": ["code"]})
    shop.run(catalog)
    shop.database.execute("insert into t values (2, 'c')", "update t set name = 'd' where code = 1")
    (fault,) = shop.try_run(catalog).faults
    assert "2 rows have code 2, so that code is no key of it; correct table-key-properties" in fault
    assert shop.current("t", "code, name", "code") == [(1, "a"), (2, "b")]


def test_changed_row_without_key_has_its_new_content_last(shop):
    shop.database.execute(
        "create table t (id int, v text)", "insert into t select i, 'old' from generate_series(1, 100) as i"
    )
    shop.run()
    shop.database.execute("update t set v = 'new' where id <= 40")
    for batch_size_rows in (30, 10_000):  # Deletes and upserts of one change in one batch, or in several.
        shop.run(batch_size_rows=batch_size_rows)
        assert shop.current("t", "id, v") == shop.database.query("select id, v from t order by id")
        shop.database.execute("update t set v = 'newer' where id <= 40")
    shop.run()
    shop.database.execute("alter table t add primary key (id)")
    shop.run()
    assert shop.current("t", "id, v") == shop.database.query("select id, v from t order by id")


def test_interrupted_first_extract_goes_on(shop, monkeypatch):
    from ingestion.taps.postgres_reading import Snapshot

    shop.database.execute("create table t (id int primary key)", "insert into t select generate_series(1, 10)")
    read = Snapshot.read

    def breaking(self, queries):
        for rows in read(self, queries):
            yield rows.slice(0, 4)
            yield rows.slice(4, 2)
            raise OSError("the cable")

    monkeypatch.setattr(Snapshot, "read", breaking)
    run = shop.try_run(batch_size_rows=4)
    assert "the cable" in run.faults[0]
    assert [batch.origin["position"]["complete"] for batch in shop.manifest("t")] == [False]
    monkeypatch.undo()
    monkeypatch.setenv("WAREHOUSE_HOME", str(shop.warehouse.home))
    shop.run()
    assert [row[0] for row in shop.versions("t", "id")] == list(range(1, 11))
    assert shop.manifest("t")[-1].origin["position"] == {"method": "FULL_TABLE", "complete": True}


def test_batches_close_by_rows_and_follow_each_other(shop):
    shop.database.execute("create table t (id int primary key)", "insert into t select generate_series(1, 100)")
    shop.run()
    for turn in range(3):
        shop.database.execute(f"update t set id = id + 1000 where id = {turn + 1}")
        shop.run()
    manifest = shop.manifest("t")
    assert [batch.origin["follows"] for batch in manifest] == [None, *(batch.batch_id for batch in manifest[:-1])]


def test_lost_state_costs_nothing(shop):
    shop.database.execute("create table t (id int primary key)", "insert into t values (1)")
    shop.run()
    shop.state = {}
    run = shop.run()
    assert len(run.of_type("BATCH")) == 1
    assert shop.versions("t", "id") == [(1, "upsert")]
    assert run.states[-1]["bookmarks"]["shop-t"]["load_id"] == shop.manifest("t")[-1].load_id


def test_lost_lake_is_refused(shop):
    from ingestion.errors import UserError

    shop.database.execute("create table t (id int primary key)", "insert into t values (1)")
    shop.run()
    (shop.warehouse.home / "lake").rename(shop.warehouse.home / "elsewhere")
    assert "missing or older than the state" in shop.extract().faults[0]
    shop.state = {}
    run = shop.extract()
    with pytest.raises(UserError, match="was lost or replaced"):
        shop.warehouse.load_lines(run.lines)


def test_values_that_no_type_holds_are_quarantined_once(shop):
    shop.database.execute(
        "create table t (id int primary key, amount numeric(12,2), since timestamptz, day date)",
        "insert into t values (1, 'NaN', now(), null), (2, 1, 'infinity', null), (3, 1, null, '-infinity'),"
        " (4, 1, '294276-12-31 23:59:59+00', null), (5, 1, '0044-03-15 12:00 BC', '4713-01-01 BC')",
    )
    shop.run()
    assert shop.warehouse.query("select id from raw_shop.t") == [(5,)]
    reasons = "select column_name, reason from ops.quarantine order by payload"
    assert shop.warehouse.query(reasons) == [
        ("amount", "DECIMAL(12,2) cannot hold NaN"),
        ("since", "TIMESTAMP WITH TIME ZONE cannot hold infinity"),
        ("day", "DATE cannot hold -infinity"),
        ("since", "TIMESTAMP WITH TIME ZONE cannot hold this value"),
    ]
    payloads = "select payload from ops.quarantine where column_name = 'day'"
    assert shop.warehouse.query(payloads) == [('{"id": 3, "amount": 1.00, "since": null, "day": "-infinity"}',)]
    assert shop.run().of_type("BATCH") == []


def test_row_that_stops_fitting_did_not_vanish(shop):
    shop.database.execute(
        "create table t (id int primary key, a numeric(9,2))", "insert into t values (1, 1), (2, 2), (3, 3)"
    )
    shop.run()
    shop.database.execute("update t set a = 'NaN' where id = 1")
    shop.run()
    assert shop.current("t", "id, a") == [(1, Decimal("1.00")), (2, Decimal("2.00")), (3, Decimal("3.00"))]


# Changed tables


def test_new_column_and_dropped_column(shop):
    shop.database.execute("create table t (id int primary key, a text)", "insert into t values (1, 'x'), (2, 'y')")
    shop.run()
    shop.database.execute("alter table t add b int", "update t set b = 7 where id = 1", "alter table t drop a")
    shop.run()
    assert shop.versions("t", "id, a, b") == [
        (1, "x", None, "upsert"),
        (2, "y", None, "upsert"),
        (1, None, 7, "upsert"),
    ]


def test_wider_type_is_taken_up(shop):
    shop.database.execute(
        "create table t (id int primary key, a int, b numeric(6,2))", "insert into t values (1, 5, 1)"
    )
    shop.run()
    shop.database.execute(
        "alter table t alter a type bigint, alter b type numeric(10,4)", "insert into t values (2, 5000000000, 2.0001)"
    )
    shop.run()
    assert shop.current("t", "id, a, b") == [(1, 5, Decimal("1.0000")), (2, 5_000_000_000, Decimal("2.0001"))]
    assert len(shop.versions("t", "id")) == 2


def test_changed_type_keeps_the_old_one_and_quarantines_what_does_not_fit(shop):
    shop.database.execute("create table t (id int primary key, a int)", "insert into t values (1, 5), (2, 6)")
    shop.run()
    shop.database.execute(
        "alter table t alter a type text", "update t set a = 'six' where id = 2", "insert into t values (3, '7')"
    )
    shop.run()
    assert shop.current("t", "id, a") == [(1, 5), (2, 6), (3, 7)]
    quarantined = "select column_name, reason, payload from ops.quarantine"
    assert shop.warehouse.query(quarantined) == [("a", "INTEGER cannot hold this value", '{"id": 2, "a": "six"}')]


def test_changed_type_can_fail_the_stream(shop):
    shop.database.execute("create table t (id int primary key, a int)", "insert into t values (1, 5)")
    shop.run()
    shop.database.execute("alter table t alter a type text")
    assert "its type changed from INTEGER to VARCHAR" in shop.try_run(on_type_change="fail").faults[0]


@pytest.mark.parametrize(
    ("kind", "values"), [("int", "1"), ("boolean", "true"), ("timestamptz", "'2026-01-02 03:04:05.6+00'")]
)
def test_changed_type_can_become_text(shop, kind, values):
    shop.database.execute(
        f"create table t (id int primary key, c {kind})",
        f"insert into t select i, {values} from generate_series(1, 9) i",
    )
    shop.run()
    shop.database.execute("alter table t alter c type text using c::text")
    assert "set on_type_change to text" in shop.try_run(on_type_change="fail").faults[0]
    shop.run(on_type_change="text")  # Once: the type is taken up though there may be no row that is another one.
    shop.database.execute("insert into t values (10, 'zz')")
    shop.run()
    assert shop.current("t", "id, c") == shop.database.query("select id, c from t order by id")
    assert shop.warehouse.query("select count(*) from ops.quarantine") == [(0,)]
    batches = len(shop.manifest("t"))
    shop.run()
    assert len(shop.manifest("t")) == batches


def test_rows_quarantined_by_a_changed_type_come_as_text(shop):
    shop.database.execute("create table t (id int primary key, c int)", "insert into t values (1, 1), (2, 2)")
    shop.run()
    shop.database.execute("alter table t alter c type text", "update t set c = 'b' where id = 2")
    shop.run()
    assert shop.current("t", "id, c") == [(1, 1), (2, 2)]
    shop.run(on_type_change="text")
    assert shop.current("t", "id, c") == [(1, "1"), (2, "b")]


def test_stream_whose_type_change_is_refused_sends_nothing(shop):
    shop.database.execute("create table t (id int primary key, c int)", "insert into t values (1, 1)")
    shop.extract()  # The lake has a batch that no target loaded.
    shop.database.execute("alter table t alter c type text")
    run = shop.try_run(on_type_change="fail")
    assert "its type changed from INTEGER to VARCHAR" in run.faults[0]
    assert [run.of_type("SCHEMA"), run.of_type("BATCH")] == [[], []]


# By a replication key


def test_incremental_takes_what_is_new(shop):
    shop.database.execute(
        "create table t (id int primary key, v text, updated_at timestamptz)",
        "insert into t values (1, 'a', '2026-01-01'), (2, 'b', '2026-01-02'), (3, 'c', null)",
    )
    catalog = shop.catalog(replication_key="updated_at")
    shop.run(catalog)
    assert shop.state["bookmarks"]["shop-t"] | {"load_id": 0} == {
        "load_id": 0,
        "method": "INCREMENTAL",
        "replication_key": "updated_at",
        "replication_key_type": "timestamp with time zone",
        "replication_key_value": "2026-01-02 00:00:00+00",
        "complete": True,
    }
    shop.database.execute(
        "update t set v = 'hidden' where id = 1",  # Its time says that nothing changed.
        "update t set v = 'd', updated_at = '2026-01-03' where id = 2",
        "update t set v = 'e' where id = 3",
        "insert into t values (4, 'f', '2026-01-01 23:55')",  # Committed late: within the look-back.
    )
    shop.run(catalog)
    assert shop.current("t", "id, v") == [(1, "a"), (2, "d"), (3, "e"), (4, "f")]
    assert shop.run(catalog).of_type("BATCH") == []


def test_incremental_sees_a_value_that_comes_back(shop):
    shop.database.execute(
        "create table t (id int primary key, v text, seen bigint)", "insert into t values (1, 'a', 10), (2, 'z', 2000)"
    )
    catalog = shop.catalog(replication_key="seen")
    shop.run(catalog)
    for v in ("b", "a"):
        shop.database.execute(f"update t set v = '{v}' where id = 1", "update t set seen = seen + 1 where id = 2")
        shop.run(catalog, look_back_values=10_000)
    assert shop.current("t", "id, v") == [(1, "a"), (2, "z")]
    assert [row[0] for row in shop.versions("t", "v") if row[0] != "z"] == ["a", "b", "a"]


def test_bookmark_is_never_in_the_future(shop):
    shop.database.execute(
        "create table t (id int primary key, day date)", "insert into t values (1, '2999-01-01'), (2, '2020-01-01')"
    )
    catalog = shop.catalog(replication_key="day")
    shop.run(catalog)
    assert shop.state["bookmarks"]["shop-t"]["replication_key_value"] == str(dt.datetime.now(dt.UTC).date())
    shop.database.execute("insert into t values (3, current_date)")
    shop.run(catalog)
    assert len(shop.versions("t", "id")) == 3


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", ["A", "B", "a"]),
        ("numeric", ["9", "10", "11.5"]),
        ("numeric(9,2)", ["9", "10", "11.5"]),
        ("timestamp", ["2026-01-01", "2026-01-01 00:00:00.5", "2026-01-02"]),
        ("uuid", [f"00000000-0000-0000-0000-00000000000{n}" for n in "19a"]),
    ],
)
def test_any_type_with_an_order_is_a_replication_key(shop, kind, values):
    first, second, third = values
    shop.database.execute(
        f"create table t (id int primary key, rk {kind})",
        f"insert into t values (1, '{first}'), (2, '{second}')",
    )
    catalog = shop.catalog(replication_key="rk")
    shop.run(catalog)
    shop.database.execute(f"insert into t values (3, '{third}')")
    shop.run(catalog)
    assert shop.current("t", "id") == [(1,), (2,), (3,)]
    assert len(shop.versions("t", "id")) == 3


def test_incremental_reads_only_batches_that_can_hold_the_rows(shop, monkeypatch):
    from ingestion.taps import postgres_extracts

    looked_at = []
    compare = postgres_extracts.compare

    def noting(con, **arguments):
        looked_at.append(sum(len(held.files) for held in arguments["held"]))
        return compare(con, **arguments)

    shop.database.execute("create table t (id int primary key, n bigint)")
    catalog = shop.catalog(replication_key="n")
    monkeypatch.setattr(postgres_extracts, "compare", noting)
    for day in range(5):
        shop.database.execute(f"insert into t select i + {day * 100}, i + {day} * 100000 from generate_series(1, 10) i")
        shop.run(catalog)
    assert looked_at == [1, 1, 1, 1]


def test_a_replayed_row_does_not_come_after_a_newer_version(shop, run_replay):
    shop.database.execute(
        "create table things (id integer primary key, amount numeric(8, 2))",
        "insert into things values (1, 'NaN'), (2, 'NaN')",
    )
    shop.run()
    shop.database.execute("update things set amount = 7 where id = 1")
    shop.run()
    let_nan_pass(shop.warehouse, "things", "amount")
    assert "1 loaded, 1 known already, 0 still wait" in run_replay()
    newest = "select id, amount from raw_shop.things order by id, _sdc_load_id"
    assert shop.warehouse.query(newest) == [(1, "7.00"), (2, "NaN")]
    shop.warehouse.check_identities()


def test_a_replayed_row_comes_after_the_version_before_it(shop, run_replay):
    shop.database.execute(
        "create table things (id integer primary key, amount numeric(8, 2))", "insert into things values (1, 1)"
    )
    shop.run()
    shop.database.execute("update things set amount = 'NaN'")
    shop.run()
    let_nan_pass(shop.warehouse, "things", "amount")
    assert "1 loaded, 0 known already, 0 still wait" in run_replay()
    # Staging orders rows that have a hash, which are those of files, before all of a database.
    versions = "select amount from raw_shop.things order by _sdc_row_hash nulls last, _sdc_load_id, _sdc_sequence"
    assert shop.warehouse.query(versions) == [("1.00",), ("NaN",)]
    assert shop.warehouse.query("select count(_sdc_row_hash) from raw_shop.things") == [(0,)]


@pytest.mark.parametrize(
    ("order", "counts", "versions"),
    [
        (["amount", "price"], ["1 loaded, 0 known", "1 loaded, 0 known"], ["NaN", "1.25"]),
        (["price", "amount"], ["1 loaded, 0 known", "0 loaded, 1 known"], ["1.25"]),
    ],
    ids=["the_older_first", "the_newer_first"],
)
@ENGINES
def test_versions_that_are_replayed_one_by_one_stay_in_their_order(shop, run_replay, order, counts, versions):
    shop.database.execute(
        "create table things (id integer primary key, amount numeric(8, 2), price numeric(8, 2))",
        "insert into things values (1, 'NaN', 1)",
    )
    shop.run(filter_schemas=["public"])
    shop.database.execute("update things set amount = 1.25, price = 'NaN'")
    shop.run(filter_schemas=["public"])
    for column, count in zip(order, counts, strict=True):
        let_nan_pass(shop.warehouse, "things", column)
        assert count in run_replay()
    in_order = "select amount from raw_shop.things order by _sdc_load_id, _sdc_sequence"
    assert shop.warehouse.query(in_order) == [(version,) for version in versions]
    shop.warehouse.check_identities()


def test_a_replayed_version_counts_though_it_would_not_pass_again(shop, run_replay):
    shop.database.execute(
        "create table things (id integer primary key, amount numeric(8, 2), price numeric(8, 2))",
        "insert into things values (1, 'NaN', null)",
    )
    shop.run()
    shop.database.execute("update things set amount = 1.25, price = 'NaN'")
    shop.run()
    let_nan_pass(shop.warehouse, "things", "price")
    assert "1 loaded, 0 known already, 1 still wait" in run_replay()
    let_nan_pass(shop.warehouse, "things", "amount", ["string", "null"])
    assert "0 loaded, 1 known already, 0 still wait" in run_replay()
    assert shop.warehouse.query("select amount from raw_shop.things") == [("1.25",)]


def test_versions_that_are_replayed_in_parts_stay_in_their_order(shop, run_replay, monkeypatch):
    shop.database.execute(
        "create table things (id integer primary key, note text, amount numeric(8, 2))",
        "insert into things values (1, '', 'NaN')",
    )
    for version in range(3):
        shop.database.execute(f"update things set note = '{version}'")
        shop.run()
    let_nan_pass(shop.warehouse, "things", "amount")
    monkeypatch.setattr("ingestion.target.sql_engine._REPLAY_CHUNK", 1)
    assert "3 loaded, 0 known already, 0 still wait" in run_replay()
    in_order = "select note from raw_shop.things order by _sdc_load_id, _sdc_sequence"
    assert shop.warehouse.query(in_order) == [("0",), ("1",), ("2",)]


def test_a_type_that_does_not_widen_is_noticed_after_a_replay_too(shop, run_replay):
    shop.database.execute(
        "create table things (id integer primary key, seen timestamptz, amount numeric(8, 2))",
        "insert into things values (1, '2026-01-01Z', 'NaN'), (2, '2026-01-01Z', 1)",
    )
    shop.run()
    let_nan_pass(shop.warehouse, "things", "amount")
    run_replay()
    shop.database.execute("alter table things alter column seen type text using 'long ago'")
    shop.run(max_vanished_share=1)
    waiting = shop.warehouse.query("select count(*) from ops.quarantine where column_name = 'seen'")
    assert waiting == [(2,)]
