"""The lake: batches appear whole, once, in order, with ids that never repeat."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.errors import UserError
from ingestion.lake import (
    METADATA_COLUMNS,
    Lake,
    Stream,
    connect,
    first_line,
    identifier,
    read_batch,
    row_groups,
    row_hash,
    row_hash_sql,
)
from ingestion.lake import writer as lake_writer

ORDERS = Stream("shop", "orders")
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


@pytest.fixture
def con(tmp_path):
    with connect(tmp_path / "spill") as connection:
        connection.execute("create table rows as select i::varchar as id, 'x' as status from range(3) as t(i)")
        connection.execute(
            "create table bad as select 'torn' as reason, null::varchar as column_name, '{}' as payload,"
            " 'a.csv' as source_file, 4 as line_number"
        )
        yield connection


def write(lake, con, batch_id="one", **more):
    more = {"rows": "rows", "origin": {}, "extracted_at": NOW} | more
    return lake.write(con, ORDERS, batch_id=batch_id, **more)


# Streams


@pytest.mark.parametrize(
    ("name", "stream"),
    [("shop-orders", ("shop", "orders")), ("orders", ("files", "orders")), ("a-b-c", ("a", "b-c"))],
)
def test_a_stream_name_splits_at_its_first_dash(name, stream):
    parsed = Stream.parse(name)
    assert (parsed.source, parsed.name) == stream
    assert Stream.parse(parsed.id) == parsed
    assert parsed.schema == f"raw_{stream[0]}"


@pytest.mark.parametrize("name", ["", "-", "shop-", "-orders", "..-..", "shop-a/b", "a\0b"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(UserError, match="not a usable name"):
        Stream.parse(name)


# Hashes

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
values = st.none() | st.text(st.sampled_from("\x00a1:") | st.characters(exclude_categories=["Cs"]), max_size=8)
rows = st.dictionaries(names, values, min_size=1, max_size=4).filter(
    lambda row: len({name.lower() for name in row}) == len(row)
)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_sql_and_python_hash_alike(row):
    with duckdb.connect() as con:
        columns = ", ".join(f"${n}::varchar as {identifier(name)}" for n, name in enumerate(row, start=1))
        found = con.execute(f"select {row_hash_sql(list(row))} from (select {columns})", list(row.values())).fetchone()
    assert found == (row_hash(row),)


@settings(max_examples=60, deadline=None)
@given(rows.filter(lambda row: "\0" not in "".join(value or "" for value in row.values())))
def test_texts_without_nul_hash_alike_in_the_shorter_way(row):
    with duckdb.connect() as con:
        columns = ", ".join(f"${n}::varchar as {identifier(name)}" for n, name in enumerate(row, start=1))
        query = f"select {row_hash_sql(list(row), texts=True)} from (select {columns})"
        assert con.execute(query, list(row.values())).fetchall() == [(row_hash(row),)]


@settings(max_examples=300)
@given(rows, rows)
def test_equal_hash_means_equal_content(one, other):
    def content(row):
        return {name: value for name, value in row.items() if value is not None}

    assert (row_hash(one) == row_hash(other)) == (content(one) == content(other))
    assert row_hash(one) == row_hash(dict(reversed(one.items())) | {"absent": None})


# Batches


def test_a_batch_holds_its_rows_with_all_metadata(lake, con):
    batch = write(lake, con, quarantine="bad", rows_dropped=2, origin={"source_file": "a.csv"}, sync_started_at=5)
    assert (batch.rows_extracted, batch.rows_loaded, batch.rows_quarantined, batch.rows_dropped) == (6, 3, 1, 2)
    assert batch.columns == ["id", "status"]
    assert con.execute(f"describe select * from '{batch.file}'").fetchall()[2:] == [
        (name, kind.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"), "YES", None, None, None)
        for name, kind in METADATA_COLUMNS.items()
    ]
    rows = con.execute(
        "select _sdc_extracted_at = timestamptz '2026-01-01 00:00:00Z', _sdc_received_at <= _sdc_batched_at,"
        f" _sdc_sequence, _sdc_sync_started_at, _sdc_load_id, _sdc_operation from '{batch.file}'"
    ).fetchall()
    assert rows == [(True, True, batch.load_id, 5, batch.load_id, "upsert")] * 3
    quarantined = con.execute(f"from '{batch.quarantine_file}'").fetchall()
    assert quarantined == [(f"{batch.load_id}-1", "torn", None, "{}", "a.csv", 4)]


def test_what_the_caller_stamped_stays(lake, con):
    con.execute(
        "create table stamped as select '1' as id, 'delete' as _sdc_operation, 9 as _sdc_sequence, 7 as _sdc_load_id,"
        " 'h' as _sdc_row_hash, 2 as _sdc_occurrence union all by name select '2' as id, 'i' as _sdc_row_hash"
    )
    batch = write(lake, con, rows="stamped")
    found = con.execute(
        "select _sdc_operation, _sdc_sequence, _sdc_row_hash, _sdc_occurrence, _sdc_load_id"
        f" from '{batch.file}' order by id"
    ).fetchall()
    assert found == [("delete", 9, "h", 2, batch.load_id), ("upsert", batch.load_id, "i", None, batch.load_id)]


def test_rows_without_a_hash_are_hashed(lake, con):
    batch = write(lake, con, rows="(select id from rows)")
    found = con.execute(f"select _sdc_row_hash from '{batch.file}' order by id").fetchall()
    assert found == [(row_hash({"id": str(number)}),) for number in range(3)]


def test_manifest_and_file_tell_the_same_batch(lake, con):
    batches = [write(lake, con, "one", quarantine="bad"), write(lake, con, "two", origin={"source_file": "ä.csv"})]
    assert Lake(lake.root).manifest(ORDERS) == batches
    assert [read_batch(batch.file) for batch in batches] == batches
    assert batches[1].origin == {"source_file": "ä.csv"}
    assert batches[0].load_id < batches[1].load_id


def test_a_lake_can_move(lake, con, tmp_path):
    batch = write(lake, con)
    lake.root.rename(tmp_path / "moved")
    (moved,) = Lake(tmp_path / "moved").manifest(ORDERS)
    assert moved.batch_id == batch.batch_id
    assert read_batch(moved.file) == moved


def test_a_file_from_elsewhere_is_no_batch(tmp_path):
    file = tmp_path / "foreign.parquet"
    duckdb.sql("select 1 as id").write_parquet(str(file))
    assert read_batch(file) is None


def test_a_batch_without_rows_keeps_its_quarantine(lake, con):
    con.execute("delete from rows")
    batch = write(lake, con, quarantine="bad")
    assert (batch.rows_loaded, batch.rows_quarantined) == (0, 1)
    assert con.execute(f"select count(*) from '{batch.file}'").fetchone() == (0,)


# Crashes


@pytest.mark.parametrize(("module", "step"), [(row_groups, "sync"), (lake_writer, "append_line")])
def test_a_crash_before_the_manifest_line_leaves_no_batch(lake, con, monkeypatch, module, step):
    first = write(lake, con)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write(lake, con, "two", quarantine="bad")
    again = Lake(lake.root)
    assert again.manifest(ORDERS) == [first]
    second = write(again, con, "two", quarantine="bad")
    assert again.manifest(ORDERS) == [first, second]
    left = {path.name for path in first.file.parent.iterdir() if not path.name.startswith("_")}
    assert left == {first.file.name, second.file.name, second.quarantine_file.name}


def test_a_torn_last_manifest_line_is_ignored_and_cut_off(lake, con):
    first = write(lake, con)
    manifest = first.file.parent / "_manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + whole[:40])
    assert Lake(lake.root).manifest(ORDERS) == [first]
    second = write(Lake(lake.root), con, "two")
    assert Lake(lake.root).manifest(ORDERS) == [first, second]


def test_a_refusing_disk_is_a_user_error_and_leaves_nothing(lake, con, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"stream shop-orders.*No space left"):
        patch.setattr(row_groups, "sync", full)
        write(lake, con)
    assert lake.manifest(ORDERS) == []
    write(lake, con)
    assert len(list((lake.root / ORDERS.folder).glob("*.parquet"))) == 1


# Load ids


def _take(root: Path, number: int) -> list[int]:
    return [Lake(root).next_load_id() for _ in range(number)]


def test_load_ids_never_repeat_across_processes(lake):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = [each for ids in pool.map(_take, [lake.root] * 2, [200] * 2) for each in ids]
    assert len(set(taken)) == 400


def test_a_clock_set_back_does_not_set_load_ids_back(lake, monkeypatch):
    first = lake.next_load_id()
    monkeypatch.setattr(lake_writer.time, "time_ns", lambda: 1_000)
    assert lake.next_load_id() == first + 1


def test_a_lock_nests_and_refuses_another_process(lake):
    with lake.lock(ORDERS), lake.lock(ORDERS):
        other = os.fork()
        if other == 0:
            try:
                with Lake(lake.root).lock(ORDERS):
                    os._exit(1)
            except UserError:
                os._exit(0)
        assert os.waitpid(other, 0)[1] == 0
    with Lake(lake.root).lock(ORDERS):
        pass


def test_an_error_of_the_disk_is_one_line_without_json():
    error = duckdb.IOException(
        'IO Error: Could not write all bytes to file\n\n{"exception_type":"IO","exception_message":"Could not"}'
    )
    assert first_line(error) == "IO Error: Could not write all bytes to file"
    assert first_line(OSError('{"exception_type":"IO"}')) == "OSError"
