"""`warehouse-lake`: the lake is checked, raw comes back from it alone, and it is kept small without losing a row."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest
import yaml

from ingestion.lake import Lake, Stream, commands, connect
from ingestion.lake.checking import orphans
from ingestion.lake.compaction import compact
from ingestion.lake.definition import write_definition
from ingestion.lake.retention import retain
from ingestion.target.duckdb import DuckDBEngine
from ingestion.target.target import TargetWarehouse
from tests.integration.conftest import text
from tests.integration.tap_files_runs import Shop
from tests.integration.test_target_loading import record, schema
from tests.pipeline import BIN, ROOT

LINES = Stream("files", "lines")
ORDERS = Stream("shop", "orders")
NEVER = 2**62
LAKE_COMMAND = Path(sys.executable).with_name("warehouse-lake")


class Warehouse:
    """One warehouse with a stream of files, filled by tap and target."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, **stream) -> None:
        self.home = home
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("WAREHOUSE_HOME", str(home))
        monkeypatch.setenv("WAREHOUSE_SHOP", "demo_shop")
        options = {"keys": ["id"], "columns": {"price": "decimal"}} | stream
        self.shop = Shop(home, path="**/*.csv", **options)
        self.state = None

    @property
    def lake(self) -> Lake:
        return Lake(self.home / "lake")

    def copy(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
        """The same in another place, which is now WAREHOUSE_HOME."""
        shutil.copytree(self.home, home)
        monkeypatch.setenv("WAREHOUSE_HOME", str(home))
        monkeypatch.setenv("WAREHOUSE_SHOP", "demo_shop")
        other = copy.copy(self)
        other.shop = copy.copy(self.shop)
        other.home, other.monkeypatch = home, monkeypatch
        other.shop.data, other.shop.lake, other.shop.streams_file = home / "data", other.lake, home / "streams.yml"
        return other

    def ingest(self, **files: str) -> None:
        """Write files, then run tap and target."""
        for name, content in files.items():
            self.shop.put(f"{name}.csv", content)
        run = self.shop.run(self.state)
        assert run.faults == []
        states = self.load(text(run.messages))
        self.state = states[-1] if states else self.state

    def send(self, properties: dict, *records: dict, keys: Sequence[str] = ()) -> None:
        """Load a stream of RECORD messages, as other taps send it."""
        messages = [schema(properties, keys=list(keys)), *(record(**each) for each in records)]
        self.load(text(messages))

    def load(self, lines: str) -> list[dict]:
        target, output = TargetWarehouse(config={}), io.StringIO()
        with contextlib.redirect_stdout(output):
            target.listen(io.StringIO(lines))
        return [json.loads(line) for line in output.getvalue().splitlines()]

    def command(self, *arguments: str) -> int:
        """Run `warehouse-lake`; returns its exit status."""
        self.monkeypatch.setattr(sys, "argv", ["warehouse-lake", *arguments])
        with pytest.raises(SystemExit) as end:
            commands.main()
        return end.value.code

    def tables(self) -> dict[str, Counter]:
        """Every row of raw and of those tables of ops that a rebuild makes anew, but for the times of the loads."""
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as con:
            con.execute("set TimeZone = 'UTC'")
            names = con.execute(
                "select schema_name, table_name from duckdb_tables() where schema_name like 'raw_%'"
                " or (schema_name = 'ops' and table_name in ('loads', 'quarantine', 'streams'))"
            ).fetchall()
            times = {"loads": "exclude (committed_at)", "streams": "exclude (updated_at)"}
            rows = {}
            for schema, name in names:
                result = con.execute(f'select * {times.get(name, "")} from "{schema}"."{name}"')
                columns = [(column[0], str(column[1])) for column in result.description]
                rows[f"{schema}.{name}"] = Counter(
                    tuple(zip(columns, map(repr, row), strict=True)) for row in result.fetchall()
                )
            return rows

    def query(self, sql: str) -> list[tuple]:
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as con:
            return con.execute(sql).fetchall()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Warehouse:
    """A warehouse with new, corrected, broken, copied and widened files; `filled` is a copy."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        warehouse = Warehouse(tmp_path_factory.mktemp("filled") / "home", monkeypatch)
        warehouse.ingest(a="id,price\n1,1.50\n2,2.00\n2,2.00\n", b="id,price\n3,three\n4,4\n5,five\n")
        warehouse.ingest(a="id,price\n1,1.75\n2,2.00\n")
        warehouse.ingest(c="id,price,note\n6,6,new column\n", copy="id,price\n1,1.75\n2,2.00\n")
        warehouse.ingest(b="id,price\n3,3\n4,4\n5,five\n")
    return warehouse


@pytest.fixture
def filled(original, tmp_path, monkeypatch) -> Warehouse:
    return original.copy(tmp_path / "home", monkeypatch)


@pytest.fixture
def warehouse(tmp_path, monkeypatch) -> Warehouse:
    """One that nothing was loaded into."""
    return Warehouse(tmp_path / "home", monkeypatch)


def rows_of(lake: Lake, stream: Stream = LINES) -> Counter:
    """Every row of a stream's batches, as raw would have it."""
    files = list(dict.fromkeys(str(batch.file) for batch in lake.manifest(stream)))
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        result = con.execute("from read_parquet($files, union_by_name = true)", {"files": files})
        names = [column[0] for column in result.description]
        return Counter(tuple(sorted(zip(names, map(repr, row), strict=True))) for row in result.fetchall())


def tell(lake: Lake, stream: Stream = LINES) -> list[tuple]:
    """What the manifest says of each batch, but for where its rows are."""
    return [
        (each.batch_id, each.load_id, each.rows_loaded, each.columns, each.origin) for each in lake.manifest(stream)
    ]


# A process that is killed


class Killed(BaseException):
    """Stands for `kill -9`: from then on the process changes nothing more."""


@contextlib.contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch):
    """End the process at its n-th change of the disk; gives whether that came."""
    came = {"steps": 0, "killed": False}

    def counted(change):
        def stop_or_change(*arguments, **options):
            came["steps"] += 1
            if came["steps"] >= step:
                came["killed"] = True
                raise Killed
            return change(*arguments, **options)

        return stop_or_change

    with monkeypatch.context() as patched:
        for name in ("fsync", "rename", "replace", "unlink"):
            patched.setattr(os, name, counted(getattr(os, name)))
        patched.setattr(DuckDBEngine, "load", counted(DuckDBEngine.load))
        with contextlib.suppress(Killed):
            yield came


# Check


def test_a_whole_lake_has_no_finding(filled, capsys):
    assert filled.command("check") == 0
    assert capsys.readouterr().out == "the lake is whole: 1 streams, 6 loads, 9 rows\n"


def test_an_orphan_is_named_and_removed_on_demand(filled, capsys):
    folder = filled.lake.root / LINES.folder
    left = [folder / "17.parquet", folder / ".tmp-18.parquet", folder / "_manifest.jsonl.next"]
    left.append(filled.lake.root / "_spill" / "duckdb_temp_storage.tmp")
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    assert filled.command("check") == 1
    said = capsys.readouterr().out
    assert all(f"{path}: left by a killed run" in said for path in left)
    assert filled.command("check", "--repair") == 0
    assert not any(path.exists() for path in left)
    assert filled.command("check") == 0


def damage_missing(batch, lake):
    batch.file.unlink()


def damage_other(batch, lake):
    shutil.copy(lake.manifest(LINES)[1].file, batch.file)


def damage_page(batch, lake):
    content = bytearray(batch.file.read_bytes())
    content[40:60] = bytes(20)
    batch.file.write_bytes(content)


def damage_value(batch, lake):
    """The same rows and description, but one value is another."""
    with duckdb.connect() as con:
        metadata = batch.to_json().replace("'", "''")
        con.execute(
            f"copy (select * replace ('9.99' as price) from '{batch.file}') to '{batch.file}.new'"
            f" (format parquet, kv_metadata {{'warehouse.batch': '{metadata}'}})"
        )
    Path(f"{batch.file}.new").replace(batch.file)


def damage_quarantine(batch, lake):
    next(each.quarantine_file for each in lake.manifest(LINES) if each.quarantine_file).unlink()


def damage_manifest(batch, lake):
    path = batch.file.with_name("_manifest.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (damage_missing, "missing"),
        (damage_other, "its own description of its batches is not the manifest's"),
        (damage_page, "not readable"),
        (damage_value, "are not what their hash says"),
        (damage_quarantine, "quarantined records; bring it back"),
        (damage_manifest, "the ledger has load"),
    ],
)
def test_damage_is_a_finding(filled, capsys, damage, finding):
    damage(filled.lake.manifest(LINES)[0], filled.lake)
    assert filled.command("check") == 1
    assert finding in capsys.readouterr().out


def test_every_value_is_read_where_there_are_no_row_hashes(warehouse, capsys):
    database = Database(warehouse.home, ["id"])
    database.batch(*((number, f"status {number}", "upsert") for number in range(50)), load=False)
    damage_page(database.lake.manifest(ORDERS)[0], database.lake)
    assert warehouse.command("check") == 1
    assert "not readable" in capsys.readouterr().out


def test_a_line_that_the_manifest_lost_is_a_finding_without_a_ledger_too(filled, capsys):
    (filled.home / "warehouse.duckdb").unlink()
    damage_manifest(filled.lake.manifest(LINES)[0], filled.lake)
    database = Database(filled.home, ["id"])
    for status in ("new", "paid", "sent"):
        database.batch((1, status, "upsert"), load=False)
    path = database.lake.root / ORDERS.folder / "_manifest.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    assert filled.command("check") == 1
    said = capsys.readouterr().out
    assert "files-lines: the batch before load" in said
    assert "shop-orders: the batch before load" in said


def test_other_counts_in_the_ledger_are_a_finding(filled, capsys):
    filled.query("update ops.loads set rows_loaded = rows_loaded + 1, rows_extracted = rows_extracted + 1")
    assert filled.command("check") == 1
    assert "other counts in the ledger" in capsys.readouterr().out


def test_a_closed_batch_that_waits_for_the_next_run_is_no_finding(filled, capsys):
    filled.shop.put("d.csv", "id,price\n7,7\n")
    filled.shop.run(filled.state)
    assert filled.command("check") == 0
    assert "1 loads wait for the next run" in capsys.readouterr().out


# While a run writes


@pytest.mark.parametrize(
    "arguments", [["check"], ["rebuild"], ["state", "tap-files"], ["compact"], ["retain", "--days", "1"]], ids=" ".join
)
def test_a_running_target_or_tap_is_not_disturbed(filled, arguments, monkeypatch, capsys):
    monkeypatch.setattr("ingestion.lifeline.LEAVING_SECONDS", 0.0)
    holder = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(filled.home / "warehouse.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as target:
        target.stdout.readline()
        assert filled.command(*arguments) == 1
        target.stdin.close()
    assert "is in use by another process" in capsys.readouterr().err
    with Lake(filled.lake.root).lock(LINES):
        assert filled.command(*arguments) == 1
    assert "another process is writing its batches" in capsys.readouterr().err


# Rebuild


def test_raw_ledger_and_quarantine_come_back_from_the_lake_alone(filled):
    filled.query("update ops.streams set updated_at = now()")
    before = filled.tables()
    (filled.home / "warehouse.duckdb").unlink()
    assert filled.command("rebuild") == 0
    assert filled.tables() == before


def test_a_rebuilt_warehouse_remembers_what_was_replayed(filled, run_replay):
    # This list of streams is not the demo shop's, so the record's rule is gone.
    run_replay()
    replayed = filled.query("select count(*) from ops.quarantine where replayed_load_id is not null")
    before = filled.tables()
    assert replayed == [(1,)]
    assert filled.command("rebuild") == 0
    assert filled.tables() == before


def test_a_rebuilt_warehouse_goes_on_where_the_old_one_was(filled):
    assert filled.command("rebuild") == 0
    filled.state = None
    loads = filled.query("select count(*) from ops.loads")
    filled.ingest()
    assert filled.query("select count(*) from ops.loads") == loads
    filled.ingest(a="id,price\n9,9\n")
    assert filled.query(
        "select id from raw_files.lines where _sdc_operation = 'withdraw' and id < '3' order by all"
    ) == [
        ("1",),
        ("1",),
        ("2",),
        ("2",),
    ]


def test_a_stream_without_rows_has_its_table_again(warehouse):
    warehouse.send({"id": {"type": "integer"}, "at": {"format": "date-time", "type": "string"}}, keys=["id"])
    before = warehouse.tables()
    (warehouse.home / "warehouse.duckdb").unlink()
    assert warehouse.command("rebuild") == 0
    assert warehouse.tables() == before
    assert "raw_shop.orders" in before


def test_records_of_other_taps_come_back_with_their_types(warehouse):
    good = [{"id": number, "price": number / 4, "more": ["x"]} for number in range(9)]
    warehouse.send({"id": {"type": "integer"}, "price": {"type": "number"}}, *good, {"id": "bad"}, keys=["id"])
    before = warehouse.tables()
    assert warehouse.command("rebuild") == 0
    assert warehouse.tables() == before


def test_a_column_that_was_altered_by_hand_comes_back_as_text(warehouse):
    warehouse.send({"is_new": {"type": "boolean"}}, {"is_new": True})
    warehouse.query("alter table raw_shop.orders alter column is_new type varchar")
    warehouse.send({"is_new": {"type": "string"}}, {"is_new": "perhaps"})
    before = warehouse.tables()
    assert warehouse.command("rebuild") == 0
    assert warehouse.tables() == before


def test_a_warehouse_that_knows_more_than_the_lake_is_not_replaced(filled, capsys):
    shutil.rmtree(filled.lake.root / LINES.folder)
    other = Warehouse(filled.home / "other", filled.monkeypatch)
    other.ingest(a="id,price\n1,1\n")
    shutil.copytree(other.lake.root / LINES.folder, filled.lake.root / LINES.folder)
    filled.monkeypatch.setenv("WAREHOUSE_HOME", str(filled.home))
    before = filled.tables()
    assert filled.command("rebuild") == 1
    assert "has loads that the lake lacks: files-lines 6" in capsys.readouterr().err
    assert filled.tables() == before


def test_a_damaged_warehouse_is_replaced(filled):
    before = filled.tables()
    file, log = filled.home / "warehouse.duckdb", filled.home / "warehouse.duckdb.wal"
    with duckdb.connect(str(file)) as con:
        con.execute("insert into raw_files.lines select * from raw_files.lines")
        shutil.copy(log, filled.home / "log")
    file.write_bytes(b"not a database" * 1000)
    shutil.move(filled.home / "log", log)
    assert filled.command("rebuild") == 0
    assert filled.tables() == before


def test_a_damaged_lake_leaves_the_warehouse_as_it_is(filled, capsys):
    before = filled.tables()
    filled.lake.manifest(LINES)[3].file.unlink()
    assert filled.command("rebuild") == 1
    assert "warehouse-lake check" in capsys.readouterr().err
    assert filled.tables() == before
    assert not list(filled.home.glob("*rebuilt*"))


def test_a_rebuild_killed_at_any_step_leaves_the_old_warehouse_or_the_new_one(filled, monkeypatch):
    before = filled.tables()
    step, killed = 0, True
    while killed:
        step += 1
        with killed_at(step, monkeypatch) as came, contextlib.suppress(pytest.fail.Exception):
            filled.command("rebuild")
        killed = came["killed"]
        assert filled.tables() == before
    assert step > 8
    assert filled.command("rebuild") == 0
    assert filled.tables() == before
    assert not list(filled.home.glob("*rebuilt*"))


# State


def test_lost_state_comes_back_from_the_ledger(filled, capsys):
    assert filled.command("state", "tap-files") == 0
    assert json.loads(capsys.readouterr().out) == {"singer_state": filled.state}


def test_state_ends_before_what_is_not_loaded(filled, capsys):
    manifest = filled.lake.manifest(LINES)
    filled.query(f"delete from ops.loads where load_id = {manifest[2].load_id}")
    assert filled.command("state", "tap-files") == 0
    state = json.loads(capsys.readouterr().out)["singer_state"]
    assert state == {"bookmarks": {"files-lines": {"load_id": manifest[1].load_id}}}


def test_a_tap_without_loads_has_no_state(filled, capsys):
    assert filled.command("state", "tap-postgres") == 1
    assert "tap-postgres: the ledger has no load of it" in capsys.readouterr().err


# Streams of databases


class Database:
    """A stream of a database, in the lake and in the ledger, without the tap."""

    def __init__(self, home: Path, keys: list[str]) -> None:
        self.lake = Lake(home / "lake")
        self.engine_file = home / "warehouse.duckdb"
        self.spill = home / "spill"
        self.sequence = 0
        write_definition(self.lake, ORDERS, keys, {"properties": {"id": {}, "status": {}}})

    def batch(self, *rows: tuple[int, str | None, str], load: bool = True) -> int:
        """Write and load rows of (id, status, operation); returns the load id."""
        with connect(self.spill) as con:
            con.execute("create table rows (id integer, status varchar, _sdc_operation varchar, _sdc_sequence bigint)")
            for row in rows:
                self.sequence += 1
                con.execute("insert into rows values (?, ?, ?, ?)", [*row, self.sequence])
            manifest = self.lake.manifest(ORDERS)
            batch = self.lake.write(
                con,
                ORDERS,
                rows="rows",
                batch_id=f"batch-{self.sequence}",
                origin={
                    "position": {"method": "LOG_BASED", "slot": "warehouse", "lsn": self.sequence, "complete": True},
                    "follows": manifest[-1].batch_id if manifest else None,
                },
                extracted_at=dt.datetime.now(dt.UTC),
            )
        if load:
            engine = DuckDBEngine(self.engine_file, "demo_shop", memory_limit="1GB", threads=2)
            engine.load(batch, "batch")
            engine.close()
        return batch.load_id

    def retain(self, before: int) -> tuple[int, int] | str:
        with connect(self.spill) as con:
            return retain(
                self.lake, con, ORDERS, {batch.batch_id for batch in self.lake.manifest(ORDERS)}, before=before
            )

    def rows(self) -> list[tuple]:
        files = list(dict.fromkeys(str(batch.file) for batch in self.lake.manifest(ORDERS)))
        query = "select id, status, _sdc_operation from read_parquet($files) order by _sdc_load_id, _sdc_sequence"
        with duckdb.connect() as con:
            return con.execute(query, {"files": files}).fetchall()


def test_state_of_a_database_has_the_last_position_that_is_loaded(warehouse, capsys):
    database = Database(warehouse.home, ["id"])
    database.batch((1, "new", "upsert"))
    load_id = database.batch((1, "paid", "upsert"))
    database.batch((1, "sent", "upsert"), load=False)
    assert warehouse.command("state", "tap-postgres") == 0
    assert json.loads(capsys.readouterr().out)["singer_state"]["bookmarks"] == {
        "shop-orders": {"method": "LOG_BASED", "slot": "warehouse", "lsn": 2, "complete": True, "load_id": load_id}
    }


# Compact


def test_compaction_changes_no_row_and_no_line_of_the_manifest(filled, capsys):
    rows, manifest = rows_of(filled.lake), tell(filled.lake)
    assert filled.command("compact") == 0
    assert capsys.readouterr().out == "files-lines: 6 files are now 1\n"
    assert {batch.file.name for batch in filled.lake.manifest(LINES)} == {
        f"{manifest[0][1]}-{manifest[-1][1]}.1.parquet"
    }
    assert rows_of(filled.lake) == rows
    assert tell(filled.lake) == manifest
    assert filled.command("check") == 0


def test_a_compacted_lake_compacts_again(filled, capsys):
    assert filled.command("compact") == 0
    rows = rows_of(filled.lake)
    assert filled.command("compact") == 0
    assert capsys.readouterr().out.endswith("nothing to compact\n")
    filled.ingest(z="id,price\n8,8\n")
    assert filled.command("compact") == 0
    assert len(list((filled.lake.root / LINES.folder).glob("*-*.parquet"))) == 1
    assert rows_of(filled.lake) > rows
    assert filled.command("check") == 0


def test_raw_comes_back_from_a_compacted_lake(filled):
    before = filled.tables()
    assert filled.command("compact") == 0
    assert filled.command("rebuild") == 0
    after = filled.tables()
    assert after.pop("ops.loads").total() == before.pop("ops.loads").total()
    assert after == before


def test_a_compacted_lake_is_compared_with_and_resent_as_before(filled):
    plain = filled.tables()
    assert filled.command("compact") == 0
    filled.state = None
    filled.ingest()
    assert filled.tables() == plain
    filled.ingest(a="id,price\n1,1.75\n10,10\n", b="id,price\n3,3\n4,4\n5,5\n")
    current = (
        "select id, price from raw_files.lines where _sdc_source_file = '{}' group by all"
        " having arg_max(_sdc_operation, _sdc_load_id) <> 'withdraw' order by all"
    )
    assert filled.query(current.format("a.csv")) == [("1", "1.75"), ("10", "10")]
    assert filled.query(current.format("b.csv")) == [("3", "3"), ("4", "4"), ("5", "5")]
    assert filled.shop.batches[-1].origin["superseded"]
    repeated = "select count(*) - (select count(*) from (select distinct * from raw_files.lines)) from raw_files.lines"
    assert filled.query(repeated) == [(0,)]


def test_an_older_warehouse_takes_what_it_lacks_from_a_compacted_file(filled):
    shutil.copy(filled.home / "warehouse.duckdb", filled.home / "older")
    state = filled.state
    filled.ingest(d="id,price,note\n7,7,seven\n", e="id,price\n8,8\n")
    after = filled.tables()
    assert filled.command("compact") == 0
    shutil.move(filled.home / "older", filled.home / "warehouse.duckdb")
    filled.state = state
    filled.ingest()
    assert filled.tables()["raw_files.lines"] == after["raw_files.lines"]


def test_what_is_not_loaded_yet_is_not_compacted(filled):
    filled.shop.put("d.csv", "id,price\n7,7\n")
    filled.shop.run(filled.state)
    waiting = filled.lake.manifest(LINES)[-1].file
    assert filled.command("compact") == 0
    assert waiting.exists()
    assert filled.lake.manifest(LINES)[-1].file == waiting


def test_files_whose_types_differ_are_not_merged(warehouse):
    for kind, value in [("integer", 1), ("integer", 2), ("number", 2.5), ("number", 3.5)]:
        warehouse.send({"id": {"type": kind}}, {"id": value})
    before = warehouse.tables()
    assert warehouse.command("compact") == 0
    assert len({batch.file for batch in warehouse.lake.manifest(ORDERS)}) == 2
    assert warehouse.command("rebuild") == 0
    assert warehouse.tables()["raw_shop.orders"] == before["raw_shop.orders"]


def test_files_stay_below_the_size_asked_for(filled):
    sizes = [batch.file.stat().st_size for batch in filled.lake.manifest(LINES)]
    with connect(filled.home / "spill") as con:
        committed = {batch.batch_id for batch in filled.lake.manifest(LINES)}
        merged = compact(filled.lake, con, LINES, committed, file_bytes=2 * max(sizes) + 2)
    assert merged == (6, 3)


def test_a_compaction_killed_at_any_step_loses_nothing(filled, monkeypatch):
    rows, manifest = rows_of(filled.lake), tell(filled.lake)
    kept = shutil.copytree(filled.lake.root, filled.home / "kept")
    step, killed = 0, True
    while killed:
        shutil.rmtree(filled.lake.root)
        shutil.copytree(kept, filled.lake.root)
        step += 1
        with killed_at(step, monkeypatch) as came, contextlib.suppress(pytest.fail.Exception):
            filled.command("compact")
        killed = came["killed"]
        assert (rows_of(filled.lake), tell(filled.lake)) == (rows, manifest)
        assert filled.command("compact") == 0
        assert orphans(filled.lake, LINES) == []
        assert (rows_of(filled.lake), tell(filled.lake)) == (rows, manifest)
    assert step > 8


# Retain


def test_withdrawn_rows_of_files_go_when_their_key_lives_elsewhere(filled, capsys):
    filled.ingest(a="id,price\n1,1.99\n")
    assert filled.command("retain", "--days", "0") == 0
    assert "rows removed from" in capsys.readouterr().out
    rows = [(row["id"], row["price"], row["_sdc_operation"]) for row in filled.shop.rows() if row["id"] in {"1", "2"}]
    # The row of the key 2 is all that is left of it: it stays, as the content of a key that is deleted now.
    assert sorted(rows) == [
        ("1", "1.99", "upsert"),
        ("2", "2.00", "upsert"),
        ("2", "2.00", "upsert"),
        ("2", "2.00", "withdraw"),
        ("2", "2.00", "withdraw"),
    ]
    assert filled.command("check") == 0


def test_a_row_that_came_back_stays(warehouse, capsys):
    for content in ("1,1\n2,2\n", "1,1\n", "1,1\n2,2\n"):
        warehouse.ingest(a=f"id,price\n{content}")
    assert warehouse.command("retain", "--days", "0") == 0
    assert capsys.readouterr().out.startswith("files-lines: 2 rows removed from 2 files")
    assert sorted((row["id"], row["_sdc_operation"]) for row in warehouse.shop.rows()) == [
        ("1", "upsert"),
        ("2", "upsert"),
    ]


def test_what_was_superseded_lately_stays(filled, capsys):
    rows = rows_of(filled.lake)
    assert filled.command("retain", "--days", "1") == 0
    assert capsys.readouterr().out == "nothing was superseded for 1 days\n"
    assert rows_of(filled.lake) == rows


def test_raw_loses_by_a_rebuild_what_the_lake_lost(filled):
    before = filled.tables()
    assert filled.command("retain", "--days", "0") == 0
    assert filled.tables() == before
    assert filled.command("rebuild") == 0
    assert filled.tables()["raw_files.lines"] < before["raw_files.lines"]
    assert filled.tables()["ops.quarantine"] == before["ops.quarantine"]
    identity = "select bool_and(rows_extracted = rows_loaded + rows_quarantined + rows_dropped), sum(rows_extracted)"
    assert filled.query(f"{identity} from ops.loads")[0][0]
    assert filled.query("select sum(rows_loaded) from ops.loads") == filled.query(
        "select count(*) from raw_files.lines"
    )
    assert filled.command("check") == 0


def test_only_the_streams_asked_for_are_touched(filled, capsys):
    assert filled.command("retain", "--days", "0", "shop-*") == 1
    assert "shop-*: no such stream" in capsys.readouterr().err
    assert filled.command("retain", "--days", "0", "files-*") == 0


def test_periods_are_configured_by_stream(filled, monkeypatch, capsys):
    filled.send({"id": {"type": "integer"}}, {"id": 1}, keys=["id"])
    periods = {"*": 10_000, "files-*": 300, "files-lines": 0, "shop-order*": 5, "crm-users": 3}
    monkeypatch.setenv("WAREHOUSE_RETENTION_DAYS", json.dumps(periods))
    assert filled.command("retain") == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("files-lines: ")
    assert first.endswith("files, superseded for 0 days")
    unknown = "the order of its versions is the source's own, which the lake does not know"
    assert others == [
        f"shop-orders: nothing removed: {unknown}",
        "crm-users: no such stream; the lake has files-lines, shop-orders",
    ]
    monkeypatch.setenv("WAREHOUSE_RETENTION_DAYS", '{"files-*": "9", "files-li*": "1", "files-??nes": 300}')
    assert filled.command("retain", "*") == 0
    assert capsys.readouterr().out.splitlines() == [
        "files-lines: nothing was superseded for 300 days",
        "shop-orders: no period is configured",
    ]
    assert filled.command("check") == 0


def test_days_that_are_given_count_whatever_is_configured(filled, monkeypatch, capsys):
    monkeypatch.setenv("WAREHOUSE_RETENTION_DAYS", "no JSON")
    assert filled.command("retain", "--days", "1") == 0
    assert capsys.readouterr().out == "nothing was superseded for 1 days\n"


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        ("", "for how many days\\? Give --days, or set WAREHOUSE_RETENTION_DAYS, as in '"),
        ("web-*: 400", "WAREHOUSE_RETENTION_DAYS is not JSON .*; write it as in '"),
        ("[400]", "WAREHOUSE_RETENTION_DAYS is no JSON object; write it as in '"),
        ('{"web-*": -1}', "WAREHOUSE_RETENTION_DAYS has -1 for web-\\*, which is no whole number of days"),
        ('{"web-*": 1.5}', "has 1.5 for web-\\*, which is no whole number of days"),
        ('{"web-*": true}', "has true for web-\\*, which is no whole number of days"),
        ('{"web-*": {"days": 3}}', 'has {"days": 3} for web-\\*, which is no whole number of days'),
    ],
)
def test_a_wrong_period_is_one_clear_line(filled, monkeypatch, capsys, configured, said):
    monkeypatch.setenv("WAREHOUSE_RETENTION_DAYS", configured)
    rows = rows_of(filled.lake)
    assert filled.command("retain") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line)
    assert rows_of(filled.lake) == rows


def test_meltano_hands_on_the_periods_of_its_settings(tmp_path):
    settings = yaml.safe_load((ROOT / "meltano.yml").read_text())
    (plugin,) = [each for each in settings["plugins"]["utilities"] if each["name"] == "warehouse-lake"]
    plugin["config"] = {"retention_days": {"web-*": 400, "crm-users": 365}}
    (tmp_path / "meltano.yml").write_text(yaml.safe_dump(settings))
    command = [BIN / "meltano", "invoke", "--print-var", "WAREHOUSE_RETENTION_DAYS", "warehouse-lake:retain"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WAREHOUSE_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout.removeprefix("WAREHOUSE_RETENTION_DAYS=")) == plugin["config"]["retention_days"]


@pytest.mark.parametrize(("seed", "keys"), [(0, ["id"]), (1, ["id"]), (2, [])])
def test_random_histories_of_files_keep_their_current_state(tmp_path, monkeypatch, seed, keys):
    chance = random.Random(seed)
    warehouse = Warehouse(tmp_path / "home", monkeypatch, keys=keys, columns={})
    for _ in range(8):
        name = chance.choice("abc")
        lines = [f"{chance.randrange(4)},{chance.randrange(3)}" for _ in range(chance.randrange(6))]
        warehouse.shop.put(f"{name}.csv", "\n".join(["id,status", *lines]) + "\n")
        warehouse.shop.run()
        before = {file: warehouse.shop.current(f"{file}.csv") for file in "abc"}
        ids = {row["id"] for row in warehouse.shop.rows()}
        if chance.random() < 0.5:
            committed = {batch.batch_id for batch in warehouse.shop.batches}
            bound = chance.choice([NEVER, *(batch.load_id for batch in warehouse.shop.batches)])
            with connect(tmp_path / "spill") as con:
                write_definition(warehouse.lake, LINES, keys, {})
                retain(warehouse.lake, con, LINES, committed, before=bound)
                if chance.random() < 0.5:
                    compact(warehouse.lake, con, LINES, committed, file_bytes=1_000_000)
        files = {str(batch.file): batch.file for batch in warehouse.shop.batches}
        with monkeypatch.context() as unique:
            # The rows of each file once.
            unique.setattr(Shop, "rows", lambda shop, files=files: _rows(files))
            assert {file: warehouse.shop.current(f"{file}.csv") for file in "abc"} == before
            if keys:
                assert {row["id"] for row in warehouse.shop.rows()} == ids
            expected = Counter(tuple(line.split(",")) for line in lines)
            current = warehouse.shop.current(f"{name}.csv")
            assert Counter({(dict(row)["id"], dict(row)["status"]): n for row, n in current.items()}) == expected


def _rows(files) -> list[dict]:
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        result = con.execute(
            "from read_parquet($files, union_by_name = true) order by _sdc_load_id", {"files": list(files)}
        )
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def test_of_a_databases_key_its_newest_version_and_content_stay(tmp_path):
    database = Database(tmp_path, ["id"])
    database.batch((1, "new", "upsert"), (2, "new", "upsert"), (3, "new", "upsert"))
    database.batch((1, "paid", "upsert"), (2, "paid", "upsert"), (2, None, "delete"))
    assert database.retain(NEVER) == (2, 1)
    assert database.rows() == [(3, "new", "upsert"), (1, "paid", "upsert"), (2, "paid", "upsert"), (2, None, "delete")]
    database.batch((2, "back", "upsert"))
    assert database.retain(NEVER) == (2, 1)
    assert database.rows() == [(3, "new", "upsert"), (1, "paid", "upsert"), (2, "back", "upsert")]


def test_a_version_replaced_after_the_bound_stays(tmp_path):
    database = Database(tmp_path, ["id"])
    database.batch((1, "new", "upsert"))
    database.batch((1, "paid", "upsert"))
    bound = database.batch((1, "sent", "upsert"))
    assert database.retain(bound) == (1, 1)
    assert database.rows() == [(1, "paid", "upsert"), (1, "sent", "upsert")]


def test_what_is_not_loaded_yet_supersedes_nothing(warehouse):
    database = Database(warehouse.home, ["id"])
    database.batch((1, "new", "upsert"))
    database.batch((1, "paid", "upsert"), load=False)
    assert warehouse.command("retain", "--days", "0") == 0
    assert database.rows() == [(1, "new", "upsert"), (1, "paid", "upsert")]


def test_a_delete_without_key_goes_with_one_row_of_its_content(tmp_path):
    database = Database(tmp_path, [])
    database.batch((1, "new", "upsert"), (1, "new", "upsert"), (2, None, "upsert"))
    bound = database.batch((1, "new", "delete"), (2, None, "delete")) + 1
    database.batch((1, "new", "upsert"), (1, "new", "delete"))
    assert database.retain(bound) == (4, 2)
    assert sorted(database.rows()) == [(1, "new", "delete"), (1, "new", "upsert"), (1, "new", "upsert")]


def test_streams_whose_order_the_lake_does_not_know_lose_nothing(warehouse, capsys):
    versions = [{"id": 1, "status": status} for status in ("new", "paid")]
    warehouse.send({"id": {"type": "integer"}, "status": {"type": "string"}}, *versions, keys=["id"])
    assert warehouse.command("retain", "--days", "0") == 0
    assert "nothing removed: the order of its versions is the source's own" in capsys.readouterr().out
    assert rows_of(warehouse.lake, ORDERS).total() == 2


def test_a_retention_killed_at_any_step_loses_only_what_may_go(filled, monkeypatch):
    filled.ingest(a="id,price\n1,1.99\n")
    assert filled.command("compact") == 0
    whole = (rows_of(filled.lake), tell(filled.lake))
    kept = shutil.copytree(filled.lake.root, filled.home / "kept")
    assert filled.command("retain", "--days", "0") == 0
    reduced = (rows_of(filled.lake), tell(filled.lake))
    step, killed = 0, True
    while killed:
        shutil.rmtree(filled.lake.root)
        shutil.copytree(kept, filled.lake.root)
        step += 1
        with killed_at(step, monkeypatch) as came, contextlib.suppress(pytest.fail.Exception):
            filled.command("retain", "--days", "0")
        killed = came["killed"]
        assert (rows_of(filled.lake), tell(filled.lake)) in (whole, reduced)
        assert filled.command("retain", "--days", "0") == 0
        assert (rows_of(filled.lake), tell(filled.lake)) == reduced
        assert orphans(filled.lake, LINES) == []
    assert step > 6


# The command


def test_the_command_says_a_mistake_in_one_line(tmp_path):
    environment = os.environ | {"WAREHOUSE_HOME": str(tmp_path), "WAREHOUSE_SHOP": "demo_shop"}
    result = subprocess.run([LAKE_COMMAND, "rebuild"], capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "has no batches to rebuild raw from" in result.stderr
