"""Taps of others bring no erased person back either: not by records, not by files, not from quarantine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from ingestion import erased, settings
from ingestion.erased import Persons
from ingestion.errors import UserError
from ingestion.lake import Stream, commands, connect
from ingestion.lake.erasure import redact
from ingestion.target import target
from ingestion.target.rebuild import rebuild
from tests.integration.conftest import ENGINES
from tests.integration.test_target_loading import batch, record, schema

ORDERS = Stream("shop", "orders")  # As `record` names it.
TYPES = {
    "id": {"type": "integer"},
    "name": {"type": "string"},
    "worth": {"type": ["number", "null"]},
    "note": {"type": ["string", "null"]},
}
ANNA = {"id": 17, "name": "Anna Meyer", "worth": 1.50, "note": None}
BEN = {"id": 18, "name": "Ben Ode", "worth": 2, "note": "x"}
ROWS = "select id, name, worth::varchar, note from raw_shop.orders order by _sdc_load_id, _sdc_sequence"


def erase(warehouse, *numbers: int, also_lake: bool = True) -> None:
    """Put persons on the list, and erase them from what is loaded."""
    home = settings.load()
    home.home.mkdir(exist_ok=True)
    persons = Persons("ID", ("NAME",), is_integer=True)
    whom = replace(erased.begin(home), streams={ORDERS.id: persons}).with_persons(map(str, numbers))
    whom.with_values([ANNA["name"]]).save(home)
    if also_lake:
        with connect(warehouse.lake.root / "_spill") as con:
            redact(warehouse.lake, con, ORDERS, whom)
        rebuild(home, memory_limit="256MB", threads=2, report=lambda _: None)


def test_what_did_not_change_is_known_and_what_did_comes_without_what_is_personal(warehouse):
    warehouse.load([schema(TYPES), record(**ANNA), record(**BEN)])
    erase(warehouse, 17)
    warehouse.load([schema(TYPES), record(**ANNA), record(**BEN)])
    warehouse.load([schema(TYPES), record(**ANNA | {"name": "New Name"}), record(**BEN)])
    assert warehouse.query(ROWS) == [(17, None, "1.5000000000", None), (18, "Ben Ode", "2.0000000000", "x")]
    warehouse.load(
        [schema(TYPES), record(**ANNA | {"name": "New Name", "note": "new"}), record(**BEN | {"note": "new"})]
    )
    assert warehouse.query(ROWS)[2:] == [(17, None, "1.5000000000", "new"), (18, "Ben Ode", "2.0000000000", "new")]
    warehouse.check_identities()


def test_a_warehouse_that_nobody_else_may_read_stays_so(warehouse):
    warehouse.load([schema(TYPES), record(**ANNA)])
    file = settings.load().warehouse_file
    file.chmod(0o600)
    erase(warehouse, 17)
    assert file.stat().st_mode & 0o777 == 0o600


def test_broken_records_wait_without_what_is_personal(warehouse):
    erase(warehouse, 17, also_lake=False)
    bad = [ANNA | {"worth": "much", "name": "New Name"}, BEN | {"worth": "much"}, {"name": "anna meyer", "worth": 1}]
    warehouse.load([schema(TYPES), *(record(**each) for each in bad)], max_quarantine_share=1)
    payloads = warehouse.query("select payload from ops.quarantine order by quarantine_id")
    assert [json.loads(payload)["name"] for (payload,) in payloads] == [None, "Ben Ode", None]
    warehouse.check_identities()


def test_a_renamed_number_is_refused(warehouse, tmp_path):
    erase(warehouse, 17, also_lake=False)
    renamed = {"number" if name == "id" else name: kind for name, kind in TYPES.items()}
    anna = {"number": 17, "name": "Anna"}
    file = tmp_path / "orders.jsonl"
    file.write_text(f"{json.dumps(anna)}\n")
    for message in (record(**anna), batch(file, file_format="jsonl")):
        with pytest.raises(UserError, match="stream shop-orders: name without ID, by which erased persons are known"):
            warehouse.load([schema(renamed, keys=["number"]), message])


def test_files_of_other_taps_bring_nobody_back(warehouse, tmp_path):
    erase(warehouse, 17, also_lake=False)
    file = tmp_path / "orders.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in (ANNA, BEN)))
    warehouse.load([schema(TYPES), batch(file, file_format="jsonl")])
    assert [row[:2] for row in warehouse.query(ROWS)] == [(17, None), (18, "Ben Ode")]


def test_a_replay_brings_nobody_back(warehouse, run_replay):
    note = TYPES | {"note": {"type": ["string", "null"], "maxLength": 3}}
    warehouse.load([schema(note), *(record(**each | {"note": "long"}) for each in (ANNA, BEN))])
    warehouse.load([schema(TYPES)])
    erase(warehouse, 17, also_lake=False)
    assert run_replay() == "shop-orders: 2 loaded, 0 known already, 0 still wait\n"
    assert [(row[0], row[1], row[3]) for row in warehouse.query(ROWS)] == [(17, None, "long"), (18, "Ben Ode", "long")]
    warehouse.check_identities()


def test_who_was_erased_before_the_warehouse_was_held_does_not_come_back(warehouse, monkeypatch):
    open_warehouse = target.open_warehouse

    def erase_first(*arguments, **options):
        erase(warehouse, 17, also_lake=False)
        return open_warehouse(*arguments, **options)

    monkeypatch.setattr(target, "open_warehouse", erase_first)
    warehouse.load([schema(TYPES), record(**ANNA), record(**BEN)])
    assert [row[:2] for row in warehouse.query(ROWS)] == [(17, None), (18, "Ben Ode")]


def test_without_the_key_of_the_list_nothing_is_loaded(warehouse, run_replay):
    erase(warehouse, 17, also_lake=False)
    settings.load().erasure_key_file.unlink()
    with pytest.raises(UserError, match=r"erasure\.key.* is missing"):
        warehouse.load([schema(TYPES), record(**ANNA)])
    assert not warehouse.exists
    done = warehouse.run(json.dumps(schema(TYPES)) + "\n")
    assert done.returncode == 1
    assert "erasure.key" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@ENGINES
def test_a_lake_from_a_backup_brings_nobody_back(warehouse, tmp_path, monkeypatch, capsys):
    warehouse.load([schema(TYPES), record(**ANNA), record(**BEN), record(**ANNA | {"id": 3, "worth": "much"})])
    shutil.copytree(warehouse.lake.root, tmp_path / "backup")
    erase(warehouse, 17, 3)
    rows = warehouse.query(ROWS)
    shutil.rmtree(warehouse.lake.root)
    shutil.copytree(tmp_path / "backup", warehouse.lake.root)

    def command(name: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["warehouse-lake", name])
        with pytest.raises(SystemExit) as end:
            commands.main()
        return end.value.code, capsys.readouterr().out

    status, said = command("check")
    assert status == 1
    assert (
        "shop-orders: has 1 rows and 1 quarantined records of erased persons; `warehouse-lake rebuild` erases" in said
    )
    status, said = command("rebuild")
    assert status == 0
    assert "shop-orders: 1 rows and 1 quarantined records of erased persons were erased again" in said
    assert warehouse.query(ROWS) == rows
    assert "Anna" not in str(warehouse.query("select payload from ops.quarantine"))
    assert command("check")[0] == 0
    assert "erased again" not in command("rebuild")[1]
