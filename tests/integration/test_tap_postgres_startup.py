"""tap-postgres loads a large module only in a run that has work for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.integration.log_based_runs import Follower

RUN = (
    "import sys; from ingestion.startup import tap_postgres\n"
    "try: tap_postgres()\n"
    "except SystemExit as end: assert not end.code\n"
    "print(*[n for n, each in sys.modules.items() if type(each).__module__ != 'ingestion.startup'], file=sys.stderr)"
)


@pytest.fixture
def follower(postgres, warehouse) -> Follower:
    postgres.execute(
        "create schema shop",
        "create table shop.things (id int primary key)",
        "insert into shop.things values (1)",
        "create publication warehouse for table shop.things",
    )
    return Follower(postgres, warehouse)


def loaded(follower: Follower, folder, **config) -> set[str]:
    """The modules that a run of the tap has loaded."""
    given = [("--config", follower.config | config)] + ([("--state", follower.state)] if follower.state else [])
    arguments = []
    for option, content in given:
        file = folder / f"{option}.json"
        file.write_text(json.dumps(content))
        arguments += [option, str(file)]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_a_log_without_news_is_followed_without_arrow_and_duckdb(follower, tmp_path):
    follower.run()
    follower.run()  # The slot's place is that of the state.
    assert not {"pyarrow", "numpy", "duckdb", "adbc_driver_postgresql"} & loaded(follower, tmp_path)


def test_a_table_is_read_without_numpy(follower, tmp_path):
    modules = loaded(follower, tmp_path, default_replication_method="FULL_TABLE")
    assert {"pyarrow", "adbc_driver_postgresql"} <= modules
    assert "numpy" not in modules


def test_changes_of_the_log_are_read_with_numpy(follower, tmp_path):
    follower.run()
    follower.database.execute("insert into shop.things values (2)")
    assert {"pyarrow", "numpy"} <= loaded(follower, tmp_path)
