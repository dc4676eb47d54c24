"""tap-files and target-warehouse, killed at random moments while files come and change."""

from __future__ import annotations

import os
import random

import pytest

from tests.kills.file_source import FileSource
from tests.kills.harness import VICTIMS, Killer, Pipe, check_ledger, writing

SEED = 20261121


@pytest.fixture
def killer(tmp_path):
    chance = random.Random(SEED)
    source = FileSource(tmp_path, chance)
    home = tmp_path / "home"
    environment = os.environ | {
        "WAREHOUSE_HOME": str(home),
        "WAREHOUSE_SHOP": "demo_shop",
        "WAREHOUSE_DATA": str(source.data),
        "TAP_FILES_STREAMS_FILE": str(source.streams_file),
    }
    home.mkdir()
    pipe = Pipe(
        ["ingestion.taps.files", "TapFiles", "--config=ENV"],
        ["ingestion.target.target", "TargetWarehouse", "--config=ENV"],
        home / "state.json",
        environment,
        home / "logs",
    )
    return Killer(pipe, chance, start_seconds=0.2), source, home


def test_files_are_in_raw_once_whatever_was_killed(killer, full):
    killer, source, home = killer
    source.fill(20)
    rounds = 20 if full else 2
    for _ in range(rounds):
        with writing(source.step):
            for victim in killer.chance.sample(VICTIMS, len(VICTIMS)):
                killer.killed_run(victim)
        killer.whole_run()
        assert source.check(home / "warehouse.duckdb") > 1000
        assert check_ledger(home) > 5
    assert sum(kill.hit for kill in killer.kills) >= 2 * rounds
