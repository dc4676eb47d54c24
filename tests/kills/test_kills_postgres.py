"""tap-postgres and target-warehouse, killed at random moments while the database changes: all three methods at once."""

from __future__ import annotations

import os
import random

from ingestion.taps.postgres import TapPostgres
from tests.kills.harness import Killer, Pipe, check_ledger, table, writing
from tests.kills.postgres_source import PostgresSource, write_catalog

SEED = 20261121


def discovered(source):
    """The tap's catalog, as `--discover` says it."""
    tap = TapPostgres(config={"sqlalchemy_url": source.database.dsn, "filter_schemas": ["shop"]})
    return tap.catalog_json_text


def test_the_database_is_in_raw_whatever_was_killed(postgres, tmp_path, full):
    chance = random.Random(SEED)
    source = PostgresSource(postgres, chance, rows=3000)
    home = tmp_path / "home"
    home.mkdir()
    write_catalog(discovered(source), tmp_path / "catalog.json")
    environment = os.environ | {"WAREHOUSE_HOME": str(home), "WAREHOUSE_SHOP": "demo_shop"} | source.environment()
    pipe = Pipe(
        ["ingestion.taps.postgres", "TapPostgres", "--config=ENV", "--catalog", str(tmp_path / "catalog.json")],
        ["ingestion.target.target", "TargetWarehouse", "--config=ENV"],
        home / "state.json",
        environment,
        home / "logs",
    )
    killer = Killer(pipe, home, chance, start_seconds=0.2)
    # Several runs are killed before one may end, and is checked.
    while victims := killer.victims(20 if full else 2):
        with source.connected(), writing(source.step):
            for victim in victims:
                killer.killed_run(victim)
        killer.whole_run()
        assert source.check(home / "warehouse.duckdb") > 10_000
        assert check_ledger(home) > 5
    print(table(killer.kills))
