"""tap-files: what it sends, skips and remembers."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import CancelledError
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from singer_sdk.testing import get_tap_test_class

from ingestion.errors import UserError
from ingestion.lake import Lake, row_hash
from ingestion.taps import file_reading, file_versions, files
from ingestion.taps.file_reading import sha256_of
from ingestion.taps.files import TapFiles
from tests.integration.tap_files_runs import Run, Shop

TAP = Path(sys.executable).parent / "tap-files"


def three_formats(root: Path) -> Shop:
    streams = [
        {
            "name": "shop-orders",
            "path": "orders/*.csv*",
            "format": "csv",
            "keys": ["order_id"],
            "columns": {"order_id": "integer", "ordered_at": "timestamp"},
        },
        {"name": "crm-users", "path": "users/*.jsonl", "format": "jsonl", "keys": ["user_id"]},
        {"name": "web-events", "path": "events/*.parquet", "format": "parquet", "keys": ["event_id"]},
    ]
    shop = Shop(root, streams=streams)
    shop.put("orders/1.csv", "order_id,ordered_at,note\n1,2026-07-01T10:00:00Z,first\n2,01/07/2026 10:05,\n")
    shop.put("orders/2.csv.gz", gzip.compress(b"order_id,ordered_at,note\n3,1751364000,third\n"))
    shop.put("users/1.jsonl", '{"user_id": 1, "name": "A", "tags": ["x", "y"]}\n{"user_id": 2, "age": 1.50}\n')
    path = shop.put("events/1.parquet", "")
    duckdb.execute(f"copy (select 'e' || i as event_id, i * 0.5 as weight from range(5) t(i)) to '{path}'")
    return shop


# The SDK wants the configuration when the classes are made.
_SDK_FOLDER = tempfile.TemporaryDirectory()
_SDK_SHOP = three_formats(Path(_SDK_FOLDER.name))

TestSingerSuiteRecords = get_tap_test_class(TapFiles, config=_SDK_SHOP.config | {"wire": "records"})
# BATCH messages carry no records for the stream tests to look at.
TestSingerSuiteLake = get_tap_test_class(
    TapFiles, config=_SDK_SHOP.config, include_stream_tests=False, include_stream_attribute_tests=False
)


def command(shop: Shop, *arguments: str, **config: Any) -> subprocess.CompletedProcess[str]:
    file = shop.data.parent / "config.json"
    file.write_text(json.dumps(shop.config | config))
    return subprocess.run([TAP, "--config", str(file), *arguments], capture_output=True, text=True, check=False)


# What lands in the lake


def test_a_csv_file_becomes_one_batch_of_text_with_its_lines(tmp_path):
    shop = Shop(tmp_path, name="shop-orders", path="orders/*.csv", keys=["id"])
    shop.put("orders/1.csv", b'\xef\xbb\xbfid,note\r\n1,"a ""b"",\r\nc"\r\n\r\n2,\r\n3,""\r\n')
    before = datetime.now(UTC)
    run = shop.run()
    rows = shop.rows()
    assert shop.data_rows() == [
        {"id": "1", "note": 'a "b",\r\nc'},
        {"id": "2", "note": None},
        {"id": "3", "note": ""},
    ]
    assert [row["_sdc_line_number"] for row in rows] == [1, 2, 3]
    assert {row["_sdc_source_file"] for row in rows} == {"orders/1.csv"}
    assert {row["_sdc_operation"] for row in rows} == {"upsert"}
    assert [row["_sdc_row_hash"] for row in rows] == [row_hash(row) for row in shop.data_rows()]
    assert all(before <= row["_sdc_extracted_at"] <= datetime.now(UTC) for row in rows)
    assert {row["_sdc_sequence"] for row in rows} == {shop.batches[0].load_id}
    assert run.files == [shop.batches[0].file]
    assert run.of_type("BATCH")[0]["encoding"] == {"format": "parquet", "compression": "zstd"}
    assert run.state == {"bookmarks": {"shop-orders": {"load_id": shop.batches[0].load_id}}}


def test_equal_lines_are_numbered(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a,b\n1,x\n2,y\n1,x\n1,x\n")
    shop.run()
    assert [(row["a"], row["_sdc_occurrence"]) for row in shop.rows()] == [("1", 1), ("2", 1), ("1", 2), ("1", 3)]


def test_a_long_file_keeps_its_order_numbers_and_bad_records(tmp_path):
    """Several row groups, read by two threads; a leap day is looked at twice and stays."""
    shop = Shop(tmp_path, keys=["id"], columns={"id": "integer", "day": "date"})
    bad, leap, count = {100_000: "soon", 250_000: "never"}, 200_000, 300_000
    days = {leap: "2024-02-29"} | bad
    shop.put("1.csv", "id,day\n" + "".join(f"{n},{days.get(n, '2026-07-01')}\n" for n in range(1, count + 1)))
    shop.run()
    file = shop.batches[0].file
    (found,) = duckdb.execute(
        "select count(*), count(*) filter (cast(id as integer) = _sdc_line_number and _sdc_line_number > before),"
        " count(*) filter (day = '2024-02-29')"
        f" from (select *, lag(_sdc_line_number, 1, 0) over () as before from '{file}')"
    ).fetchall()
    assert found == (count - 2, count - 2, 1)
    assert [(row["line_number"], row["reason"]) for row in shop.quarantine()] == [
        (number, "day is not a date") for number in bad
    ]
    shop.assert_counted()


def test_equal_lines_are_found_however_many_lines_there_are(tmp_path, monkeypatch):
    """Fingerprints are compared in parts; equal ones are in the same part."""
    monkeypatch.setattr(file_versions, "_COMPARED_AT_ONCE", 64)
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n" + "".join(f"{n}\n" for n in (*range(1000), 7)))
    shop.run()
    assert [(row["a"], row["_sdc_line_number"]) for row in shop.rows() if row["_sdc_occurrence"] == 2] == [("7", 1001)]


@pytest.mark.parametrize("content", ["a,b\n1,x\n1,x\n", 'a,b\n1, "x"\n', "a,b\n1,x\n"])
def test_a_new_file_is_hashed_once_also_when_it_takes_more_than_one_pass(tmp_path, monkeypatch, content):
    """Equal records, bytes that DuckDB would read otherwise, and neither."""
    hashed = []
    monkeypatch.setattr(files, "sha256_of", lambda path, *more: hashed.append(path) or sha256_of(path, *more))
    shop = Shop(tmp_path)
    path = shop.put("1.csv", content)
    assert shop.run().faults == []
    assert hashed == [path]
    assert shop.batches[0].origin["sha256"] == hashlib.sha256(content.encode()).hexdigest()


def test_what_ends_the_taking_up_of_a_file_does_not_wait_until_the_file_is_read(tmp_path, monkeypatch):
    given_up = []

    def watch(module, name):
        step = getattr(module, name)

        def watched(*args):
            try:
                return step(*args)
            except CancelledError:
                given_up.append(name)
                raise

        monkeypatch.setattr(module, name, watched)

    def end(*_):
        raise SystemExit(1)  # As the tap does at a signal.

    watch(files, "sha256_of")
    watch(file_reading, "_shape")
    monkeypatch.setattr(files, "write_at_once", end)
    shop = Shop(tmp_path)
    os.truncate(shop.put("1.csv", "a,b\n1,x\n"), 4 << 30)  # A hole, which takes seconds to read and no room.
    with pytest.raises(SystemExit):
        shop.run()
    assert sorted(given_up) == ["_shape", "sha256_of"]
    assert shop.batches == []


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_compression_goes_by_the_ending(tmp_path, ending):
    content = b"a,b\n1,x\n2,y\n"
    packed = {
        "": content,
        ".gz": gzip.compress(content[:8]) + gzip.compress(content[8:]),
        ".zst": pa.Codec("zstd").compress(content).to_pybytes(),
    }
    shop = Shop(tmp_path)
    shop.put(f"1.csv{ending}", packed[ending])
    shop.run()
    assert shop.data_rows() == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


def test_json_values_are_kept_as_written(tmp_path):
    shop = Shop(tmp_path, format="jsonl")
    shop.put(
        "1.jsonl",
        '{"id": 1, "n": 1.10, "big": 12345678901234567890123.10, "e": 1e5, "b": true, "z": null, "s": "\\u00e9\\n"}\n'
        '\n{"id": 2, "n": 2.5, "nested": {"x": [1, 2.00], "y": "{"}}\r\n{"id": -0, "n": 0.00001, "s": "1.10,"}',
    )
    shop.run()
    rows = [{name: value for name, value in row.items() if value is not None} for row in shop.data_rows()]
    assert rows == [
        {"id": "1", "n": "1.10", "big": "12345678901234567890123.10", "e": "1e5", "b": "true", "s": "é\n"},
        {"id": "2", "n": "2.5", "nested": '{"x": [1, 2.00], "y": "{"}'},
        {"id": "-0", "n": "0.00001", "s": "1.10,"},
    ]
    assert [row["_sdc_line_number"] for row in shop.rows()] == [1, 2, 3]


def test_parquet_values_become_text_and_times_iso_utc(tmp_path):
    shop = Shop(tmp_path, format="parquet")
    path = shop.put("1.parquet", "")
    duckdb.execute(
        "copy (select 1::bigint as i, 1.10::decimal(18, 4) as d, 0.1::double as f, true as b, date '2026-07-01' as day,"
        " timestamptz '2026-07-01 12:00:00.5+02:00' as z, timestamp '2026-07-01 12:00:00' as t,"
        f" [1, 2] as l, {{'x': 1.25}} as s, null::integer as n, 'é' as u) to '{path}'"
    )
    shop.run()
    assert shop.data_rows() == [
        {
            "i": "1",
            "d": "1.1000",
            "f": "0.1",
            "b": "true",
            "day": "2026-07-01",
            "z": "2026-07-01T10:00:00.500000Z",
            "t": "2026-07-01T12:00:00.000000",
            "l": "[1,2]",
            "s": '{"x":1.25}',
            "n": None,
            "u": "é",
        }
    ]


def test_latin_1_is_a_setting(tmp_path):
    shop = Shop(tmp_path, encoding="latin-1")
    shop.put("1.csv", "a,b\n1,café\n".encode("latin-1"))
    shop.run()
    assert shop.data_rows() == [{"a": "1", "b": "café"}]


def test_a_soft_delete_column_makes_delete_rows(tmp_path):
    shop = Shop(tmp_path, keys=["id"], deleted_at="deleted_at")
    shop.put("1.csv", "id,deleted_at\n1,\n2,2026-07-01T12:00:00+02:00\n3,01/07/2026 09:00\n")
    shop.run()
    assert [(row["_sdc_operation"], row["_sdc_deleted_at"]) for row in shop.rows()] == [
        ("upsert", None),
        ("delete", datetime(2026, 7, 1, 10, tzinfo=UTC)),
        ("delete", datetime(2026, 7, 1, 9, tzinfo=UTC)),
    ]


def test_a_file_without_records_is_a_batch_without_rows(tmp_path):
    shop = Shop(tmp_path, keys=["a"])
    shop.put("1.csv", "a,b")
    run = shop.run()
    assert (run.faults, len(run.files), shop.rows()) == ([], 1, [])
    assert shop.run(run.state).files == []


# What is sent again, and what is not


def test_what_was_taken_up_is_not_taken_up_again(tmp_path):
    shop = Shop(tmp_path)
    path = shop.put("1.csv", "a,b\n1,x\n")
    state = shop.run().state
    assert shop.run(state).files == []
    os.utime(path, (1, 1))  # Touched: the content decides.
    assert shop.run(state).files == []
    assert len(shop.batches) == 1


def test_without_its_state_the_tap_sends_the_same_batches_again(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    shop.put("2.csv", "a\n2\n")
    first = shop.run()
    again = shop.run()
    assert again.files == first.files and len(first.files) == 2
    half = {"bookmarks": {"files-lines": {"load_id": shop.batches[0].load_id}}}
    assert shop.run(half).files == first.files[1:]


def test_without_its_lake_the_tap_makes_batches_with_the_same_ids(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    shop.run()
    shop.put("1.csv", "a\n2\n")
    shop.run()
    ids = [batch.batch_id for batch in shop.batches]
    shutil.rmtree(shop.lake.root)
    shop.put("1.csv", "a\n1\n")
    shop.run()
    shop.put("1.csv", "a\n2\n")
    shop.run()
    assert [batch.batch_id for batch in shop.batches] == ids and len(set(ids)) == 2


def test_a_file_of_other_content_is_another_batch(tmp_path):
    ids = set()
    for content in ("a\n1\n", "a\n2\n", "a\n1\n"):
        shop = Shop(tmp_path / str(len(ids)))
        path = shop.put("1.csv", content)
        shop.run()
        (batch,) = shop.batches
        assert batch.origin["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        ids.add(batch.batch_id)
        shutil.rmtree(shop.lake.root)
    assert len(ids) == 2


def test_a_new_file_with_what_a_changed_one_had_is_no_copy(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    state = shop.run().state
    shop.put("1.csv", "a\n2\n")
    shop.put("2.csv", "a\n1\n")
    shop.run(state)
    assert shop.current("1.csv") == {(("a", "2"),): 1}
    assert shop.current("2.csv") == {(("a", "1"),): 1}


def test_identical_content_under_another_name_is_skipped_and_reported(tmp_path, caplog):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    shop.put("2.csv", "a\n1\n")
    with caplog.at_level(logging.INFO):
        run = shop.run()
    assert shop.data_rows() == [{"a": "1"}]
    assert [batch.origin.get("same_as") for batch in shop.batches] == [None, "1.csv"]
    assert len(run.files) == 2 and shop.batches[1].rows_extracted == 0
    assert "2.csv: skipped, the same content as 1.csv" in caplog.text
    assert "files-lines: 2 files: 1 taken up, 1 skipped as identical to others" in caplog.text
    assert shop.run(run.state).files == []
    # It stays a copy when the first file grows: else its row would be there twice.
    shop.put("1.csv", "a\n1\n9\n")
    run = shop.run(run.state)
    assert len(run.files) == 1
    assert shop.current("1.csv") == {(("a", "1"),): 1, (("a", "9"),): 1} and not shop.current("2.csv")
    # A third file with the copy's content is no copy of anything loaded; a changed copy is a file by itself.
    shop.put("3.csv", "a\n1\n")
    shop.put("2.csv", "a\n2\n")
    shop.run(run.state)
    assert shop.current("3.csv") == {(("a", "1"),): 1}
    assert shop.current("2.csv") == {(("a", "2"),): 1}
    shop.assert_counted()


def test_a_vanished_file_keeps_its_rows(tmp_path):
    shop = Shop(tmp_path)
    path = shop.put("1.csv", "a\n1\n")
    shop.put("2.csv", "a\n2\n")
    state = shop.run().state
    path.unlink()
    assert shop.run(state).files == []
    assert shop.current("1.csv") == {(("a", "1"),): 1}


def test_a_second_tap_on_the_same_stream_is_refused(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    with shop.lake.lock(shop.stream):
        run = shop.run()
    assert run.files == [] and "another process is writing" in run.faults[0]
    assert len(shop.run().files) == 1


def test_what_a_killed_run_left_is_removed(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    shop.run()
    leftover = shop.batches[0].file.with_name("1.parquet")
    leftover.write_bytes(b"half")
    (shop.lake.root / ".tmp-tap-files" / "files-lines").mkdir(parents=True)
    shop.run()
    assert not leftover.exists()
    assert not list((shop.lake.root / ".tmp-tap-files").iterdir())


# Catalog and schema


def test_the_schema_knows_the_columns_of_list_files_and_lake(tmp_path):
    shop = Shop(tmp_path, keys=["a"], required=["b"])
    path = shop.put("1.csv", "a,b,old\n1,x,y\n")
    state = shop.run().state
    path.unlink()
    shop.put("2.csv", "a,b,new\n1,x,y\n")
    schema = shop.run(state).of_type("SCHEMA")[0]
    assert schema["key_properties"] == ["a"]
    assert schema["schema"]["properties"] == {
        "a": {"type": ["string"]},
        "b": {"type": ["string", "null"]},
        "old": {"type": ["string", "null"]},
        "new": {"type": ["string", "null"]},
    }


def test_a_known_file_is_not_opened_and_the_manifest_not_read_again_for_each_file(tmp_path, monkeypatch):
    shop = Shop(tmp_path)
    for number in range(5):
        shop.put(f"{number}.csv", f"a\n{number}\n")
    reads = []
    manifest = Lake.manifest
    monkeypatch.setattr(Lake, "manifest", lambda lake, stream: reads.append(stream) or manifest(lake, stream))
    state = shop.run().state
    # For the schema, for the batches, and when leftovers of a crash are looked for: whatever the number of files.
    assert len(reads) <= 4
    opened = []
    monkeypatch.setattr(files, "header_columns", lambda path, *_, **__: opened.append(path.name) or [])
    shop.put("5.csv", "a\n5\n")
    assert len(shop.run(state).files) == 1 and opened == ["5.csv"]


def test_a_stream_without_files_is_a_warning(tmp_path, caplog):
    streams = [{"name": name, "path": f"{name}/*", "format": "csv"} for name in ("files-lines", "files-others")]
    shop = Shop(tmp_path, streams=streams)
    shop.put("files-lines/1.csv", "a\n1\n")
    run = shop.run()
    assert run.faults == [] and [each["stream"] for each in run.of_type("SCHEMA")] == ["files-lines"]
    assert "no file matches files-others/*" in caplog.text


def test_a_shop_without_any_file_is_an_error_until_it_had_one(tmp_path):
    streams = [{"name": name, "path": f"{name}/*", "format": "csv"} for name in ("files-lines", "files-others")]
    shop = Shop(tmp_path, streams=streams)
    done = command(shop)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    assert f"{shop.data}: no file matches any stream of the shop (files-lines/*, files-others/*)" in done.stderr
    path = shop.put("files-lines/1.csv", "a\n1\n")
    state = shop.run().state
    path.unlink()
    assert shop.run(state).files == []


def test_a_lake_that_is_gone_or_older_than_the_state_is_a_fault(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    shop.run()
    shutil.copytree(shop.lake.root, tmp_path / "older")
    shop.put("2.csv", "a\n2\n")
    state = shop.run().state
    for lake in ("older", "nothing"):
        run = shop.run(state, lake_path=str(tmp_path / lake))
        assert run.files == []
        (fault,) = run.faults
        assert f"the lake at {tmp_path / lake} is missing or older than the state" in fault
    assert shop.run(state).faults == []


@pytest.mark.parametrize("place", ["file", "/dev/null"])
def test_a_lake_that_cannot_be_is_one_clear_line(tmp_path, place):
    shop = Shop(tmp_path)
    shop.put("1.csv", "a\n1\n")
    (tmp_path / "file").touch()
    done = command(shop, lake_path=str(tmp_path / place / "lake"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot make this folder (Not a directory); set WAREHOUSE_HOME" in done.stderr


def test_the_catalog_selects_streams_and_columns(tmp_path):
    shop = Shop(tmp_path, keys=["id"])
    shop.put("1.csv", "id,name,secret\n1,A,x\n")
    catalog = TapFiles(config=shop.config).catalog_dict
    for entry in catalog["streams"][0]["metadata"]:
        if entry["breadcrumb"] == ["properties", "secret"]:
            entry["metadata"]["selected"] = False
    run = shop.run(catalog=catalog)
    assert shop.data_rows() == [{"id": "1", "name": "A"}]
    assert "secret" not in run.of_type("SCHEMA")[0]["schema"]["properties"]
    for entry in catalog["streams"][0]["metadata"]:
        if entry["breadcrumb"] == []:
            entry["metadata"]["selected"] = False
    assert shop.run(catalog=catalog).of_type("SCHEMA") == []


# RECORD messages


def records(run: Run, stream: str) -> list[dict[str, Any]]:
    return [message["record"] for message in run.of_type("RECORD") if message["stream"] == stream]


def test_with_wire_records_every_record_is_a_message(tmp_path):
    shop = three_formats(tmp_path)
    run = shop.run(wire="records")
    assert records(run, "shop-orders") == [
        {"order_id": "1", "ordered_at": "2026-07-01T10:00:00Z", "note": "first"},
        {"order_id": "2", "ordered_at": "01/07/2026 10:05", "note": None},
        {"order_id": "3", "ordered_at": "1751364000", "note": "third"},
    ]
    assert [record["age"] for record in records(run, "crm-users")] == [None, "1.50"]
    assert len(records(run, "web-events")) == 5
    assert not shop.lake.root.exists()


def test_with_wire_records_a_malformed_record_is_a_fault(tmp_path):
    shop = Shop(tmp_path, keys=["id"])
    shop.put("1.csv", "id,b\n1,x\n2\n")
    shop.put("2.csv", "id,b\n5,x\n")
    run = shop.run(wire="records")
    assert "1.csv: 1 malformed records, the first is record 2: 1 fields instead of 2" in run.faults[0]
    assert records(run, "files-lines") == [{"id": "5", "b": "x"}]


# The command


def test_the_command_fails_at_its_end_and_sends_the_good_files(tmp_path):
    shop = Shop(tmp_path, keys=["id"])
    shop.put("1.csv", "other\n1\n")
    shop.put("2.csv", "id\n1\n")
    done = command(shop)
    assert done.returncode == 1
    assert sum('"BATCH"' in line for line in done.stdout.splitlines()) == 1
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert len(errors) == 2
    assert "stream files-lines: 1.csv: column id is missing; found 'other'" in errors[0]
    assert "1 files or streams could not be taken up" in errors[1]
    assert "Traceback" not in done.stderr


def test_discover_and_about_work(tmp_path):
    shop = three_formats(tmp_path)
    discovered = command(shop, "--discover")
    assert discovered.returncode == 0, discovered.stderr
    assert [stream["stream"] for stream in json.loads(discovered.stdout)["streams"]] == [
        "crm-users",
        "shop-orders",
        "web-events",
    ]
    about = command(shop, "--about", "--format=json")
    assert about.returncode == 0 and json.loads(about.stdout)["name"] == "tap-files"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data_path", "no such data folder"),
        ("streams_file", "no such list of streams"),
    ],
)
def test_a_missing_place_is_one_clear_line(tmp_path, setting, message):
    shop = Shop(tmp_path)
    done = command(shop, **{setting: str(tmp_path / "nowhere")})
    assert done.returncode == 1
    assert message in done.stderr and str(tmp_path / "nowhere") in done.stderr
    assert len(done.stderr.splitlines()) <= 3 and "Traceback" not in done.stderr


def test_a_missing_data_folder_is_a_user_error(tmp_path):
    shop = Shop(tmp_path)
    with pytest.raises(UserError, match="no such data folder"):
        shop.run(data_path=str(tmp_path / "nowhere"))
