"""A build is left out only where it would repeat what is published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from ingestion.settings import Settings
from orchestration import nothing_new
from orchestration.publish import publish, restore_previous
from tests.integration.test_publish import FIRST_LOAD, SECOND_LOAD, build, built, load
from tests.pipeline import ROOT

HASH = "of all that the build was made from"


@pytest.fixture
def published(tmp_path: Path) -> Settings:
    """A warehouse whose last build has a hash, and is the second published version."""
    home = built(tmp_path)
    publish(home)
    build(home, "second", inputs_hash=HASH)
    publish(home)
    return home


def test_what_is_published_need_not_be_built_again(published: Settings) -> None:
    found = nothing_new.published_as_it_is(published, HASH)
    assert found is not None
    assert (found[0].version, found[0].invocation_id) == (2, "second")


@pytest.mark.parametrize(
    "change",
    [
        lambda home: load(home, SECOND_LOAD),
        lambda home: load(home, FIRST_LOAD - 1),  # committed late
        lambda home: build(home, "third"),  # typed by hand
        lambda home: build(home, "third", inputs_hash=HASH),  # not published
        lambda home: build(home, "third", inputs_hash=HASH, status="failed"),
        lambda home: build(home, "third", inputs_hash=HASH, is_complete=False),
        lambda home: (build(home, "third", inputs_hash="of other models"), publish(home)),
        lambda home: restore_previous(home),
        lambda home: home.published_file.unlink(),
        lambda home: home.published_file.write_text("no database"),
        lambda home: home.marts_file.unlink(),
        lambda home: home.warehouse_file.unlink(),
        lambda home: without_hashes(home),
    ],
)
def test_anything_else_is_built(published: Settings, change: Callable[[Settings], object]) -> None:
    change(published)
    assert nothing_new.published_as_it_is(published, HASH) is None


def without_hashes(home: Settings) -> None:
    """A warehouse of before there were any."""
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("alter table ops.builds drop column inputs_hash")


def test_the_hash_is_of_all_that_a_build_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "dbt_project", project / "dbt_project")
    shutil.copyfile(ROOT / "requirements.lock", project / "requirements.lock")
    hashes = [nothing_new.inputs_hash("demo_shop", project)]
    (project / "dbt_project" / "logs").mkdir(exist_ok=True)
    (project / "dbt_project" / "logs" / "more.sql").write_text("no part of it")
    assert nothing_new.inputs_hash("demo_shop", project) == hashes[0]

    model = project / "dbt_project" / "models" / "marts" / "shared" / "dim_date.sql"
    model.write_text(model.read_text() + "\n")
    hashes.append(nothing_new.inputs_hash("demo_shop", project))
    model.rename(model.with_name("dim_day.sql"))
    hashes.append(nothing_new.inputs_hash("demo_shop", project))
    with (project / "requirements.lock").open("a") as lock:
        lock.write("# another dbt\n")
    hashes.append(nothing_new.inputs_hash("demo_shop", project))
    hashes.append(nothing_new.inputs_hash("online_retail", project))
    monkeypatch.setenv("DBT_VARS", "{age_max: 90}")
    hashes.append(nothing_new.inputs_hash("demo_shop", project))
    monkeypatch.setattr(nothing_new, "datetime", Tomorrow)
    hashes.append(nothing_new.inputs_hash("demo_shop", project))
    assert len(set(hashes)) == 7


class Tomorrow(nothing_new.datetime):
    """The clock a day later."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + timedelta(days=1)
