"""After a kill of Meltano during `dbt build`: dbt ends too, so that the next run finds the warehouse free."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.pipeline import BIN, ROOT

PROJECT = """
name: endless
profile: endless
model-paths: [models]
flags: {send_anonymous_usage_stats: false}
"""
PROFILE = "endless: {target: dev, outputs: {dev: {type: duckdb, path: \"{{ env_var('STARTED') }}.duckdb\"}}}"
# It says that it has begun, and never ends.
MODEL = """
{{ config(materialized='table', pre_hook="copy (select 1) to '" ~ env_var('STARTED') ~ "'") }}
select sum(hash(a.range + b.range)) as total from range(1000000000) as a, range(1000000000) as b
"""


def endless_project(folder: Path) -> None:
    """This project's meltano.yml and programs, with a dbt project whose build does not end."""
    shutil.copyfile(ROOT / "meltano.yml", folder / "meltano.yml")
    for name in ("scripts", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    models = folder / "dbt_project" / "models"
    models.mkdir(parents=True)
    (models.parent / "dbt_project.yml").write_text(PROJECT)
    (models.parent / "profiles.yml").write_text(PROFILE)
    (models / "endless.sql").write_text(MODEL)


def child_of(parent: int) -> int:
    """The process that a process has started."""
    parents = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # Some end while this looks.
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
    [child] = [pid for pid, its_parent in parents.items() if its_parent == str(parent)]
    return int(child)


def within(seconds: float, holds) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_dbt_ends_with_its_killed_meltano(tmp_path):
    endless_project(tmp_path)
    started, log = tmp_path / "started", tmp_path / "log"
    environment = os.environ | {"WAREHOUSE_HOME": str(tmp_path / "home"), "STARTED": str(started)}
    with log.open("wb") as output:
        meltano = subprocess.Popen(
            [BIN / "meltano", "run", "dbt:build"], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    assert within(60, lambda: started.exists() or meltano.poll() is not None) and started.exists(), log.read_text()
    dbt = child_of(meltano.pid)
    meltano.kill()
    meltano.wait()
    has_ended = within(5, lambda: not Path(f"/proc/{dbt}").exists())
    if not has_ended:
        os.kill(dbt, signal.SIGKILL)
    assert has_ended
