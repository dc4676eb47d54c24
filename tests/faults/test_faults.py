"""Seeded faults: each one is put into a copy of a good warehouse, and the suite must notice.

`faults.yml` lists them. A `sql` fault replaces one text in one file of the dbt project; a `data` fault corrupts raw or
the marts. A fault is caught when `dbt build` fails (a test, a contract or a unit test), or, failing that, when the
marts differ from the truth.
Quick size: every sixteenth fault. `--full`: all of them, with a table of what caught which.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
import yaml

from tests.pipeline import ROOT, Pipeline, differences, read_truth

FAULTS = yaml.safe_load((Path(__file__).parent / "faults.yml").read_text())
QUICK = FAULTS[::16]


def plant(fault: dict, pipeline: Pipeline) -> None:
    """Put one fault into the pipeline's copy of the project or of the data."""
    if "sql" in fault:
        file = pipeline.project / fault["sql"]
        text = file.read_text()
        assert text.count(fault["find"]) >= 1, f"{fault['name']}: {fault['find']!r} is not in {fault['sql']}"
        file.write_text(text.replace(fault["find"], fault["replace"], 1))
        return
    database = pipeline.home / fault["database"]
    with duckdb.connect(str(database)) as connection:
        touched = connection.execute(fault["data"]).fetchone()
        assert touched and touched[0] > 0, f"{fault['name']}: the corruption touched no row"


def caught_by(pipeline: Pipeline, truth: Path) -> str:
    """`dbt`, `truth`, or an empty text when nothing noticed."""
    # Without --fail-fast, which can end dbt with an error of its own while another thread is at work.
    result = pipeline.dbt("build", check=False)
    if result.returncode != 0:
        assert result.returncode == 1, result.stdout[-3000:]  # 2 is an error of dbt or of its usage
        return "dbt"
    return "truth" if differences(pipeline.marts(), read_truth(truth)) else ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per fault of the chosen size."""
    if "fault" in metafunc.fixturenames:
        chosen = FAULTS if metafunc.config.getoption("--full") else QUICK
        metafunc.parametrize("fault", chosen, ids=[fault["name"] for fault in chosen])


def copied(built: Pipeline, folder: Path) -> Pipeline:
    """A copy of the warehouse, and of the project, for a fault."""
    copy = built.copy(folder / "home")
    copy.project = folder / "dbt_project"
    copy.with_unit_tests = True
    shutil.copytree(ROOT / "dbt_project", copy.project)
    return copy


def test_a_copy_without_a_fault_is_green(built: Pipeline, tmp_path: Path) -> None:
    copy = copied(built, tmp_path)
    for file, more in (("sales/mart_daily_sales.sql", "\n-- changed\n"), ("_marts__unit_tests.yml", "\n# changed\n")):
        with (copy.project / "models/marts" / file).open("a") as opened:
            opened.write(more)
    assert caught_by(copy, built.home / "truth") == ""


def test_fault_is_caught(fault: dict, built: Pipeline, tmp_path: Path, record_property) -> None:
    copy = copied(built, tmp_path)
    plant(fault, copy)
    catcher = caught_by(copy, built.home / "truth")
    record_property("caught_by", catcher)
    assert catcher, f"nothing noticed: {fault['why']}"
