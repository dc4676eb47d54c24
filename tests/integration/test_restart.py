"""After a kill: what is left of a run ends by itself, the next one does not wait, and the ledger says what failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingestion import lifeline
from ingestion.errors import UserError
from ingestion.lake import Stream
from ingestion.taps.files import FileStream, TapFiles
from ingestion.target.duckdb import DuckDBEngine
from tests.integration.conftest import TARGET
from tests.integration.tap_files_runs import Shop
from tests.integration.test_target_loading import record, schema, state

TIE = "import sys, time; from ingestion import lifeline; lifeline.tie('x'); print('up', flush=True); time.sleep(60)"


def ends_within(process, seconds=5.0):
    """The exit code of a process that ends in time; None for one that had to be killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


# What a killed run leaves


def test_a_process_ends_when_nobody_reads_its_output():
    process = subprocess.Popen([sys.executable, "-c", TIE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert ends_within(process) == 1
    assert process.stderr.read() == b"x: ended, because the process that reads its output did\n"


@pytest.mark.parametrize("output", ["> /dev/null", "> file", ">&-", "| cat"])
def test_an_output_that_is_read_or_is_no_pipe_ends_nothing(tmp_path, output):
    program = "import time; from ingestion import lifeline; lifeline.tie('x'); lifeline.tie('x'); time.sleep(0.3)"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {output}', sys.executable, program], cwd=tmp_path
    )
    assert done.returncode == 0


def test_the_target_ends_with_its_killed_parent(warehouse):
    # The target's input stays open: the test holds it.
    start = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.argv[1]], stdout=subprocess.PIPE); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", start, str(TARGET)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    target = int(parent.stdout.readline())
    while not (warehouse.home / "warehouse.duckdb").exists():
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and Path(f"/proc/{target}").exists():
        time.sleep(0.02)
    alive = Path(f"/proc/{target}").exists()
    if alive:
        os.kill(target, signal.SIGKILL)
    assert not alive


# Locks

HOLD_WAREHOUSE = (
    "import duckdb, sys, time\n"
    "con = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(float(sys.argv[2]))"
)
HOLD_STREAM = (
    "import sys, time; from pathlib import Path; from ingestion.lake import Lake, Stream\n"
    "with Lake(Path(sys.argv[1])).lock(Stream('shop', 'orders')):\n"
    "    print('held', flush=True); time.sleep(float(sys.argv[2]))"
)


def holder(program, path, seconds):
    """A process that holds a lock for so long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", program, str(path), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_warehouse_whose_holder_is_about_to_end_is_waited_for(warehouse):
    process = holder(HOLD_WAREHOUSE, warehouse.home / "warehouse.duckdb", 0.7)
    assert warehouse.load([schema(), record(id=1), state(1)]) == [{"at": 1}]
    assert process.wait() == 0


def test_a_warehouse_that_is_at_work_is_refused_soon(warehouse, monkeypatch):
    monkeypatch.setattr(lifeline, "LEAVING_SECONDS", 0.3)
    process = holder(HOLD_WAREHOUSE, warehouse.home / "warehouse.duckdb", 60)
    try:
        with pytest.raises(
            UserError, match=r"is in use by another process .*; wait until it has ended, then run again"
        ):
            DuckDBEngine(warehouse.home / "warehouse.duckdb", "demo_shop", memory_limit="1GB", threads=1)
    finally:
        process.kill()
        process.wait()


def test_a_stream_whose_writer_is_about_to_end_is_waited_for(warehouse):
    process = holder(HOLD_STREAM, warehouse.home / "lake", 0.7)
    assert warehouse.load([schema(), record(id=1), state(1)]) == [{"at": 1}]
    assert process.wait() == 0


def test_what_is_no_lock_is_not_tried_again():
    tries = []

    def fail():
        tries.append(1)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        lifeline.once_free(fail, lambda error: isinstance(error, BlockingIOError))
    assert tries == [1]


# What the ledger says of a tap that died

TWO = [
    {"name": "shop-orders", "path": "orders/*", "format": "csv", "keys": ["id"]},
    {"name": "shop-lines", "path": "lines/*", "format": "csv", "keys": ["id"]},
]


def test_only_a_stream_that_was_sent_in_full_is_ok(warehouse, tmp_path):
    """The tap's output is cut after every message, as a kill cuts it."""
    shop = Shop(tmp_path, TWO)
    shop.lake = warehouse.lake
    for name in ("orders/1.csv", "orders/2.csv", "lines/1.csv", "lines/2.csv"):
        shop.put(name, f"id\n{name}\n")
    messages = shop.run().messages
    batches: dict[str, list[int]] = {"shop-orders": [], "shop-lines": []}
    for number, message in enumerate(messages, start=1):
        if message["type"] == "BATCH":
            batches[message["stream"]].append(number)
    assert [len(each) for each in batches.values()] == [2, 2]
    failed = 0
    for end in range(1, len(messages) + 1):
        warehouse.load(messages[:end])
        statuses = dict(warehouse.query("delete from ops.syncs returning stream, status"))
        assert {
            stream for stream, status in statuses.items() if status == "ok" and batches[f"shop-{stream}"][-1] > end
        } == set()
        failed += "failed" in statuses.values()
    assert failed >= 6
    assert statuses == {"orders": "ok", "lines": "ok"}


def test_the_mark_of_unfinished_streams_stays_out_of_the_state(warehouse):
    last = {"type": "STATE", "value": {"bookmarks": {}, "unfinished": ["shop-orders"]}}
    assert warehouse.load([schema(), record(id=1), last]) == [{"bookmarks": {}}]
    assert warehouse.query("select stream, status from ops.syncs") == [("orders", "failed")]


def test_a_stream_with_a_file_that_could_not_be_taken_up_is_a_failed_sync(warehouse, tmp_path):
    shop = Shop(tmp_path, TWO)
    shop.lake = warehouse.lake
    shop.put("orders/1.csv", "id\n1\n")
    shop.put("lines/1.csv", "id\n1\n")
    shop.put("lines/2.csv", "no_id\n1\n")
    run = shop.run()
    assert len(run.faults) == 1
    warehouse.load(run.messages)
    assert warehouse.query("select stream, status from ops.syncs order by stream") == [
        ("lines", "failed"),
        ("orders", "ok"),
    ]


def test_a_foreign_taps_sync_is_ok_when_its_input_ends_well(warehouse):
    warehouse.load([schema(), record(id=1)])
    assert warehouse.query("select status from ops.syncs") == [("ok",)]


def test_a_tap_that_a_signal_stops_fails_and_says_no_more(tmp_path, monkeypatch, capsys):
    """The state at hand is already that after the batch, whose message was not written."""
    shop = Shop(tmp_path, TWO)
    shop.put("orders/1.csv", "id\n1\n")
    monkeypatch.setattr(FileStream, "_write_batch_message", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as end:
            TapFiles(config=shop.config).sync_all()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert end.value.code == 1
    assert shop.lake.manifest(Stream("shop", "orders"))
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    states = [message["value"] for message in messages if message["type"] == "STATE"]
    assert states[-1]["unfinished"] == ["shop-orders"]
    assert "load_id" not in json.dumps(states)
