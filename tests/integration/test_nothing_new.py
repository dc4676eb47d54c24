"""A build is left out only where it would repeat what is published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from ingestion.settings import Settings
from orchestration import nothing_new
from orchestration.publish_duckdb import bring_back, publish
from tests.integration.test_publish import FIRST_LOAD, SECOND_LOAD, build, built, load
from tests.pipeline import ROOT

HASH = "of all that the build was made from"


@pytest.fixture
def published(tmp_path: Path) -> Settings:
    """A warehouse whose last build has a hash, and is the second published version."""
    home = built(tmp_path)
    shutil.copy2(home.marts_file, tmp_path / "marts of the first build")
    (tmp_path / "no database").write_text("no database")
    publish(home)
    build(home, "second", inputs_hash=HASH)
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute(
            "create table ops.runs (status text, finished_at timestamptz);"
            "insert into ops.runs values ('ok', now()), ('failed', now() - interval 1 hour);"
            "create table ops.test_results (invocation_id text, status text);"
            "insert into ops.test_results values ('second', 'pass'), ('first', 'warn')"
        )
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
        lambda home: bring_back(home),
        lambda home: home.published_file.unlink(),
        lambda home: home.published_file.write_text("no database"),
        lambda home: home.marts_file.unlink(),
        lambda home: home.marts_file.write_bytes(home.marts_file.read_bytes()),  # put there since
        lambda home: restored(home, home.home / "marts of the first build"),
        lambda home: restored(home, home.home / "no database"),
        lambda home: home.warehouse_file.unlink(),
        lambda home: changed(home, "alter table ops.builds drop column inputs_hash"),  # of before there were any
        lambda home: changed(home, "insert into ops.runs values ('failed', now())"),
        lambda home: changed(home, "insert into ops.test_results values ('second', 'warn')"),
    ],
)
def test_anything_else_is_built(published: Settings, change: Callable[[Settings], object]) -> None:
    change(published)
    assert nothing_new.published_as_it_is(published, HASH) is None


def restored(home: Settings, file: Path) -> None:
    """The warehouse with other marts, as if they had always been there."""
    times = home.marts_file.stat()
    shutil.copyfile(file, home.marts_file)
    os.utime(home.marts_file, ns=(times.st_atime_ns, times.st_mtime_ns))


def changed(home: Settings, statement: str) -> None:
    """The warehouse after a statement."""
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute(statement)


def test_the_hash_is_of_all_that_a_build_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "dbt_project", project / "dbt_project", ignore=shutil.ignore_patterns("logs"))
    shutil.copyfile(ROOT / "requirements.lock", project / "requirements.lock")
    models = project / "dbt_project" / "models"

    def of(shop: str = "demo_shop", *arguments: str) -> str | None:
        return nothing_new.inputs_hash(shop, arguments, project)

    hashes = [of()]
    (project / "dbt_project" / "logs").mkdir()
    (project / "dbt_project" / "logs" / "more.sql").write_text("no part of it")
    (models / ".#dim_date.sql").symlink_to("nowhere")  # as an editor leaves
    assert of() == hashes[0] is not None

    model = models / "marts" / "shared" / "dim_date.sql"
    content = model.read_text()
    model.write_text(content + "\n")
    hashes.append(of())
    model.write_text(content)  # what was built in between is not known
    hashes.append(of())
    model.rename(model.with_name("dim_day.sql"))
    hashes.append(of())
    (models / "logs").mkdir()
    (models / "logs" / "more.sql").write_text("a model to dbt")
    hashes.append(of())
    (project / "dbt_project" / ".dbtignore").write_text("tests")
    hashes.append(of())
    with (project / "requirements.lock").open("a") as lock:
        lock.write("# another dbt\n")
    hashes += [of(), of("online_retail"), of("demo_shop", "--warn-error")]
    monkeypatch.setenv("DBT_VARS", "{age_max: 90}")
    hashes.append(of())
    monkeypatch.chdir(models)
    (tmp_path / ".env").write_text("DBT_VARS={age_max: 80}")  # dbt reads the nearest one
    hashes.append(of())
    (project / "dbt_project" / ".env").write_text("DBT_VARS={age_max: 70}")
    hashes.append(of())
    (tmp_path / ".env").write_text("")
    assert of() == hashes[-1]
    assert len(set(hashes)) == 12

    (models / "dangling.sql").symlink_to("nowhere")
    assert of() is None


def test_the_hash_needs_no_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = nothing_new.inputs_hash("demo_shop")
    monkeypatch.delattr(nothing_new.yaml, "CSafeLoader", raising=False)
    assert nothing_new.inputs_hash("demo_shop") == wanted is not None


@pytest.mark.parametrize(("moment", "is_new_day"), [("21:59:59", False), ("22:00:00", True), ("23:59:59", True)])
def test_a_day_begins_where_the_shop_is(monkeypatch: pytest.MonkeyPatch, moment: str, is_new_day: bool) -> None:
    """In Berlin's summer two hours before that of UTC."""
    hashes = []
    for now in ("12:00:00", moment):
        monkeypatch.setattr(nothing_new, "datetime", clock_at(f"2026-07-01T{now}+00:00"))
        hashes.append(nothing_new.inputs_hash("demo_shop"))
    assert None not in hashes
    assert (hashes[0] != hashes[1]) == is_new_day


def clock_at(moment: str) -> type[datetime]:
    """A clock that stands still."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromisoformat(moment).astimezone(tz)

    return Stopped


@pytest.mark.parametrize("settings", ["vars: [", "vars: {shops: {}}", "vars: {shops: {demo_shop: {time_zone: Mars}}}"])
def test_settings_that_are_none_are_no_reason_to_leave_a_build_out(tmp_path: Path, settings: str) -> None:
    (tmp_path / "dbt_project").mkdir()
    (tmp_path / "dbt_project" / "dbt_project.yml").write_text(settings)
    (tmp_path / "requirements.lock").touch()
    assert nothing_new.inputs_hash("demo_shop", project=tmp_path) is None
