"""tap-postgres and target-warehouse, killed at random moments while the database changes: all three methods at once."""

from __future__ import annotations

import os
import random

import pytest

from ingestion.taps.postgres import TapPostgres
from tests.integration.conftest import ENGINES
from tests.kills.harness import Killer, Pipe, check_ledger, table, writing
from tests.kills.postgres_source import PostgresSource, write_catalog
from tests.postgres import create_database, drop_database

SEED = 20261121


def discovered(source):
    """The tap's catalog, as `--discover` says it."""
    tap = TapPostgres(config={"sqlalchemy_url": source.database.dsn, "filter_schemas": ["shop"]})
    return tap.catalog_json_text


@pytest.fixture
def source_database(postgres_server):
    """Beside the one that a warehouse may have."""
    database = create_database(postgres_server)
    yield database
    drop_database(database)


@ENGINES
def test_the_database_is_in_raw_whatever_was_killed(source_database, warehouse, tmp_path, full):
    chance = random.Random(SEED)
    source = PostgresSource(source_database, chance, rows=3000)
    home = warehouse.home
    home.mkdir()
    write_catalog(discovered(source), tmp_path / "catalog.json")
    environment = os.environ | source.environment()
    pipe = Pipe(
        ["ingestion.taps.postgres", "TapPostgres", "--config=ENV", "--catalog", str(tmp_path / "catalog.json")],
        ["ingestion.target.target", "TargetWarehouse", "--config=ENV"],
        home / "state.json",
        environment,
        home / "logs",
    )
    killer = Killer(pipe, warehouse, chance, start_seconds=0.2)
    # Several runs are killed before one may end, and is checked.
    hits = 20 if full else 2 if warehouse.database is None else 1
    while victims := killer.victims(hits):
        with source.connected(), writing(source.step):
            for victim in victims:
                killer.killed_run(victim)
        killer.whole_run()
        assert source.check(warehouse) > 10_000
        assert check_ledger(warehouse) > 5
    print(table(killer.kills))
