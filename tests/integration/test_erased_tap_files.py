"""Files bring no erased person back: unchanged rows are no change, others come without what is personal."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ingestion import erased, settings
from ingestion.erased import Erased
from ingestion.taps.files import TapFiles
from tests.integration.test_erased_lake import PERSONAL, PERSONS, Crm, fill, user

NEW = {"name": "Anna Neu", "email": "anna.neu@shop.example", "phone": "+49 999", "age": 99}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WAREHOUSE_HOME", str(tmp_path))


def erase(crm: Crm, *numbers: int) -> Erased:
    """Erase persons from the lake, as the command does: the list first."""
    home = settings.load()
    whom = replace(erased.begin(home), streams={"crm-users": PERSONS}).with_persons(map(str, numbers))
    values = crm.find(whom).values
    whom = whom.with_values(value for name in PERSONAL[:3] for value in values[name])
    whom.save(home)
    crm.redact(whom)
    return whom


def touch(crm: Crm) -> None:
    """Give every file another time and content, but no other rows."""
    for path in sorted(crm.data.rglob("*.*")):
        crm.put(str(path.relative_to(crm.data)), path.read_bytes() + b"\n")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_unchanged_rows_and_broken_lines_are_no_change(kind, tmp_path):
    crm = Crm(tmp_path, kind)
    fill(crm)
    erase(crm, 17)
    before, batches = (crm.rows(), crm.quarantine()), len(crm.batches)
    touch(crm)
    crm.ingest()
    assert len(crm.batches) == batches + 3
    assert (crm.rows(), crm.quarantine()) == before
    assert not crm.batches[-1].origin.get("superseded")


def test_rows_that_became_equal_are_no_change(tmp_path):
    crm = Crm(tmp_path)
    one, two, three = (user(17, version, age=3, updated_at="2026-01-01 10:00:00") for version in (1, 2, 3))
    crm.ingest(a=[two, three, two])
    crm.ingest(a=[three, one, one])
    erase(crm, 17)
    rows = crm.rows()
    touch(crm)
    crm.ingest()
    assert crm.rows() == rows


@pytest.mark.parametrize("is_new", [True, False], ids=["new file", "changed file"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_changed_person_comes_without_what_is_personal(kind, is_new, tmp_path):
    crm = Crm(tmp_path, kind)
    people = [user(17), user(18), user(23)]
    crm.ingest(a=people)
    erase(crm, 17, 23)
    old = crm.rows()
    changed = [user(17, 2, country="FR", **NEW), user(18, 2, **NEW), user(23, 2, **NEW), user(1)]
    crm.ingest(**{"b" if is_new else "a": changed})
    rows = crm.rows()[len(old) :]
    assert crm.rows()[: len(old)] == old
    new = [row for row in rows if row["_sdc_operation"] == "upsert"]
    assert [(row["user_id"], row["country"], row["name"], row["email"], row["age"]) for row in new] == [
        ("17", "FR", None, None, None),
        ("18", "DE", NEW["name"], NEW["email"], "99"),
        ("23", "DE", None, None, None),
        ("1", "DE", user(1)["name"], user(1)["email"], str(user(1)["age"])),
    ]
    assert [row["_sdc_line_number"] for row in new] == [1, 2, 3, 4]
    assert crm.check() == []
    crm.assert_counted()


@pytest.mark.parametrize("is_new", [True, False], ids=["new file", "changed file"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_person_does_not_come_back_as_a_broken_record(kind, is_new, tmp_path):
    crm = Crm(tmp_path, kind)
    crm.ingest(a=[user(17), user(18)])
    erase(crm, 17)
    old = user(17)
    line = f"17,{old['name']},x,y" if kind == "csv" else f'{{"user_id": 17, "email": "{NEW["email"]}", '
    broken = [
        user(17, 2, updated_at="soon", **NEW),  # Its number tells.
        user(17, 1, user_id="17x"),  # Its values do.
        line,
        user(18, 2, updated_at="soon"),
        user(19),
    ]
    crm.ingest(**{"b" if is_new else "a": broken})
    texts = crm.texts()
    for value in (NEW["name"], NEW["email"], NEW["phone"], old["name"], old["email"], old["phone"]):
        assert value not in texts
    payloads = [json.loads(row["payload"]) for row in crm.quarantine()]
    assert [payload.get("user_id", payload.get("line")) for payload in payloads] == ["17", "17x", "[erased]", "18"]
    assert [payloads[0]["age"], payloads[1]["name"], payloads[1]["email"]] == [None] * 3
    assert payloads[-1]["name"] == user(18, 2)["name"]
    crm.assert_counted()
    # The same broken records again are no change.
    before = crm.rows(), crm.quarantine()
    touch(crm)
    crm.ingest()
    assert (crm.rows(), crm.quarantine()) == before


def test_who_was_erased_since_the_tap_began_does_not_come_back(tmp_path):
    crm = Crm(tmp_path)
    crm.put("users/a.csv", crm.written([user(17), user(18)]))
    tap = TapFiles(config=crm.config)
    assert tap.erased is None
    erase(crm, 17)
    with contextlib.redirect_stdout(io.StringIO()):
        tap.sync_all()
    assert [row["name"] for row in crm.rows()] == [None, user(18)["name"]]


def test_records_come_without_what_is_personal(tmp_path):
    crm = Crm(tmp_path)
    crm.put("users/a.csv", crm.written([user(17), user(18)]))
    erase(crm, 17)
    run = crm.run(wire="records")
    assert [record["record"]["name"] for record in run.of_type("RECORD")] == [None, user(18)["name"]]


def test_faults_do_not_quote_an_erased_person(tmp_path):
    crm = Crm(tmp_path)
    crm.ingest(a=[user(17)])
    erase(crm, 17)
    crm.put("users/b.csv", ",".join(str(each) for each in user(17).values()) + "\n")
    (fault,) = crm.run().faults
    assert "found" in fault
    assert not [name for name in PERSONAL[:3] if user(17)[name] in fault]


def test_without_the_key_of_the_list_nothing_is_read(tmp_path, caplog):
    crm = Crm(tmp_path)
    crm.ingest(a=[user(17)])
    erase(crm, 17)
    before = crm.rows()
    settings.load().erasure_key_file.unlink()
    crm.put("users/b.csv", crm.written([user(18)]))
    (tmp_path / "config.json").write_text(json.dumps(crm.config))
    # Not `TapFiles.cli()`: it gives the root logger a handler that the tests after this one would have.
    result = CliRunner().invoke(TapFiles.get_singer_command(), ["--config", str(tmp_path / "config.json")])
    assert result.exit_code == 1
    assert "the key of the suppression list, is missing" in caplog.text
    assert result.stdout == ""
    assert crm.rows() == before
