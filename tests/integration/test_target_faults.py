"""target-warehouse when things go wrong: one clear line, nothing half loaded, and the next run goes on."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import duckdb
import pytest

from ingestion.errors import UserError
from ingestion.lake import Lake, Stream, connect
from ingestion.target.core import Loader
from ingestion.target.duckdb import DuckDBEngine
from ingestion.target.postgres import PostgresEngine
from ingestion.target.sql_engine import SqlEngine
from tests.integration.conftest import ENGINES, TARGET, text
from tests.integration.test_target_loading import TEXT_SCHEMA, batch, record, schema, state, write_batch

ORDERS = Stream("shop", "orders")


def last_line(done):
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


# State


@ENGINES
def test_state_comes_out_only_after_its_records_are_committed(warehouse, monkeypatch):
    seen = []
    load = SqlEngine.load
    monkeypatch.setattr(SqlEngine, "load", lambda self, *args: seen.append("commit") or load(self, *args))
    write = "ingestion.target.target.TargetWarehouse._write_state_message"
    monkeypatch.setattr(write, lambda self, value: seen.append(value["at"]))
    monkeypatch.setattr("ingestion.target.target.STATE_SECONDS", 0)
    warehouse.load([schema(), record(id=1), state(1), record(id=2), record(id=3), state(2), state(3), record(id=4)])
    assert [each for each in seen if each == "commit"] == ["commit"] * 3
    assert seen[:2] == ["commit", 1]
    assert seen.index(2) > 2 and seen[3] != 3
    assert seen.index(3) > seen.index(2)


def test_frequent_states_do_not_make_a_batch_each(warehouse):
    messages = [each for n in range(50) for each in (record(id=n), state(n))]
    assert warehouse.load([schema(), *messages]) == [{"at": 49}]
    assert warehouse.query("select count(*) from ops.loads") == [(1,)]


def test_no_state_for_what_was_not_committed(warehouse, monkeypatch):
    def refuse(*_):
        raise duckdb.IOException("IO Error: No space left on device")

    monkeypatch.setattr(DuckDBEngine, "load", refuse)
    emitted = []
    monkeypatch.setattr("ingestion.target.target.TargetWarehouse._write_state_message", lambda *_: emitted.append(1))
    with pytest.raises(duckdb.IOException):
        warehouse.load([schema(), record(id=1), state(1)])
    assert emitted == []


def test_a_batch_before_its_schema_is_one_line(warehouse):
    file = write_batch(warehouse, [("a", "x")]).file
    run = warehouse.run(text([batch(file)]))
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("target-warehouse: stream shop-orders: a BATCH message before")
    assert "Traceback" not in run.stderr


# Crashes


@ENGINES
def test_a_crash_between_lake_and_commit_loses_and_doubles_nothing(warehouse, monkeypatch):
    keyed = [schema(), record(id=1), record(id=2), state(1)]
    with monkeypatch.context() as patch:
        patch.setattr(Loader, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            warehouse.load(keyed)
    assert len(warehouse.lake.manifest(ORDERS)) == 1
    assert warehouse.query("select count(*) from ops.loads") == [(0,)]
    assert warehouse.load(keyed) == [{"at": 1}]
    assert warehouse.query("select id from raw_shop.orders order by id") == [(1,), (2,)]
    assert warehouse.query("select rows_loaded, rows_dropped from ops.loads order by load_id") == [(2, 0), (0, 2)]
    warehouse.check_identities()


@ENGINES
@pytest.mark.parametrize("step", ["quarantine", "ledger"])
def test_a_failure_inside_the_transaction_leaves_nothing(warehouse, monkeypatch, step):
    warehouse.load([schema(), record(id=1)])
    rows = {each: each._rows for each in (DuckDBEngine, PostgresEngine)}

    def refuse(*_):
        raise duckdb.IOException("IO Error: No space left on device")

    def no_ledger(self, sql, *values):
        return refuse() if sql.startswith("insert into ops.loads") else rows[type(self)](self, sql, *values)

    wider = schema({"id": {"type": "integer"}, "note": {"type": "string"}})
    with monkeypatch.context() as patch, pytest.raises(duckdb.IOException):
        for each in rows:
            patch.setattr(each, *(("_append_quarantine", refuse) if step == "quarantine" else ("_rows", no_ledger)))
        warehouse.load([wider, record(id=2, note="n"), record(id=3, note=3)])
    assert "note" not in warehouse.columns(ORDERS)
    assert warehouse.query("select id from raw_shop.orders") == [(1,)]
    assert warehouse.query("select count(*) from ops.quarantine") == [(0,)]
    assert warehouse.query("select status from ops.syncs order by started_at") == [("ok",), ("failed",)]
    warehouse.load([wider])
    assert warehouse.query("select id, note from raw_shop.orders order by id") == [(1, None), (2, "n")]
    warehouse.check_identities()


@ENGINES
def test_kill_9_at_any_moment_then_a_rerun_is_exactly_once(warehouse):
    """Batches of the lake and keyed records, killed at seeded moments until a run gets through."""
    seeded = random.Random(20261121)
    files = [write_batch(warehouse, [(f"{n}-{i}", "x") for i in range(3000)], batch_id=f"b{n}").file for n in range(8)]
    messages = [TEXT_SCHEMA, schema(stream="shop-lines")]
    for n, file in enumerate(files):
        messages += [batch(file), *(record("shop-lines", id=40 * n + i, amount=i) for i in range(40)), state(n)]
    lines = text(messages)
    started = time.monotonic()
    assert warehouse.run(text([schema(stream="shop-warmup")])).returncode == 0
    lead = time.monotonic() - started
    killed = 0
    for _ in range(5):
        command = [TARGET, "--config", _config(warehouse, batch_size_rows=40)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # From the start of the first load to well after it; the pipe stays open, so the run cannot end by itself.
        process.stdin.write(lines.encode())
        process.stdin.flush()
        time.sleep(lead * seeded.uniform(0.5, 1.4))
        process.kill()
        process.wait()
        process.stdin.close()
        killed += process.returncode == -signal.SIGKILL
    assert killed == 5
    assert warehouse.load([TEXT_SCHEMA, *messages[1:]], batch_size_rows=40)[-1] == {"at": 7}
    assert warehouse.query("select count(*), count(distinct id) from raw_shop.orders") == [(24_000, 24_000)]
    assert warehouse.query("select count(*), count(distinct id) from raw_shop.lines") == [(320, 320)]
    assert warehouse.query("select count(*) from ops.loads where kind = 'batch'") == [(8,)]
    warehouse.check_identities()


def _config(warehouse, **config):
    path = warehouse.home / "config.json"
    path.write_text(json.dumps(config))
    return path


def test_sigterm_stops_with_one_line_and_gives_open_batches_up(warehouse):
    process = subprocess.Popen(
        [TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdin.write(text([schema(), record(id=1)]))
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not (warehouse.home / "warehouse.duckdb").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)  # The record is read, and waits for its batch to fill.
    process.terminate()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert "stopped by signal 15; nothing is half loaded" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert warehouse.query("select count(*) from ops.loads") == [(0,)]


# Input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{garbage", "input line 4 is not JSON"),
        ('{"type": "RECORD", "stream": "shop-orders", "reco', "input line 4 is not JSON"),
        ("5", "input line 4 is not a Singer message"),
        ('{"type": "SURPRISE"}', "unknown type 'SURPRISE'"),
        ('{"type": "RECORD", "stream": "shop-orders"}', "missing required record"),
        ('{"type": "RECORD", "stream": "shop-unknown", "record": {}}', "before a corresponding schema"),
        ('{"type": "SCHEMA", "stream": "shop-x", "schema": {"properties": {"a": {"type": 7}}}}', "no JSON schema"),
        ('{"type": "SCHEMA", "stream": "shop-x", "schema": {"properties": {"a": {}, "A": {}}}}', "only by case"),
        (
            '{"type": "SCHEMA", "stream": "shop-x", "key_properties": ["k"], "schema": {"properties": {"a": {}}}}',
            "key k is not in its schema",
        ),
        ('{"type": "SCHEMA", "stream": "shop-a/../b", "schema": {"properties": {"a": {}}}}', "not a usable name"),
    ],
)
def test_broken_input_is_one_line_and_loads_nothing(warehouse, capfd, line, message):
    from click.testing import CliRunner

    from ingestion.target.target import TargetWarehouse

    lines = text([schema(), record(id=1), state(1)]) + line + "\n"
    result = CliRunner().invoke(TargetWarehouse.get_singer_command(), ["--input", "-"], input=lines)
    assert result.exit_code == 1, result.output
    (complaint,) = [each for each in result.stderr.splitlines() if each.startswith("target-warehouse: ")]
    assert message in complaint
    assert "Traceback" not in result.stderr
    assert warehouse.query("select count(*) from ops.loads") == [(0,)]
    assert warehouse.query("select distinct status from ops.syncs") == [("failed",)]


# The warehouse and its disk


def test_a_second_run_at_once_is_refused(warehouse):
    warehouse.load([schema()])
    holder = duckdb.connect(str(warehouse.home / "warehouse.duckdb"))
    try:
        done = warehouse.run(text([schema(), record(id=1)]))
    finally:
        holder.close()
    assert done.returncode == 1
    assert "is in use by another process" in last_line(done)


def test_a_wrong_path_is_one_line(warehouse, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot open the warehouse" in last_line(warehouse.run("", WAREHOUSE_HOME=str(tmp_path / "file" / "home")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "warehouse.duckdb").write_text("not a database")
    assert "not a valid DuckDB" in last_line(warehouse.run("", WAREHOUSE_HOME=str(tmp_path / "other")))


def test_a_full_disk_is_one_line_and_no_half_loaded_data(warehouse):
    """A limit on the size of files stands in for the full disk: the same calls fail at the same places."""
    warehouse.load([schema(), record(id=0)])
    messages = [schema(), *(record(id=n, amount=n, note=f"{random.random()}" * 10) for n in range(1, 12_000))]
    limit = 500_000
    done = subprocess.run(
        [TARGET], input=text(messages), capture_output=True, text=True,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        ),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "File too large" in last_line(done)
    assert warehouse.query("select count(*) from raw_shop.orders") == [(1,)]
    assert [path.name for path in (warehouse.home / "lake/raw/shop/orders").iterdir() if "tmp" in path.name] == []
    warehouse.load(messages)
    assert warehouse.query("select count(*) from raw_shop.orders") == [(12_000,)]
    warehouse.check_identities()


def test_a_damaged_manifest_is_one_line(warehouse):
    write_batch(warehouse, [("1", "x")])
    manifest = warehouse.home / "lake/raw/shop/orders/_manifest.jsonl"
    manifest.write_text("not json\n" + manifest.read_text())
    with pytest.raises(UserError, match="line 1 is not a batch"):
        warehouse.load([TEXT_SCHEMA])


def test_two_writers_of_one_stream_at_once_are_refused(warehouse):
    hold = (
        "import sys; from pathlib import Path; from ingestion.lake import Lake, Stream\n"
        "with Lake(Path(sys.argv[1])).lock(Stream('shop', 'orders')): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(warehouse.home / "lake")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process is writing"):
            warehouse.load([schema(), record(id=1)])
    finally:
        process.communicate()
    assert Lake(warehouse.home / "lake").manifest(ORDERS) == []


# A lost lake


def file_batch(warehouse, batch_id, replaces, name="a.csv"):
    """A BATCH message for a file's version; returns it with the file."""
    with connect(warehouse.home / "spill") as con:
        con.execute("create or replace table rows as select '1' as id")
        closed = warehouse.lake.write(
            con, ORDERS, rows="rows", batch_id=batch_id, origin={"source_file": name, "replaces": replaces},
            extracted_at=datetime.now(UTC),
        )  # fmt: skip
    encoding = {"format": "parquet", "compression": "zstd"}
    uri = closed.file.as_uri()
    return {"type": "BATCH", "stream": "shop-orders", "encoding": encoding, "manifest": [uri]}, closed.file


def test_a_file_that_comes_as_new_though_raw_has_it_is_refused(warehouse):
    warehouse.load([TEXT_SCHEMA, file_batch(warehouse, "one", None)[0]])
    warehouse.load([TEXT_SCHEMA, file_batch(warehouse, "two", "one")[0]])
    warehouse.load([TEXT_SCHEMA, file_batch(warehouse, "other", None, "b.csv")[0]])
    with pytest.raises(
        UserError, match=r"a\.csv comes as new, but raw has an earlier version of it: the lake at .* lost"
    ):
        warehouse.load([TEXT_SCHEMA, file_batch(warehouse, "three", None)[0]])
    assert warehouse.query("select batch_id from ops.loads order by load_id") == [("one",), ("two",), ("other",)]


def test_a_batch_that_raw_has_needs_no_lake_file(warehouse):
    message, file = file_batch(warehouse, "one", None)
    warehouse.load([TEXT_SCHEMA, message])
    file.unlink()
    warehouse.load([TEXT_SCHEMA, message])
    assert warehouse.query("select count(*) from raw_shop.orders") == [(1,)]
    message, file = file_batch(warehouse, "two", "one")
    file.unlink()
    with pytest.raises(UserError, match="run the tap again"):
        warehouse.load([TEXT_SCHEMA, message])
