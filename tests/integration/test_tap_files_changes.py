"""Changed files: whatever versions a file went through, the lake says exactly what its last version holds."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.tap_files_runs import Shop, content_of

# Few distinct lines, so that versions share and repeat them; None stands for a line with one field too many.
LINES = st.sampled_from(["a,1", "a,2", "b,1", 'b,""', "c,", '"x\ny",3', None])
VERSION = st.tuples(st.booleans(), st.lists(LINES, max_size=8))
RUNS = st.lists(
    st.fixed_dictionaries({}, optional={"1.csv": VERSION, "2.csv": VERSION, "3.csv": VERSION}), min_size=1, max_size=4
)


def written(version: tuple[bool, list[str | None]]) -> str:
    """A version as a file; one with a third column has it empty or the line's place."""
    wide, lines = version
    header = "k,v,w" if wide else "k,v"
    bad = "bad,1,2,3"
    return "".join(f"{line}\n" for line in [header, *(bad if x is None else x + (",w" if wide else "") for x in lines)])


def good_lines(text: str) -> Counter[tuple[tuple[str, str], ...]]:
    """What a version holds, by Python's csv; it cannot tell an empty field from a quoted empty one, so this does."""
    text = text.replace('""', "EMPTY")
    header, *records = csv.reader(io.StringIO(text))
    return Counter(
        content_of(dict(zip(header, (None if x == "" else x.replace("EMPTY", "") for x in record), strict=True)))
        for record in records
        if len(record) == len(header)
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs=RUNS)
def test_the_lake_holds_the_last_version_of_each_file(runs):
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        shop.put("0.csv", "k,v\nz,0\n")
        state = None
        for files in runs:
            for name, version in files.items():
                shop.put(name, written(version))
            before = len(shop.batches)
            run = shop.run(state)
            state = run.state
            assert run.faults == []
            assert len(run.files) == len(shop.batches) - before
            content = {path.name: path.read_text() for path in shop.data.iterdir()}
            latest = {batch.origin["source_file"]: batch for batch in shop.batches}
            assert set(latest) == set(content)
            for name, batch in latest.items():
                if "same_as" in batch.origin:
                    # A copy when it came, and not changed since.
                    assert not shop.current(name) and not shop.waiting(name)
                    continue
                assert shop.current(name) == good_lines(content[name])
                fault = f"4 fields instead of {content[name].partition(chr(10))[0].count(',') + 1}"
                # What is wrong with a line depends on the header's width; what waits is what the file has now.
                assert shop.waiting(name) == +Counter({fault: content[name].count("bad,1,2,3")})
        shop.assert_counted()


def test_a_changed_file_replaces_its_earlier_version_by_multiset_difference(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "k,v\na,1\na,1\nb,2\nc,3\n")
    shop.run()
    shop.put("1.csv", "k,v\nc,3\na,1\nd,4\nd,4\n")
    shop.run()
    batch = shop.batches[1]
    assert (batch.rows_extracted, batch.rows_loaded, batch.rows_quarantined, batch.rows_dropped) == (6, 4, 0, 2)
    assert batch.origin["replaces"] == shop.batches[0].batch_id
    changes = [
        (row["_sdc_operation"], row["k"], row["v"], row["_sdc_occurrence"], row["_sdc_deleted_at"] is not None)
        for row in shop.rows()
        if row["_sdc_load_id"] == batch.load_id
    ]
    assert sorted(changes) == [
        ("upsert", "d", "4", 1, False),
        ("upsert", "d", "4", 2, False),
        ("withdraw", "a", "1", 2, True),
        ("withdraw", "b", "2", 1, True),
    ]
    withdrawn = [row for row in shop.rows() if row["_sdc_operation"] == "withdraw"]
    assert all(row["_sdc_deleted_at"] == row["_sdc_extracted_at"] for row in withdrawn)
    shop.assert_counted()


def test_a_row_that_comes_back_is_there_again(tmp_path):
    shop = Shop(tmp_path)
    for text in ("a,1\nb,2", "b,2", "a,1\nb,2", "a,1"):
        shop.put("1.csv", f"k,v\n{text}\n")
        shop.run()
    assert [(row["_sdc_operation"], row["k"]) for row in shop.rows()] == [
        ("upsert", "a"),
        ("upsert", "b"),
        ("withdraw", "a"),
        ("upsert", "a"),
        ("withdraw", "b"),
    ]
    assert shop.current("1.csv") == {(("k", "a"), ("v", "1")): 1}


def test_a_withdrawn_row_keeps_columns_that_the_file_no_longer_has(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "k,old\na,1\n")
    shop.run()
    shop.put("1.csv", "k,new\na,2\n")
    shop.run()
    assert [(row["_sdc_operation"], row["k"], row["old"], row["new"]) for row in shop.rows()] == [
        ("upsert", "a", "1", None),
        ("upsert", "a", None, "2"),
        ("withdraw", "a", "1", None),
    ]
    assert shop.batches[1].columns == ["k", "new", "old"]


def test_only_new_bad_lines_of_a_changed_file_are_quarantined(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "k,v\nbad\na,1\n")
    shop.run()
    shop.put("1.csv", "k,v\nbad\na,1\nbad\nworse\n")
    shop.run()
    assert [row["payload"] for row in shop.quarantine()] == ['{"line":"bad"}', '{"line":"bad"}', '{"line":"worse"}']
    assert [row["line_number"] for row in shop.quarantine()] == [1, 3, 4]
    batch = shop.batches[1]
    assert (batch.rows_extracted, batch.rows_loaded, batch.rows_quarantined, batch.rows_dropped) == (4, 0, 2, 2)


def test_equal_rows_of_two_files_are_each_file_s_own(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "k\na\n")
    shop.put("2.csv", "k\na\nb\n")
    shop.run()
    shop.put("1.csv", "k\nc\n")
    shop.run()
    assert shop.current("1.csv") == {(("k", "c"),): 1}
    assert shop.current("2.csv") == {(("k", "a"),): 1, (("k", "b"),): 1}


def test_a_soft_deleted_row_is_withdrawn_like_any_other(tmp_path):
    shop = Shop(tmp_path, keys=["k"], deleted_at="d")
    shop.put("1.csv", "k,d\na,2026-07-01\nb,\n")
    shop.run()
    shop.put("1.csv", "k,d\na,\nb,\n")
    shop.run()
    assert [(row["_sdc_operation"], row["k"], row["d"]) for row in shop.rows()] == [
        ("delete", "a", "2026-07-01"),
        ("upsert", "b", None),
        ("upsert", "a", None),
        ("withdraw", "a", "2026-07-01"),
    ]


def test_a_lost_lake_file_is_a_fault_and_not_a_second_copy(tmp_path):
    shop = Shop(tmp_path)
    shop.put("1.csv", "k\na\n")
    shop.run()
    shop.batches[0].file.unlink()
    shop.put("1.csv", "k\na\nb\n")
    run = shop.run({"bookmarks": {"files-lines": {"load_id": shop.batches[0].load_id}}})
    assert "is not in the lake" in run.faults[0]
    assert len(shop.batches) == 1
