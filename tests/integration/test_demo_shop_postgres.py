"""`demo-shop --into postgres`: the tables hold what the files of the same shop have said, whatever interrupts it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from ingestion.demo_shop import files, reading, shop, truth
from ingestion.demo_shop.postgres import TABLES, OrderDatabase
from ingestion.demo_shop.world import Config
from ingestion.errors import UserError
from orchestration.services import shop_database
from orchestration.services.postgres import PostgresServer
from tests.pipeline import BIN, Pipeline
from tests.postgres import Database, drop_database

CONFIG = Config(seed=11, start=date(2024, 11, 1), days=40, lines=3_000)
ENTITIES = list(TABLES)


@pytest.fixture
def database(postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty order database, found by `tmp_path/home`."""
    home = tmp_path / "home"
    (home / "services").mkdir(parents=True)
    monkeypatch.setenv("WAREHOUSE_HOME", str(home))
    shop_database.prepare(postgres_server, home / "services" / "pg_service.conf")
    database = Database(postgres_server, shop_database.DATABASE)
    yield database
    drop_database(database)


@pytest.fixture
def home(database: Database, tmp_path: Path) -> Path:
    """The home of a shop in PostgreSQL, with its history."""
    home = tmp_path / "home"
    shop.init(CONFIG, home, home / "source", into=shop.POSTGRES, say=quiet)
    return home


@pytest.fixture(scope="module")
def days_as_files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, pd.DataFrame]]:
    """The order tables that the files of the same shop tell: after its history, and after each of three days."""
    home = tmp_path_factory.mktemp("files")
    told = []
    for day in range(4):
        if day == 0:
            shop.init(CONFIG, home, home / "source", say=quiet)
        else:
            shop.advance(home, home / "source", say=quiet)
        tables = truth.in_order(reading.read(home / "source").tables)
        told.append({entity: truth.current(tables[entity], TABLES[entity].key) for entity in ENTITIES})
    return told


def quiet(_: str) -> None:
    pass


def tables(home: Path) -> dict[str, pd.DataFrame]:
    with OrderDatabase.open() as database:
        return {entity: reading.read(home / "source", database).tables[entity] for entity in ENTITIES}


def assert_equal(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for entity in ENTITIES:
        pd.testing.assert_frame_equal(found[entity], expected[entity], check_dtype=False)
        assert len(found[entity]) > 100


def advance(home: Path) -> None:
    shop.advance(home, home / "source", say=quiet)


def test_the_tables_hold_what_the_files_tell_after_the_history_and_after_each_day(home, days_as_files):
    assert_equal(tables(home), days_as_files[0])
    for day in (1, 2, 3):
        advance(home)
        assert_equal(tables(home), days_as_files[day])
    assert not any(days_as_files[0][entity].equals(days_as_files[3][entity]) for entity in ENTITIES)


def test_only_the_order_tables_leave_the_files(home):
    assert {path.name for path in (home / "source").iterdir()} == {"users", "products", "events", "stock_levels"}


def test_each_version_of_a_day_is_a_change_of_its_own_in_the_order_of_the_shop(home, database):
    database.execute("select pg_create_logical_replication_slot('watching', 'pgoutput')")
    later, earlier = (
        f"900001,1,{status},2025-01-01,,0,EUR,2025-01-01T{hour}:00:00Z,"
        for status, hour in (("completed", 10), ("pending", 9))
    )
    with OrderDatabase.open() as shops, shops.period(is_history=False) as period:
        period.write(files.STREAMS[0], pa.array([later, earlier]))
    assert database.query("select status from shop.orders where order_id = 900001") == [("completed",)]
    assert operations(database) == ["I", "U"]


def operations(database: Database) -> list[str]:
    """The changes of rows that a replication slot would send: I, U, D or T."""
    changes = database.query(
        "select chr(get_byte(data, 0)) from pg_logical_slot_get_binary_changes('watching', null, null,"
        " 'proto_version', '1', 'publication_names', 'warehouse')"
    )
    return [change for (change,) in changes if change in "IUDT"]


def test_a_day_written_twice_changes_nothing_the_second_time(home, database, days_as_files):
    before = shop.Memory.load(home)
    advance(home)
    before.save(home)  # as if it had been killed before it could remember
    database.execute("select pg_create_logical_replication_slot('watching', 'pgoutput')")
    advance(home)
    assert operations(database) == []
    assert_equal(tables(home), days_as_files[1])


def test_a_kill_in_the_middle_of_a_day_leaves_the_day_before_and_a_rerun_brings_the_day(
    home, database, days_as_files, tmp_path
):
    with closing(database.connect()) as blocker:
        with blocker.cursor() as cursor:  # orders and lines are applied, refunds have to wait
            cursor.execute("lock table shop.refunds in exclusive mode")
        process = subprocess.Popen([BIN / "demo-shop", "advance"], env=Pipeline(home).env)
        deadline = time.monotonic() + 30
        waiting = "select count(*) from pg_locks where not granted"
        while database.query(waiting) == [(0,)] and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert_equal(tables(home), days_as_files[0])
    advance(home)
    assert_equal(tables(home), days_as_files[1])


def test_an_interrupted_opening_is_repeated(home, days_as_files):
    shop.Memory(CONFIG, 0, shop.POSTGRES).save(home)
    shop.init(CONFIG, home, home / "source", into=shop.POSTGRES, say=quiet)
    assert_equal(tables(home), days_as_files[0])


def test_another_shops_rows_are_replaced_only_by_force(home, days_as_files, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(home / "services", other / "services")
    monkeypatch.setenv("WAREHOUSE_HOME", str(other))
    with pytest.raises(UserError, match="already holds orders"):
        shop.init(CONFIG, other, other / "source", into=shop.POSTGRES, say=quiet)
    smaller = Config(seed=12, start=CONFIG.start, days=5, lines=500)
    shop.init(smaller, other, other / "source", into=shop.POSTGRES, force=True, say=quiet)
    assert 0 < len(tables(other)["orders"]) < 1000


def test_a_shop_goes_on_where_it_was_opened(home):
    with pytest.raises(UserError, match="opened with --into postgres"):
        shop.advance(home, home / "source", into=shop.FILES, say=quiet)


def test_the_truth_is_that_of_the_files(home, tmp_path):
    Pipeline(home).run("demo-shop", "truth", "--out", str(tmp_path / "truth"))
    as_files = tmp_path / "files"
    shop.init(CONFIG, as_files, as_files / "source", say=quiet)
    truth.write(as_files / "source", tmp_path / "expected")
    for expected in (tmp_path / "expected").glob("*.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "truth" / expected.name), pd.read_parquet(expected))


def test_a_server_that_is_not_there_is_one_line_without_a_password(home):
    file = home / "services" / "pg_service.conf"
    password = file.read_text().split("password=")[1].split()[0]
    file.write_text(file.read_text().replace("port=", "port=1"))
    result = Pipeline(home).run("demo-shop", "advance", check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: the shop's PostgreSQL cannot be reached: ")
    assert len(result.stderr.splitlines()) == 1
    assert password not in result.stdout + result.stderr
    file.unlink()
    result = Pipeline(home).run("demo-shop", "advance", check=False)
    assert "has no connection shop_owner: run `scripts/services up`" in result.stderr
