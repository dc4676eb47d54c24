"""That dbt takes what another home has parsed (tests/parsed_project.py): else each home costs a parse, unnoticed."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline import Pipeline

WHOLE = "Unable to do partial parsing"


def test_a_parsed_project_is_taken_by_a_copy_and_by_a_new_home(built: Pipeline, tmp_path: Path) -> None:
    copied = built.copy(tmp_path / "copied").dbt("parse").stdout
    new = Pipeline(tmp_path / "new").dbt("parse").stdout
    assert "Performance info" in copied and "Performance info" in new
    assert WHOLE not in copied and WHOLE not in new

    moved = Pipeline(tmp_path / "moved")
    (tmp_path / "new").rename(moved.home)
    assert WHOLE in moved.dbt("parse").stdout
