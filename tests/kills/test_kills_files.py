"""tap-files and target-warehouse, killed at random moments while files come and change."""

from __future__ import annotations

import os
import random

import pytest

from tests.integration.conftest import ENGINES
from tests.kills.file_source import FileSource
from tests.kills.harness import Killer, Pipe, check_ledger, table, writing

SEED = 20261121


@pytest.fixture
def killer(warehouse, tmp_path):
    chance = random.Random(SEED)
    source = FileSource(tmp_path, chance)
    home = warehouse.home
    environment = os.environ | {
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
    return Killer(pipe, warehouse, chance, start_seconds=0.2), source


@ENGINES
def test_files_are_in_raw_once_whatever_was_killed(killer, full):
    killer, source = killer
    source.fill(20)
    while victims := killer.victims(20 if full else 1):
        with writing(source.step):
            for victim in victims:
                killer.killed_run(victim)
        killer.whole_run()
        assert source.check(killer.warehouse) > 1000
        assert check_ledger(killer.warehouse) > 5
    print(table(killer.kills))
