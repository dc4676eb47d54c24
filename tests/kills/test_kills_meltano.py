"""The same under Meltano: the next run starts at once after a kill, and two at once do not break one another."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from contextlib import closing

import pytest
import yaml

from tests.integration.conftest import TargetHome
from tests.kills.harness import VICTIMS, Killer, Meltano, check_ledger, last_words, table, writing
from tests.kills.postgres_source import METHODS, PostgresSource
from tests.pipeline import BIN, ROOT

SEED = 20261121


def project(folder, source):
    """A copy of the project's settings, for the tables of `source`."""
    settings = yaml.safe_load((ROOT / "meltano.yml").read_text())
    metadata = {f"shop-{name}": {"replication-method": method} for name, method in METHODS.items()}
    metadata["shop-inc_rows"]["replication-key"] = "changed_at"
    config = {
        name.removeprefix("TAP_POSTGRES_").lower(): yaml.safe_load(value)
        for name, value in source.environment().items()
    }
    for kind in settings["plugins"].values():
        for plugin in kind:
            plugin["executable"] = plugin["executable"].replace(".venv/bin", str(BIN))
            if plugin["name"] == "tap-postgres":
                plugin |= {"config": config, "metadata": metadata}
    settings["environments"] = [{"name": "dev"}]
    folder.mkdir()
    (folder / "meltano.yml").write_text(yaml.safe_dump(settings))
    shutil.copy(ROOT / ".env", folder)
    return folder


def list_states(starter):
    """A command of Meltano's that needs its database."""
    return subprocess.Popen(
        [BIN / "meltano", "state", "list"],
        cwd=starter.project,
        env=starter.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def meltano(postgres, tmp_path):
    source = PostgresSource(postgres, random.Random(SEED), rows=3000)
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WAREHOUSE_", "MELTANO_"))}
    environment |= {
        "WAREHOUSE_HOME": str(home),
        "WAREHOUSE_SHOP": "demo_shop",
    }
    return source, Meltano("tap-postgres", project(tmp_path / "project", source), environment, home / "logs"), home


def test_the_next_run_starts_at_once(meltano, full):
    source, starter, home = meltano
    killer = Killer(starter, TargetHome(home), source.chance, start_seconds=5)
    among, hits = (VICTIMS, 3) if full else (("meltano",), 1)
    while victims := killer.victims(hits, among):
        for victim in victims:
            with source.connected(), writing(source.step):
                killer.killed_run(victim)
            killer.whole_run()
            source.check(TargetHome(home))
            check_ledger(TargetHome(home))
    print(table(killer.kills))


def test_of_two_runs_at_once_the_second_is_refused(meltano):
    source, starter, home = meltano
    assert list_states(starter).wait() == 0  # Later than Meltano's first start.
    with closing(source.database.connect()) as connection, connection.cursor() as cursor:
        # The first run's tap waits here, while its target holds the warehouse.
        cursor.execute("lock table shop.full_rows in access exclusive mode")
        first = starter.start()
        assert first.wait_for_work()
        while "target" not in first.find():
            time.sleep(0.1)
        second = starter.start()
        assert second.wait(60) == 1, last_words(second.log)
        assert first.wait(0) is None
    words = second.log.read_text()
    assert re.search("is in use by another process|is already running", words), last_words(second.log)
    assert "Traceback" not in words
    assert first.wait(60) == 0, last_words(first.log)
    source.check(TargetHome(home))
    assert check_ledger(TargetHome(home)) >= 5


def test_of_two_first_starts_at_once_none_breaks(meltano):
    """Both would make Meltano's database."""
    _, starter, _ = meltano
    both = [list_states(starter) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "Traceback" not in "".join(said)
