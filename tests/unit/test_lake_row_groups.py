"""Parquet files of the lake: row groups are whole whatever comes, and a file is there when it is closed."""

from __future__ import annotations

import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion.lake import row_groups
from ingestion.lake.row_groups import RowGroups


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(row_groups, "ROW_GROUP_ROWS", 10)


def numbers(first, last):
    return pa.record_batch({"n": range(first, last), "helper": [None] * (last - first)})


def groups_of(file):
    metadata = pq.ParquetFile(file).metadata
    return [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]


@pytest.mark.parametrize("sizes", [[25], [3, 3, 3, 16], [10, 10, 5], [24, 1]])
def test_row_groups_are_whole_and_in_order(small_groups, tmp_path, sizes):
    with RowGroups(tmp_path / "a.parquet", pa.schema({"n": pa.int64()})) as groups:
        for size in sizes:
            groups.add(numbers(groups.rows, groups.rows + size))
        groups.close({"what": "numbers"})
    assert groups_of(tmp_path / "a.parquet") == [10, 10, 5]
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.to_pydict() == {"n": list(range(25))}
    assert pq.read_metadata(tmp_path / "a.parquet").metadata[b"what"] == b"numbers"


def test_wide_rows_fill_a_row_group_before_their_number_does(monkeypatch, tmp_path):
    monkeypatch.setattr(row_groups, "ROW_GROUP_BYTES", 8 * 10)
    with RowGroups(tmp_path / "a.parquet", pa.schema({"n": pa.int64()})) as groups:
        for at in range(0, 25, 5):
            groups.add(numbers(at, at + 5))
        groups.close()
    assert groups_of(tmp_path / "a.parquet") == [10, 10, 5]


def test_a_file_without_rows_has_its_columns(tmp_path):
    RowGroups(tmp_path / "a.parquet", pa.schema({"n": pa.int64()})).close()
    assert pq.read_schema(tmp_path / "a.parquet").names == ["n"]


def test_a_file_that_is_not_closed_leaves_nothing(small_groups, tmp_path):
    with RowGroups(tmp_path / "a.parquet", pa.schema({"n": pa.int64()})) as groups:
        groups.add(numbers(0, 25))
        assert [path.name for path in tmp_path.iterdir()] == [".tmp-a.parquet"]
    assert list(tmp_path.iterdir()) == []


def test_only_values_that_repeat_have_a_dictionary(tmp_path):
    rows = pa.record_batch({"id": range(100), "text": map(str, range(100)), "status": ["a", "b"] * 50})
    with RowGroups(tmp_path / "a.parquet", rows.schema) as groups:
        groups.add(rows)
        groups.close()
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    has_dictionary = {group.column(at).path_in_schema: group.column(at).has_dictionary_page for at in range(3)}
    assert has_dictionary == {"id": False, "text": False, "status": True}
    assert "DELTA_BINARY_PACKED" in group.column(0).encodings


def test_texts_in_no_order_have_no_range_that_nobody_could_skip_by(tmp_path):
    texts = {"ordered": ["a", None, "b"], "constant": ["a"] * 3, "shuffled": ["b", "a", "c"]}
    rows = pa.record_batch({"n": [2, 1, 3]} | texts)
    with RowGroups(tmp_path / "a.parquet", rows.schema) as groups:
        groups.add(rows)
        groups.close()
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    has_range = {column.path_in_schema for column in map(group.column, range(4)) if column.is_stats_set}
    assert has_range == {"n", "ordered", "constant"}


@pytest.mark.parametrize("texts", [[], ["a"], [None, None], [None, "a"]])
def test_texts_with_nothing_to_compare_are_in_order(texts):
    assert row_groups._is_sorted(pa.chunked_array([texts], pa.string())) is True


def test_a_row_group_that_cannot_be_written_fails_the_file_and_leaves_nothing(small_groups, tmp_path):
    # The thread that writes it fails after `add` returned.
    schema = pa.schema({"n": pa.int64()})
    for end in (lambda groups: groups.add(numbers(20, 40)), lambda groups: groups.close()):
        with RowGroups(tmp_path / "none" / "a.parquet", schema) as groups, pytest.raises(OSError, match="none"):
            groups.add(numbers(0, 15))
            end(groups)
    assert list(tmp_path.iterdir()) == []


def test_what_a_thread_still_writes_is_gone_when_the_file_is_abandoned(small_groups, tmp_path):
    before = threading.active_count()
    with RowGroups(tmp_path / "a.parquet", pa.schema({"n": pa.int64()})) as groups:
        groups.add(numbers(0, 500))
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before
