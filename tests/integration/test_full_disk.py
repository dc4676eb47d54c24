"""A disk that is full: one line that says so, nothing half there, and the next run goes on."""

from __future__ import annotations

import contextlib
import resource

import pytest

from ingestion.taps.postgres import TapPostgres
from tests.integration.log_based_runs import Follower
from tests.integration.tap_files_runs import Shop

ROOM = 40_000
"""Bytes that a file may have; DuckDB and Python ignore the signal, and get the error that a full disk gives."""


@contextlib.contextmanager
def little_room():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def leftovers(lake):
    return [path.name for path in lake.root.glob("raw/*/*/*") if path.name.startswith(".tmp-")]


def test_a_file_that_does_not_fit_waits_for_room(tmp_path):
    shop = Shop(tmp_path, keys=["id"])
    lines = "".join(f"{n},{n * 7919 % 100_003}-{n * 104_729 % 1_000_003}\n" for n in range(20_000))
    shop.put("big.csv", f"id,value\n{lines}")
    with little_room():
        run = shop.run()
    [fault] = run.faults
    assert "File too large" in fault and "run again" in fault and "\n" not in fault
    assert run.files == []
    assert leftovers(shop.lake) == []
    assert shop.run().faults == []
    assert len(shop.rows()) == 20_000
    shop.assert_counted()


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL", "LOG_BASED"])
def test_a_table_that_does_not_fit_waits_for_room(postgres, warehouse, method):
    postgres.execute(
        "create schema shop",
        "create table shop.rows (id int primary key, word text, changed_at timestamptz default now())",
        "insert into shop.rows select i, md5(i::text) || md5((i + 1)::text) from generate_series(1, 20000) i",
        "create publication warehouse for table shop.rows",
    )
    follower = Follower(postgres, warehouse, default_replication_method=method)
    catalog = TapPostgres(config=follower.config).catalog_dict
    for entry in catalog["streams"][0]["metadata"]:
        if not entry["breadcrumb"]:
            entry["metadata"] |= {"replication-method": method, "replication-key": "changed_at"}

    def tap():
        return TapPostgres(config=follower.config, catalog=catalog, state=follower.state)

    with little_room():
        sent = follower.send(tap())
    [fault] = sent.faults
    assert "File too large" in fault and "run again" in fault and "\n" not in fault
    assert sent.batches == []
    assert leftovers(warehouse.lake) == []
    follower.run(tap())
    assert warehouse.query("select count(*), count(distinct id), count(distinct word) from raw_shop.rows") == [
        (20_000, 20_000, 20_000)
    ]
    follower.run(tap())
    assert warehouse.query("select count(*) from raw_shop.rows") == [(20_000,)]
