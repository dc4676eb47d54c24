"""Bad files: each is named with its fault, or its bad records are quarantined and counted; nothing is lost silently."""

from __future__ import annotations

import csv
import ctypes
import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion.lake import row_hash
from ingestion.taps import file_reading, files
from tests.integration.tap_files_runs import Shop

GOOD = "id,name\n90,good\n"


def faulty(shop: Shop, name: str, content: bytes | str, wanted: str) -> None:
    """The file loads nothing and is named with what is wrong; the good file beside it is loaded."""
    shop.put(name, content)
    shop.put("good.csv", GOOD)
    run = shop.run()
    assert len(run.faults) == 1
    assert run.faults[0].startswith(f"stream files-lines: {name}: ")
    assert wanted in run.faults[0]
    assert "\n" not in run.faults[0]
    assert shop.data_rows() == [{"id": "90", "name": "good"}]
    # It stays faulty until mended, and does no harm.
    assert len(shop.run(run.state).faults) == 1
    shop.put(name, "id,name\n1,mended\n")
    assert len(shop.data_rows()) == 1


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path, keys=["id"], required=["name"], path="*.csv*")


LONG = b"id,name\n" + b"".join(b"%d,some name %d\n" % (i, i * i) for i in range(50_000))


def test_truncated_gzip(shop):
    packed = gzip.compress(LONG)
    faulty(shop, "1.csv.gz", packed[: len(packed) // 2], "truncated or damaged")


def test_gzip_without_its_last_bytes(shop):
    faulty(shop, "1.csv.gz", gzip.compress(LONG)[:-4], "truncated or damaged")


def test_gzip_with_a_wrong_checksum(shop):
    packed = bytearray(gzip.compress(LONG))
    packed[-6] ^= 255
    faulty(shop, "1.csv.gz", bytes(packed), "truncated or damaged")


def test_truncated_zstd(shop):
    packed = pa.Codec("zstd").compress(LONG).to_pybytes()
    faulty(shop, "1.csv.zst", packed[: len(packed) // 2], "truncated or damaged")


def test_something_else_named_gz(shop):
    faulty(shop, "1.csv.gz", b"id,name\n1,x\n", "truncated or damaged")


def _forgo_what_root_may() -> None:
    """In a new process, as root: no CAP_DAC_OVERRIDE, no CAP_DAC_READ_SEARCH; for others this changes nothing."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_file_that_this_user_may_not_read(shop, tmp_path):
    shop.put("1.csv", GOOD).chmod(0)
    shop.put("good.csv", GOOD)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(shop.config))
    program = [str(Path(sys.executable).with_name("tap-files")), "--config", str(config)]
    done = subprocess.run(program, text=True, capture_output=True, preexec_fn=_forgo_what_root_may)
    assert done.returncode == 1
    line = "stream files-lines: 1.csv: not readable: Permission denied; put it back, or let this user read it"
    assert line in done.stderr and "Traceback" not in done.stderr
    assert shop.data_rows() == [{"id": "90", "name": "good"}]


def test_wrong_delimiter(shop):
    faulty(shop, "1.csv", "id;name;more\n1;x;y\n", "found 'id;name;more'; it looks delimited by ';', not ','")


def test_missing_column(shop):
    faulty(shop, "1.csv", "id,nome\n1,x\n", "column name is missing; found 'id', 'nome'")


def test_column_twice(shop):
    faulty(shop, "1.csv", "id,name,Name\n1,x,y\n", "column Name, name occurs twice")


def test_column_without_name(shop):
    faulty(shop, "1.csv", "id,name,\n1,x,y\n", "a column has no name: number 3 of 3")


@pytest.mark.parametrize("header", ["id,name,", "id,name,extra,Extra", "id,extra", "id,name,extra,_sdc_x"])
def test_a_refused_file_gives_the_stream_no_columns(shop, header):
    shop.put("1.csv", header + "\n")
    shop.put("good.csv", GOOD)
    run = shop.run()
    assert len(run.faults) == 1
    assert set(run.of_type("SCHEMA")[0]["schema"]["properties"]) == {"id", "name"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_names_that_differ_by_case_only_are_one_column(tmp_path, kind):
    """The list's spelling counts, then the first file's; equal content hashes as equal."""
    shop = Shop(tmp_path, keys=["id"], format=kind)

    def put(file: str, **record: str) -> None:
        if kind == "csv":
            shop.put(file, ",".join(record) + "\n" + ",".join(record.values()) + "\n")
        elif kind == "jsonl":
            shop.put(file, json.dumps(record) + "\n")
        else:
            pq.write_table(pa.table({name: [value] for name, value in record.items()}), shop.put(file, ""))

    put("1", ID="1", Note="x")
    put("2", Id="2", note="y")
    state = shop.run().state
    put("3", iD="3", NOTE="z")
    put("1", id="1", note="x", More="m")
    run = shop.run(state)
    assert run.faults == []
    assert list(run.of_type("SCHEMA")[0]["schema"]["properties"]) == ["id", "Note", "More"]
    assert [set(batch.columns) for batch in shop.batches] == [
        {"id", "Note"},
        {"id", "Note"},
        {"id", "Note", "More"},
        {"id", "Note"},
    ]
    expected = [{"id": "1", "Note": "x"}, {"id": "2", "Note": "y"}, {"id": "1", "Note": "x", "More": "m"}]
    expected += [{"id": "1", "Note": "x"}, {"id": "3", "Note": "z"}]
    rows = sorted(shop.rows(), key=lambda row: (row["_sdc_load_id"], row["_sdc_operation"] == "withdraw"))
    assert [row["_sdc_row_hash"] for row in rows] == [row_hash(record) for record in expected]
    put("2", ID="2", NOTE="y")
    again = shop.run(run.state)
    assert len(again.files) == 1 and shop.batches[-1].rows_loaded == 0


def test_reserved_column(shop):
    faulty(shop, "1.csv", "id,name,_sdc_operation\n1,x,y\n", "_sdc_operation")


def test_empty_file(shop):
    faulty(shop, "1.csv", "", "the file is empty (0 bytes)")


def test_compressed_nothing(shop):
    faulty(shop, "1.csv.gz", gzip.compress(b""), "no header line")


def test_a_directory_of_nuls(shop):
    faulty(shop, "1.csv", b"\0" * 1000, "header line")


def test_unreadable_parquet(tmp_path):
    shop = Shop(tmp_path, format="parquet", path="*")
    shop.put("1.parquet", b"PAR1" + b"garbage" * 100)
    assert "not readable as parquet" in shop.run().faults[0]
    assert shop.batches == []


def test_unreadable_jsonl_loads_nothing_and_keeps_its_lines(tmp_path):
    shop = Shop(tmp_path, format="jsonl", path="*", keys=["id"])
    shop.put("1.jsonl", b"\x00\x01\xff" * 100 + b"\nnot json\n")
    assert shop.run().faults == []
    assert [row["reason"] for row in shop.quarantine()] == ["NUL byte at byte 1", "not JSON"]
    shop.assert_counted()


def test_extra_columns_are_taken_up(shop):
    shop.put("1.csv", "id,name\n1,x\n")
    shop.put("2.csv", "id,more,name\n2,m,y\n")
    assert shop.run().faults == []
    assert shop.data_rows() == [
        {"id": "1", "name": "x", "more": None},
        {"id": "2", "name": "y", "more": "m"},
    ]


def quarantined(shop: Shop) -> list[tuple[int, str, object]]:
    return [(row["line_number"], row["reason"], json.loads(row["payload"])) for row in shop.quarantine()]


def test_nul_bytes_go_to_quarantine(shop):
    shop.put("1.csv", b"id,name\n1,a\n2,b\0c\n3,d\n")
    assert shop.run().faults == []
    assert quarantined(shop) == [(2, "NUL byte at byte 4", {"line": "2,b\0c"})]
    assert [(row["id"], row["_sdc_line_number"]) for row in shop.rows()] == [("1", 1), ("3", 3)]
    shop.assert_counted()
    assert shop.batches[0].rows_extracted == 3


def test_latin_1_text_goes_to_quarantine_with_its_bytes(shop):
    shop.put("1.csv", "id,name\n1,ok é\n".encode() + "2,café\n".encode("latin-1"))
    shop.run()
    assert quarantined(shop) == [(2, "byte 0xe9 at byte 6 is not in the stream's encoding", {"line": "2,caf\\xe9"})]
    assert shop.data_rows() == [{"id": "1", "name": "ok é"}]
    shop.assert_counted()


def test_wrong_field_counts_go_to_quarantine(shop):
    shop.put("1.csv", 'id,name\n1,a\n2\n3,b,c\n4,"d\nd"\n5,"x",y\n6,e\n')
    shop.run()
    assert quarantined(shop) == [
        (2, "1 fields instead of 2", {"line": "2"}),
        (3, "3 fields instead of 2", {"line": "3,b,c"}),
        (5, "3 fields instead of 2", {"line": '5,"x",y'}),
    ]
    assert [(row["id"], row["name"], row["_sdc_line_number"]) for row in shop.rows()] == [
        ("1", "a", 1),
        ("4", "d\nd", 4),
        ("6", "e", 6),
    ]
    shop.assert_counted()


def test_a_stray_quote_costs_its_own_line_only(shop):
    shop.put("1.csv", 'id,name\n1,a\n2,"open\n3,b\n4,"c"\n5,"d"e\n6,f\n')
    shop.run()
    assert [(line, payload) for line, _, payload in quarantined(shop)] == [
        (2, {"line": '2,"open'}),
        (5, {"line": '5,"d"e'}),
    ]
    assert [row["id"] for row in shop.data_rows()] == ["1", "3", "4", "6"]
    shop.assert_counted()


def test_an_over_long_line_goes_to_quarantine_shortened(shop):
    line = b"2," + b"x" * 5000
    shop.put("1.csv", b"id,name\n1,a\n" + line + b"\n3,b\n")
    shop.run(max_line_bytes=1000)
    (number, reason, payload) = quarantined(shop)[0]
    assert (number, reason) == (2, "line of 5002 bytes is longer than max_line_bytes (1000)")
    assert payload == {
        "line": line[:1000].decode(),
        "truncated_from_bytes": 5002,
        "sha256": hashlib.sha256(line).hexdigest(),
    }
    assert [row["_sdc_line_number"] for row in shop.rows()] == [1, 3]
    shop.assert_counted()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "quoted",
    [
        "Nice shop, quick\nwould buy again, 5 stars\n",
        'some words, and "quotes" \n second line,with,commas\n"third" ',
    ],
)
@pytest.mark.parametrize("is_broken", [False, True])
def test_quoted_line_ends_wherever_a_part_of_the_file_ends(shop, monkeypatch, seed, quoted, is_broken):
    """DuckDB's threads guess where records begin; texts that look like records must not deceive them.

    Nor must a valid file that deceives them be sifted line by line, which is many times slower.
    """
    monkeypatch.setattr(file_reading, "_BUFFER_BYTES", 1)
    sifted = []
    sift = file_reading._Sift.csv
    monkeypatch.setattr(file_reading._Sift, "csv", lambda self, header: sifted.append(1) or sift(self, header))
    chance = random.Random(seed)
    rows = [
        {"id": str(number), "name": (quoted if chance.random() < 0.3 else "plain words, ") * chance.randrange(1, 6)}
        for number in range(2000)
    ]
    content = io.StringIO()
    writer = csv.DictWriter(content, ["id", "name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if is_broken:
        content.write("2000,one,too many\n")
    shop.put("1.csv", content.getvalue())
    assert shop.run(max_line_bytes=5000).faults == []
    assert shop.data_rows() == rows
    assert (len(sifted), len(quarantined(shop))) == ((1, 1) if is_broken else (0, 0))


def test_a_text_of_lines_that_look_like_records_does_not_move_the_border_of_a_part(shop, monkeypatch):
    """Of such a file DuckDB's threads read other records than there are, and say nothing."""
    monkeypatch.setattr(file_reading, "_BUFFER_BYTES", 1)
    limit = 2000
    part = 2 * (limit + 32)  # The size of a buffer.
    rows = []
    for number, before in enumerate(range(1, 60, 2), start=100):
        records = [(f"{number}{row:05}", "plain", "p" * 40) for row in range(part // 60 - 1)]
        start = len("id,name,c\n") + sum(len(",".join(record)) + 1 for record in records)
        records += [
            (f"{number}80000", "plain", "p" * (part - start - before - 16)),
            (f"{number}90042", None, "1,2\n1,2\n1,2\n"),
            (f"{number}90043", "plain", None),
            (f"{number}90044", "plain", "plain"),
            (f"{number}90045", "plain", ",,longer words of text longer words of text "),
            (f"{number}90046", "plain", "x"),
        ]
        content = io.StringIO()
        csv.writer(content, lineterminator="\n").writerows([("id", "name", "c"), *records])
        assert abs(content.getvalue().index('"1,2') - part) < 90
        shop.put(f"{number}.csv", content.getvalue())
        rows += [dict(zip(("id", "name", "c"), record, strict=True)) for record in records]
    assert shop.run(max_line_bytes=limit).faults == []
    assert sorted(shop.data_rows(), key=lambda row: row["id"]) == rows


@pytest.mark.parametrize("buffer", [1, file_reading._BUFFER_BYTES])
@pytest.mark.parametrize("after", [0, 3, 5000])
def test_a_quote_that_is_never_closed_costs_its_own_line_only(shop, monkeypatch, buffer, after):
    monkeypatch.setattr(file_reading, "_BUFFER_BYTES", buffer)
    lines = [f"{number},name {number}" for number in range(1000 + after)]
    shop.put("1.csv", "\n".join(["id,name", *lines[:1000], '1000000,"open', *lines[1000:]]) + "\n")
    assert shop.run(max_line_bytes=5000).faults == []
    assert [(line, payload) for line, _, payload in quarantined(shop)] == [(1001, {"line": '1000000,"open'})]
    assert [f"{row['id']},{row['name']}" for row in shop.data_rows()] == lines
    shop.assert_counted()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_100_mb_line_is_quarantined_in_bounded_memory(tmp_path, kind):
    shop = Shop(tmp_path, keys=["id"], format=kind)
    rows = {"csv": b"1,a\n%b\n3,b\n", "jsonl": b'{"id": 1}\n%b\n{"id": 3}\n'}[kind]
    line = b"2," + b"x" * 100_000_000
    shop.put("1", (b"id,name\n" if kind == "csv" else b"") + rows % line)
    script = (
        "import json, sys; from pathlib import Path; from ingestion.taps.files import TapFiles\n"
        "TapFiles(config=json.load(sys.stdin)).sync_all()\n"
        "print(next(x for x in Path('/proc/self/status').read_text().splitlines() if 'VmHWM' in x), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(shop.config), text=True, check=True, capture_output=True
    )
    peak_mb = int(done.stderr.splitlines()[-1].split()[1]) // 1024
    assert peak_mb < {"csv": 300, "jsonl": 260}[kind]
    (number, reason, payload) = quarantined(shop)[0]
    assert number == 2 and "line of 100000002 bytes" in reason
    assert payload["sha256"] == hashlib.sha256(line).hexdigest()
    assert [row["id"] for row in shop.data_rows()] == ["1", "3"]
    shop.assert_counted()


def test_broken_rules_go_to_quarantine_with_the_record(tmp_path):
    shop = Shop(tmp_path, keys=["id"], columns={"id": "integer", "price": "decimal", "at": "timestamp"})
    shop.put("1.csv", "id,price,at\n1,1.10,2026-07-01\n,2,\n3,dear,\n4,,soon\n5,,\n")
    shop.run()
    assert [(row["reason"], row["column_name"], row["line_number"]) for row in shop.quarantine()] == [
        ("key id is missing", "id", 2),
        ("price is not a decimal", "price", 3),
        ("at is not a timestamp", "at", 4),
    ]
    assert quarantined(shop)[1][2] == {"id": "3", "price": "dear", "at": None}
    assert {row["source_file"] for row in shop.quarantine()} == {"1.csv"}
    assert [row["id"] for row in shop.data_rows()] == ["1", "5"]
    shop.assert_counted()


def test_bad_json_lines_go_to_quarantine(tmp_path):
    lines = [
        '{"id": 1}',
        "[1, 2]",
        '{"id": 2',
        '{"id": 3, "id": 4}',
        '{"id": 5.50, "id": 6}',
        '{"id": "a\\u0000b"}',
        '{"id": "\\ud800"}',
        '{"id": 1.10, "x": "\\ud800"}',
        '{"id": 7.10,}',
        '{"id": 8} x',
        '{"id": 9}',
        '{"id": 10, "\\u0000c": 1}',
        '{"id": 1.10, "\\ud800": 1}',
    ]
    shop = Shop(tmp_path, format="jsonl", keys=["id"])
    shop.put("1.jsonl", "\n".join(lines))
    assert shop.run().faults == []
    assert [row["id"] for row in shop.data_rows()] == ["1", "9"]
    assert [row["line_number"] for row in shop.quarantine()] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13]
    reasons = {row["line_number"]: row["reason"] for row in shop.quarantine()}
    assert reasons[2] == "not a JSON object"
    assert reasons[3] == reasons[9] == reasons[10] == "not JSON"
    assert reasons[4] == reasons[5] == "a key occurs twice in the object"
    assert reasons[12] == "NUL character in a key"
    assert [row["payload"] for row in shop.quarantine()][1] == json.dumps({"line": lines[2]}, separators=(",", ":"))
    shop.assert_counted()


@pytest.mark.parametrize("moment", ["sha256_of", "view_file"])
def test_a_file_that_vanishes_midway(shop, monkeypatch, moment):
    """The file goes away at the start of a step; the real step then meets the real absence."""
    path = shop.put("1.csv", "id,name\n1,x\n")
    shop.put("good.csv", GOOD)
    step = getattr(files, moment)

    def vanishing(*args, **kwargs):
        path.unlink(missing_ok=True)
        return step(*args, **kwargs)

    monkeypatch.setattr(files, moment, vanishing)
    run = shop.run()
    assert len(run.faults) == 1 and run.faults[0].startswith("stream files-lines: 1.csv: ")
    assert shop.data_rows() == [{"id": "90", "name": "good"}]


def test_a_file_that_grows_midway(shop, monkeypatch):
    path = shop.put("1.csv", "id,name\n1,x\n")
    step = files.write_at_once

    def growing(*args):
        with path.open("a") as file:
            file.write("2,y\n")
        return step(*args)

    monkeypatch.setattr(files, "write_at_once", growing)
    run = shop.run()
    assert "the file changed while it was being read" in run.faults[0]
    assert shop.batches == []
    monkeypatch.undo()
    shop.run()
    assert len(shop.data_rows()) == 2


def test_a_link_to_nothing_is_a_file_that_vanished(shop):
    (shop.data / "1.csv").symlink_to("gone.csv")
    (shop.data / "2.csv").symlink_to("2.csv")
    shop.put("good.csv", GOOD)
    run = shop.run()
    assert [fault.partition(" could")[0] for fault in run.faults] == [
        "stream files-lines: 1.csv: the file vanished before it",
        "stream files-lines: 2.csv: the file vanished before it",
    ]
    assert shop.data_rows() == [{"id": "90", "name": "good"}]
