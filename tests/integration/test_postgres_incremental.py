"""INCREMENTAL extracts: replication keys that change, values without order, and what rows are compared with."""

from __future__ import annotations

import contextlib

import pytest

from tests.integration.postgres_runs import Source


@pytest.fixture
def shop(postgres, warehouse) -> Source:
    return Source(postgres, warehouse)


# Another replication key

_CREATED_UPDATED = (
    "create table t (id int {key}, created timestamptz, updated timestamptz)",
    "insert into t select i, '2020-01-01', now() - interval '1 minute' from generate_series(1, 5) as i",
)


@pytest.mark.parametrize("key", ["primary key", ""])
def test_another_replication_key_does_not_double_rows(shop, key):
    shop.database.execute(*(statement.format(key=key) for statement in _CREATED_UPDATED))
    shop.run(shop.catalog(replication_key="created"))
    for _ in range(2):
        shop.run(shop.catalog(replication_key="updated"))
        shop.database.execute("insert into t select max(id) + 1, now(), now() from t")
    shop.run(shop.catalog(replication_key="updated"))
    assert shop.versions("t", "id") == [(i, "upsert") for i in range(1, 8)]


def test_another_replication_key_reads_the_whole_table_once(shop):
    shop.database.execute(
        "create table t (id int primary key, updated timestamptz, v text)",
        "insert into t select i, '2024-01-01'::timestamptz + i * interval '1 day', 'a' from generate_series(1, 5) as i",
    )
    shop.run(shop.catalog(replication_key="id"))
    shop.database.execute("update t set v = 'b' where id = 1")
    shop.run(shop.catalog(replication_key="updated"), look_back_values=1)
    assert shop.current("t", "id, v")[0] == (1, "b")
    shop.database.execute("update t set v = 'c' where id = 5")
    shop.run(shop.catalog(replication_key="updated"))
    assert [(batch.rows_extracted, batch.rows_loaded) for batch in shop.manifest("t")] == [(5, 5), (5, 1), (1, 1)]


@pytest.mark.parametrize(
    ("old", "new", "values"),
    [
        ("date", "timestamp", ["2024-01-01", "2024-02-01", "2024-02-01 10:00"]),
        ("timestamptz", "date", ["2024-01-01", "2024-02-01", "2024-03-01"]),
        ("int", "bigint", ["1", "2", "3"]),
        # Raw stays INTEGER; as text 9 is beyond 10.
        ("int", "text", ["1", "9", "10"]),
    ],
)
def test_replication_key_of_another_type_goes_on(shop, old, new, values):
    shop.database.execute(
        f"create table t (id int primary key, u {old}, v int)",
        f"insert into t values (1, '{values[0]}', 0), (2, '{values[1]}', 0)",
    )
    catalog = shop.catalog(replication_key="u")
    shop.run(catalog)
    shop.database.execute(f"alter table t alter u type {new}", f"insert into t values (3, '{values[2]}', 0)")
    read = []
    for _ in range(2):
        shop.run(catalog, look_back_values=0)
        read.append(
            {
                row
                for (row,) in shop.warehouse.query(
                    "select id from raw_shop.t union select (payload->>'$.id')::int from ops.quarantine"
                )
            }
        )
        shop.database.execute("update t set v = 1 where id = 3")
    assert read == [{1, 2, 3}] * 2
    bookmark = shop.state["bookmarks"]["shop-t"]["replication_key_value"]
    assert shop.database.query(f"select max(u) = '{bookmark}'::{new} from t") == [(True,)]


# What rows are compared with


def test_row_of_the_first_extract_that_comes_back_is_a_new_version(shop):
    shop.database.execute(
        "create table t (id int primary key, seen bigint, v text)", "insert into t values (1, 2000, 'a'), (2, 10, 'z')"
    )
    catalog = shop.catalog(replication_key="seen")
    shop.run(catalog)
    for change in (
        "update t set seen = 1500, v = 'b' where id = 1",
        "insert into t values (3, 2600, 'n')",
        "update t set seen = 2000, v = 'a' where id = 1",
    ):
        shop.database.execute(change)
        shop.run(catalog)
    assert shop.current("t", "id, seen, v") == shop.database.query("select id, seen, v from t order by id")


def test_bookmark_outlives_a_replay(shop, run_replay):
    shop.database.execute(
        "create table t (id int primary key, c numeric(5,2), seen int)",
        "insert into t select i, 1, i from generate_series(1, 20) as i",
        "insert into t values (0, 'NaN', 5)",
    )
    catalog = shop.catalog(replication_key="seen")
    shop.run(catalog)
    shop.database.execute("alter table t alter c type numeric", "insert into t values (21, 1, 21)")
    shop.run(catalog, look_back_values=1)
    run_replay()
    assert "position" not in shop.manifest("t")[-1].origin
    shop.database.execute("insert into t values (22, 1, 22)")
    shop.run(catalog, look_back_values=1)
    assert shop.manifest("t")[-1].rows_extracted == 3


# Values


@pytest.mark.parametrize("kind", ["numeric", "float8", "real"])
def test_values_that_are_not_finite_do_not_move_the_bookmark(shop, kind):
    shop.database.execute(
        f"create table t (id int primary key, seen {kind}, v text)",
        "insert into t values (1, 1, 'a'), (2, 'NaN', 'a'), (3, 'Infinity', 'a'), (4, '-Infinity', 'a')",
    )
    catalog = shop.catalog(replication_key="seen")
    shop.run(catalog)
    shop.database.execute("insert into t values (5, 5, 'a')")
    shop.run(catalog)
    assert shop.state["bookmarks"]["shop-t"]["replication_key_value"] == "5"
    shop.database.execute("update t set v = 'b' where id in (2, 3, 4)")
    shop.run(catalog, look_back_values=1)
    changed = [(row, "b", "upsert") for row in (2, 3, 4)]
    assert sorted(shop.versions("t", "id, v")) == sorted([(row, "a", "upsert") for row in range(1, 6)] + changed)
    assert shop.run(catalog, look_back_values=1).of_type("BATCH") == []


def test_look_back_finds_a_late_commit_by_a_float(shop):
    shop.database.execute("create table t (id int primary key, seen float8)", "insert into t values (1, 1.5)")
    catalog = shop.catalog(replication_key="seen")
    shop.run(catalog)
    with contextlib.closing(shop.database.connect()) as late, late.cursor() as cursor:
        cursor.execute("insert into t values (2, 2.5)")
        shop.database.execute("insert into t values (3, 3.5)")
        shop.run(catalog)
        late.commit()
    shop.run(catalog)
    assert shop.current("t", "id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [("numeric(4,2)", "5.25", "5.5"), ("smallint", "-32000", "-31999"), ("numeric(3,5)", "0.005", "0.00501")],
)
def test_look_back_beyond_what_the_type_can_hold(shop, kind, first, second):
    if shop.database.server.version < 15:
        kind = kind.replace("(3,5)", "(5,5)")  # No type of before has more digits behind the point than digits.
    shop.database.execute(f"create table t (id int primary key, seen {kind})", f"insert into t values (1, {first})")
    catalog = shop.catalog(replication_key="seen")
    shop.run(catalog)
    shop.database.execute(f"insert into t values (2, {second})")
    shop.run(catalog)
    assert shop.current("t", "id") == [(1,), (2,)]
