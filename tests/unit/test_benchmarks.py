"""The figures of scripts/bench: what is measured is measured, and a limit is judged as it is promised."""

from __future__ import annotations

import os
import sys

import pytest

from benchmarks.measure import Sample, Spread, beyond, ratios, run
from benchmarks.report import Figure, put, table
from benchmarks.rounds import in_turns
from ingestion.errors import UserError

#: Takes 500 MB and 0.3 s. It must be more than the tests' own process has, which its children start from.
HUNGRY = "import time; content = bytearray(500 * 2**20); time.sleep(0.3)"


def measured(command, tmp_path) -> Sample:
    return run(command, tmp_path / "log", os.environ, tmp_path)


def test_time_and_memory_are_those_of_the_whole_tree_of_processes(tmp_path):
    sample = measured(["sh", "-c", f"{sys.executable} -c '{HUNGRY}'; true"], tmp_path)
    assert sample.seconds >= 0.3
    assert 500 < sample.peak_mb < 520


def test_a_command_that_fails_is_no_measurement_and_says_why(tmp_path):
    with pytest.raises(UserError, match=r"exit code 3.*\n.*no such table"):
        measured(["sh", "-c", "echo no such table >&2; exit 3"], tmp_path)


def test_one_run_after_another_adds_up_in_time_and_not_in_memory():
    assert Sample(1, 2, 300) + Sample(10, 20, 100) == Sample(11, 22, 300)


def test_rounds_are_compared_pairwise_so_that_a_slower_machine_cancels_out():
    # The machine was half as fast in the second round and a third as fast in the third.
    assert ratios([10, 20, 30], [5, 10, 15]) == Spread(2, 2, 2)
    assert ratios([12], [8], idle=[2]) == Spread(2, 2, 2)
    assert beyond([4, 9, 5], [3, 6, 3]) == Spread(1, 2, 3)


def test_every_other_round_goes_backwards():
    order = []
    in_turns([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == ["a", "b", "b", "a", "a", "b"]


@pytest.mark.parametrize(
    ("limit", "reached"),
    [
        ({}, None),
        ({"at_least": 1.5}, True),
        ({"at_least": 2.5}, False),
        ({"at_most": 2}, True),
        ({"at_most": 1}, False),
    ],
)
def test_a_limit_is_judged_by_the_median(limit, reached):
    assert Figure("speed", Spread(1, 2, 4), "x", **limit).reached is reached


def test_a_table_lines_up_and_is_markdown():
    assert table(["a", "long"], [["wide", "b"]]) == "| a    | long |\n|------|------|\n| wide | b    |"


def test_a_page_of_results_takes_the_place_of_the_one_it_renews(tmp_path):
    file = tmp_path / "RESULTS.md"
    put(file, "# A\n\nold\n")
    put(file, "# B\n\n## Times\n\n1\n")
    put(file, "# A\n\nnew\n")
    assert file.read_text() == "# A\n\nnew\n\n# B\n\n## Times\n\n1\n"
