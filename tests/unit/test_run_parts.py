"""The parts of scripts/run that need no warehouse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest
import yaml
from meltano.core.state_store import MeltanoState

from ingestion.demo_shop.shop import POSTGRES, Memory
from ingestion.demo_shop.world import Config
from ingestion.errors import UserError
from orchestration import commands, run
from orchestration.meltano_state import HomeStateStoreManager

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A warehouse's home of the test's own, and no other setting of the shell."""
    for name in ("WAREHOUSE_SHOP", "WAREHOUSE_DATA"):
        # Set before it is removed, so that it is as before after a test that sets it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WAREHOUSE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_stages_are_the_tasks_of_the_job_daily() -> None:
    jobs = {job["name"]: job["tasks"] for job in yaml.safe_load((ROOT / "meltano.yml").read_text())["jobs"]}
    ingest = ["tap-files target-warehouse", "tap-postgres target-warehouse"]
    assert jobs["daily"] == [*ingest, "dbt:freshness", "dbt:build-if-new", "publish:marts"]
    assert len(run.DAILY) == len(jobs["daily"])
    assert jobs["ingest"] == ingest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shop", "nobody"], "no shop 'nobody' .known: .*demo_shop, online_retail"),
        (["--shop", "online_retail"], "--data FOLDER"),
        (["--shop", "online_retail", "--data", "/nowhere"], "/nowhere is not a folder"),
        (["--shop", "online_retail", "--data", "/", "--lines", "20000"], "size of the demo shop"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run.resolve(run.parse(arguments))


@pytest.mark.parametrize("size", ["0", "-5", "many", "3000"])
def test_size_without_sales_on_every_day_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parse([f"--lines={size}"])
    assert f"'{size}' is not a whole number from 20000 up" in capsys.readouterr().err


def test_simulated_shop_and_files_from_elsewhere_do_not_mix(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    own_home.mkdir()
    (own_home / "warehouse.duckdb").touch()
    with pytest.raises(UserError, match="holds the files of a --data folder"):
        run.resolve(run.parse([]))
    demo_shop = [str(Path(sys.executable).parent / "demo-shop"), "init", "--days", "2", "--lines", "20"]
    subprocess.run(demo_shop, check=True, capture_output=True)
    with pytest.raises(UserError, match="holds the simulated shop"):
        run.resolve(run.parse(["--data", str(tmp_path / "files")]))


def test_a_shop_in_a_database_is_not_run_as_files(own_home: Path) -> None:
    Memory(Config(1, date(2024, 7, 1), 2, 20), 2, POSTGRES).save(own_home)
    with pytest.raises(UserError, match="--environment=services run daily"):
        run.resolve(run.parse([]))


def test_a_warehouse_in_postgresql_is_no_run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE_ENGINE", "postgres")
    with pytest.raises(UserError, match="meltano --environment=postgres run daily"):
        run.resolve(run.parse([]))


def test_home_that_cannot_be_made_is_named() -> None:
    home = run.resolve(run.parse(["--home", "/dev/null/home"]))
    with pytest.raises(UserError, match="/dev/null/home cannot hold a warehouse"), run.only_run(home):
        pass


def test_signal_that_ended_a_command_is_named() -> None:
    assert run.ended_by(-9, "meltano") == [
        "meltano was ended by SIGKILL (the machine may have run out of memory); what it said before:"
    ]
    assert run.ended_by(1, "meltano") == []


def test_second_run_on_a_warehouse_is_refused(own_home: Path) -> None:
    first = run.resolve(run.parse([]))
    with run.only_run(first), pytest.raises(UserError, match="at work"), run.only_run(first):
        pass
    with run.only_run(first):
        assert (own_home / "run.lock").exists()


DBT_FAILURE = """\
02:26:12  Running with dbt=1.12.6
02:26:13  3 of 72 FAIL 2 assert_money_reconciles_with_raw ... [FAIL 2 in 0.1s]
02:26:13  Completed with 1 error, 0 partial successes, and 0 warnings:
02:26:13
02:26:13  Failure in test assert_money_reconciles_with_raw (tests/assert_money_reconciles_with_raw.sql)
02:26:13    Got 2 results, configured to fail if != 0
02:26:13    compiled code at target/compiled/assert_money_reconciles_with_raw.sql
02:26:13  [WARNING][DeprecationsSummary]: Deprecated functionality
""".splitlines()
LOADER_FAILURE = """\
shop-orders: 10 rows extracted
METRIC: {"type":"counter","metric":"errors","value":0}
target-warehouse: too many rows quarantined: catalog-products 80 of 655
Run completed
""".splitlines()


@pytest.mark.parametrize(
    ("lines", "said", "not_said"),
    [
        (DBT_FAILURE, "Got 2 results", "compiled code"),
        (DBT_FAILURE, "Failure in test assert_money_reconciles_with_raw", "WARNING"),
        (LOADER_FAILURE, "too many rows quarantined", "METRIC"),
        (["one", "two"], "two", "three"),
    ],
)
def test_failure_shows_the_lines_that_say_why(lines: list[str], said: str, not_said: str) -> None:
    shown = "\n".join(run.what_matters(lines))
    assert said in shown
    assert not_said not in shown


def start(script: str, on_line: list[str]) -> int:
    return commands.run(
        [sys.executable, "-c", script],
        folder=ROOT,
        environment=os.environ,
        on_start=lambda group: None,
        on_line=on_line.append,
    )


def test_command_gives_its_lines_and_its_exit_code() -> None:
    lines: list[str] = []
    assert start("import sys; print('out'); sys.exit('err')", lines) == 1
    assert sorted(lines) == ["err", "out"]


def test_command_that_ends_takes_its_children_with_it() -> None:
    lines: list[str] = []
    child = "import time; print('child', flush=True); time.sleep(60)"
    script = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid)"
    )
    assert start(script, lines) == 0
    assert not alive(int(lines[0]))


def test_signal_ends_the_run_and_its_command() -> None:
    script = f"""
import os, sys
from orchestration import commands
try:
    with commands.interruptible():
        commands.run([sys.executable, "-c", "import time; time.sleep(60)"], folder={str(ROOT)!r},
            environment=os.environ, on_start=lambda group: print(group, flush=True), on_line=print)
except commands.Interrupted as error:
    sys.exit(128 + error.signal_number)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    group = int(process.stdout.readline())
    assert alive(group)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert not alive(group)


def test_what_a_killed_run_left_is_ended_by_the_next(own_home: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    home = run.resolve(run.parse([]))
    try:
        own_home.mkdir()
        # A number that belongs to somebody else by now is left alone.
        (own_home / "run.lock").write_text(str(other.pid))
        with run.only_run(home):
            assert other.poll() is None
        time.sleep(0.2)
        assert commands.end_leftovers(left.pid, Path(sys.executable).parent)
        assert left.wait(timeout=20) != 0
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_singer_state_is_kept_in_the_home_and_replaced_whole(own_home: Path) -> None:
    store = HomeStateStoreManager(uri="warehouse-home://state")
    name = "dev:tap-files-to-target-warehouse"
    assert store.get(name) is None
    store.update(MeltanoState(name, completed_state={"singer_state": {"bookmarks": {"shop-orders": {"load_id": 7}}}}))
    store.update(MeltanoState(name, partial_state={"singer_state": {"bookmarks": {"web-events": {"load_id": 8}}}}))
    found = HomeStateStoreManager(uri="warehouse-home://state").get(name)
    assert found is not None
    assert json.loads(found.json_merged())["singer_state"]["bookmarks"] == {
        "shop-orders": {"load_id": 7},
        "web-events": {"load_id": 8},
    }
    assert store.get_state_ids("dev:*") == [name]
    assert all(own_home in file.parents for file in store.folder.iterdir())
    store.clear(name)
    assert store.get_state_ids() == []


def meltano(own_home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of Meltano's for the warehouse at `own_home`, as a user types it."""
    others = ("MELTANO_", "XDG_")
    return subprocess.run(
        [str(Path(sys.executable).parent / "meltano"), *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(others)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_meltano_finds_the_state_backend(own_home: Path) -> None:
    done = meltano(own_home, "state", "set", "--force", "dev:x", '{"singer_state": {"a": 1}}')
    assert done.returncode == 0, done.stderr
    assert [file.name for file in (own_home / "meltano" / "state").glob("*.json")] == ["dev%3Ax.json"]


@pytest.mark.parametrize("environment", [("--environment=dev",), (), ("--no-environment",)])
def test_what_meltano_hands_its_plugins_is_of_one_home(own_home: Path, environment: tuple[str, ...]) -> None:
    """Catalog and state of a tap are files of one name: two warehouses that are loaded at once must not share them."""
    (own_home / "source").mkdir(parents=True)
    done = meltano(own_home, *environment, "invoke", "--dump=catalog", "tap-files")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["streams"]
    catalog = own_home / "meltano" / "run" / "tap-files" / "tap.properties.json"
    assert json.loads(catalog.read_text()) == json.loads(done.stdout)


def test_meltano_remembers_in_the_home_whatever_the_environment(own_home: Path) -> None:
    """Some commands leave the default environment out; a run must find what they set."""
    (own_home / "source").mkdir(parents=True)
    done = meltano(own_home, "config", "set", "--store=db", "tap-postgres", "user", "somebody")
    assert done.returncode == 0, done.stderr
    done = meltano(own_home, "invoke", "--dump=config", "tap-postgres")
    assert json.loads(done.stdout)["user"] == "somebody", done.stderr
    assert (own_home / "meltano" / "meltano.db").exists()


def test_logs_of_runs_lie_in_the_home_wherever_others_go(own_home: Path) -> None:
    done = meltano(own_home, "run", "ingest", XDG_STATE_HOME=str(own_home.parent / "elsewhere"))
    assert done.returncode == 1
    assert "no such data folder" in "".join(log.read_text() for log in (own_home / "meltano").rglob("*.log"))
    assert not (own_home.parent / "elsewhere").exists()


def test_a_home_that_cannot_be_written_is_said_in_one_line(own_home: Path) -> None:
    own_home.write_text("no folder")
    done = meltano(own_home, "run", "ingest")
    assert done.returncode == 1
    assert f"{own_home}/meltano is no folder to write to: Not a directory. Set WAREHOUSE_HOME to one" in done.stderr
    assert "Traceback" not in done.stderr
