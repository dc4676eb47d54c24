"""`scripts/run`: the whole job for one shop, from nothing to published marts, then a summary.

It types the commands that a person would (`demo-shop`, `meltano run daily`, `dbt docs generate`), measures each, and
says what came of it. Nothing here is needed to run the warehouse.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ingestion import settings
from ingestion.demo_shop.shop import POSTGRES, Memory
from ingestion.errors import UserError
from ingestion.settings import DEFAULT_SHOP, DUCKDB, PROJECT_ROOT, Settings
from ingestion.taps.file_config import load_streams
from orchestration import commands, summary
from orchestration.commands import Interrupted
from orchestration.progress import Progress, plain
from orchestration.publish_duckdb import published_version, version_before

BIN = PROJECT_ROOT / ".venv" / "bin"
DAILY = ("ingest", "ingest databases", "freshness", "dbt build", "publish")
"""The tasks of the job `daily` in meltano.yml, in its order."""
FEWEST_LINES = 20_000
"""Over two years; with fewer, some days are without a sale, and the test of open days rightly fails."""
SHOWN_LINES = 12
"""How many lines of a failed command are shown; its log has all of them."""

_TELLING = re.compile(r"error|fail|critical|refus|warehouse-publish:|tap-files:|target-warehouse:", re.IGNORECASE)

_BESIDE_THE_POINT = re.compile(
    r"compiled code at|^\s*> (in macro|called by)|METRIC: |^\s*(\d\d:\d\d:\d\d)?\s*$", re.IGNORECASE
)


class StageFailed(Exception):
    """A command of a stage failed; `lines` say why."""

    def __init__(self, stage: str, lines: list[str]) -> None:
        self.stage = stage
        self.lines = lines
        super().__init__(f"{stage} failed")


class Run:
    """One run over one warehouse: its stages, its log, and what it leaves in last_run.json."""

    def __init__(self, home: Settings, options: argparse.Namespace, lock: IO[str], progress: Progress) -> None:
        self.home = home
        self.options = options
        self.progress = progress
        self._lock = lock
        self._last_run = home.home / "last_run.json"
        self._log_file = home.home / "logs" / f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}.log"
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._before = self._read_last_run()
        # What failed runs loaded is published by the run that mends them, and counted there.
        unpublished = self._before.get("since") if not self._before.get("is_published") else None
        self._since = datetime.fromisoformat(unpublished) if unpublished else datetime.now(UTC)
        self._lines: list[str] = []
        self.result: dict[str, Any] = {
            "status": "running",
            "stage": None,
            "shop": home.shop,
            "home": str(home.home),
            "data": str(home.data),
            "log": str(self._log_file),
            "started_at": datetime.fromtimestamp(options.started, UTC).isoformat(timespec="seconds"),
            "finished_at": None,
            "since": self._since.isoformat(),
            "seconds": None,
            "is_published": False,
            "error": None,
            "stages": [],
            "streams": [],
            "build": None,
            "published": None,
            "revenue": None,
            "changes": None,
        }

    def execute(self) -> None:
        """All stages; raises StageFailed, UserError or Interrupted, after last_run.json says so."""
        self._save()
        try:
            self._note("environment", time.time() - self.options.started)
            if self.home.shop == DEFAULT_SHOP and not self.options.data:
                self._demo_shop()
            self._daily()
            self._docs()
            self._summarise()
            self.result["status"] = "published"
        except BaseException as error:
            self.result["status"] = "failed"
            self.result["error"] = error.lines if isinstance(error, StageFailed) else [str(error) or repr(error)]
            raise
        finally:
            self.result["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
            self.result["seconds"] = round(time.time() - self.options.started, 1)
            self._save()

    def _read_last_run(self) -> dict[str, Any]:
        """What the run before this one left; empty when there was none, or it left nothing readable."""
        try:
            found = json.loads(self._last_run.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _demo_shop(self) -> None:
        memory = Memory.load(self.home.home)
        lines = self.options.lines
        if memory and lines and lines != memory.config.lines:
            raise UserError(
                f"the demo shop in {self.home.home} was opened with {memory.config.lines} lines: leave out --lines, or "
                "choose another --home"
            )
        if memory is None:
            self._command("demo shop", "demo-shop", "init", *(["--lines", str(lines)] if lines else []))
        elif memory.reached == 0:  # its opening was interrupted, and is repeated
            config = memory.config
            history = ["--seed", str(config.seed), "--start", str(config.start), "--days", str(config.days)]
            self._command("demo shop", "demo-shop", "init", *history, "--lines", str(config.lines))
        elif self._before.get("is_published"):  # otherwise the same day is tried again
            self._command("demo shop", "demo-shop", "advance")

    def _daily(self) -> None:
        """`meltano run daily`; its tasks are stages of their own, the rest is Meltano's own time."""
        started = time.monotonic()
        tasks = list(DAILY)
        spent = 0.0
        self._begin(tasks[0])

        def on_line(line: str) -> None:
            nonlocal spent
            event = _meltano_event(line)
            self._take(f"{event.get('name', 'meltano'):<16} {event['event']}", event["event"])
            if event["event"] == "Block run completed" and event.get("success", True):
                spent += event["duration_seconds"]
                self._note(tasks.pop(0), event["duration_seconds"])
                if tasks:
                    self._begin(tasks[0])

        try:
            code = self._start(["meltano", "--log-format", "json", "run", "daily"], on_line)
        finally:
            self.result["streams"] = summary.streams(self.home, self._since)
        if code:
            if tasks and tasks[0] == "dbt build":
                self.result["build"] = summary.build(self.home, self._since)
            raise StageFailed(tasks[0] if tasks else "meltano", ended_by(code, "meltano") + what_matters(self._lines))
        self.result["is_published"] = True
        self._note("meltano", time.monotonic() - started - spent)

    def _docs(self) -> None:
        """One HTML file that needs no server and no network."""
        self._command("docs", "dbt", "docs", "generate", "--static")
        page = self.home.home / "docs" / "index.html"
        page.parent.mkdir(exist_ok=True)
        beside = page.with_suffix(".next")
        shutil.copyfile(self.home.home / "dbt" / "static_index.html", beside)
        beside.replace(page)

    def _summarise(self) -> None:
        self._begin("summary")
        started = time.monotonic()
        file = self.home.published_file
        version = published_version(file)
        self.result["build"] = summary.build(self.home, self._since)
        self.result["published"] = {"version": version.version if version else None, "file": str(file)}
        self.result["revenue"] = summary.revenue(file)
        self.result["changes"] = summary.changes(version_before(self.home), file)
        self._note("summary", time.monotonic() - started)

    def _command(self, stage: str, *command: str) -> None:
        """A stage that is one command."""
        self._begin(stage)
        started = time.monotonic()
        if code := self._start(list(command), lambda line: self._take(f"{command[0]:<16} {line}", line)):
            raise StageFailed(stage, ended_by(code, command[0]) + what_matters(self._lines))
        self._note(stage, time.monotonic() - started)

    def _start(self, command: list[str], on_line: Any) -> int:
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "WAREHOUSE_SHOP": self.home.shop,
            "WAREHOUSE_HOME": str(self.home.home),
            "WAREHOUSE_DATA": str(self.home.data),
            "DBT_PROJECT_DIR": str(PROJECT_ROOT / "dbt_project"),
            "DBT_PROFILES_DIR": str(PROJECT_ROOT / "dbt_project"),
            "DBT_USE_COLORS": "false",
            "PYTHONUNBUFFERED": "1",
        }
        try:
            return commands.run(
                [str(BIN / command[0]), *command[1:]],
                folder=PROJECT_ROOT,
                environment=environment,
                on_start=self._remember_group,
                on_line=on_line,
            )
        finally:
            self._remember_group(None)

    def _remember_group(self, group: int | None) -> None:
        """Write into the lock which process group is ours, for the next run if this one is killed."""
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(str(group or ""))
        self._lock.flush()

    def _begin(self, stage: str) -> None:
        self.result["stage"] = stage
        self._save()
        self._lines.clear()
        self.progress.begin(stage)

    def _take(self, logged: str, shown: str) -> None:
        with self._log_file.open("a") as log:
            log.write(f"{datetime.now(UTC):%H:%M:%S} {plain(logged)}\n")
        self._lines.append(plain(shown))
        self.progress.line(shown)

    def _note(self, stage: str, seconds: float) -> None:
        self.result["stages"].append({"name": stage, "seconds": round(seconds, 2)})
        self.progress.end(stage, seconds)

    def _save(self) -> None:
        beside = self._last_run.with_suffix(".next")
        beside.write_text(json.dumps(self.result, indent=2) + "\n")
        beside.replace(self._last_run)

    def next_commands(self) -> list[tuple[str, str]]:
        """Three commands to try next, with what they do."""
        again = "scripts/run"
        variables = ""
        default_home = ".warehouse"
        if self.home.shop != DEFAULT_SHOP:
            again += f" --shop {self.home.shop}"
            variables = f"WAREHOUSE_SHOP={self.home.shop} "
            default_home += f"-{self.home.shop}"
        if self.home.home != PROJECT_ROOT / default_home:
            again += f" --home {shlex.quote(str(self.home.home))}"
            variables += f"WAREHOUSE_HOME={shlex.quote(str(self.home.home))} "
        if self.options.data:
            again += f" --data {shlex.quote(self.options.data)}"
        why = "take up new files" if self.options.data else "one day later"
        query = "from mart_daily_sales order by date_id desc limit 7"
        return [
            (again, why),
            (
                f".venv/bin/python -c \"import duckdb; print(duckdb.connect('{_shown(self.home.published_file)}', "
                f"read_only=True).sql('{query}'))\"",
                "the last week's sales",
            ),
            (
                f"{variables}.venv/bin/dbt docs serve",
                f"models and lineage; also {_shown(self.home.home / 'docs/index.html')}",
            ),
        ]


def _where() -> str:
    """Where the next commands are to be typed, unless it is here."""
    return "" if Path.cwd() == PROJECT_ROOT else f", in {PROJECT_ROOT}"


def _shown(path: Path) -> Path:
    """The path as one types it in the project's folder."""
    return path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path


def ended_by(code: int, command: str) -> list[str]:
    """A line about a command that a signal ended: its own last lines cannot say so."""
    if code >= 0:
        return []
    name = signal.Signals(-code).name
    hint = " (the machine may have run out of memory)" if -code == signal.SIGKILL else ""
    return [f"{command} was ended by {name}{hint}; what it said before:"]


def what_matters(lines: list[str]) -> list[str]:
    """The few lines of a failed command that say why: dbt's list of errors, else the telling ones, else the last."""
    told = [line.strip() for line in lines if not _BESIDE_THE_POINT.search(line)]
    for index, line in enumerate(told):
        if "Completed with" in line or "Encountered an error" in line:
            return list(itertools.takewhile(lambda text: "[WARNING]" not in text, told[index:]))[:SHOWN_LINES]
    telling = [line for line in told if _TELLING.search(line)]
    return (telling or told)[-SHOWN_LINES:]


def _meltano_event(line: str) -> dict[str, Any]:
    """A line of Meltano's JSON log; what is not JSON is an event of its own."""
    try:
        event = json.loads(line)
    except ValueError:
        return {"event": line}
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else {"event": line}


@contextmanager
def only_run(home: Settings) -> Iterator[IO[str]]:
    """Hold the lock of a warehouse, and end what a killed run left at work.

    Raises:
        UserError: another run is at work, or the folder cannot be written.
    """
    try:
        home.home.mkdir(parents=True, exist_ok=True)
        file = (home.home / "run.lock").open("a+")
    except OSError as error:
        raise UserError(f"{home.home} cannot hold a warehouse ({error.strerror}): choose another --home") from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another scripts/run or scripts/erase-user is at work on {home.home}: wait for it, or stop it first"
            ) from error
        lock.seek(0)
        group = lock.read().strip()
        if group.isdigit() and commands.end_leftovers(int(group), BIN):
            print("Ended what a killed run had left at work.", flush=True)
        yield lock


def resolve(options: argparse.Namespace) -> Settings:
    """The warehouse that the options name; they win over the environment.

    Raises:
        UserError: an unknown shop, a data folder that is not there, or an option that does not fit the shop.
    """
    for name, value in (("WAREHOUSE_SHOP", options.shop), ("WAREHOUSE_HOME", options.home)):
        if value:
            os.environ[name] = value if name == "WAREHOUSE_SHOP" else str(Path(value).expanduser().resolve())
    if options.data:
        options.data = str(Path(options.data).expanduser().resolve())
        os.environ["WAREHOUSE_DATA"] = options.data
    options.data = os.environ.get("WAREHOUSE_DATA")
    home = settings.load()
    if home.engine != DUCKDB:
        raise UserError(
            f"scripts/run makes a warehouse of DuckDB, and WAREHOUSE_ENGINE is {home.engine}: unset it, or type"
            f" `meltano --environment={home.engine} run daily` (docs/postgres.md)"
        )
    if not home.streams_file.exists():
        known = ", ".join(sorted(file.stem for file in home.streams_file.parent.glob("*.yml")))
        raise UserError(f"there is no shop '{home.shop}' (known: {known}); a new one starts with {home.streams_file}")
    load_streams(home.streams_file)  # its faults, before anything is started
    if options.data and not home.data.is_dir():
        raise UserError(f"--data {home.data} is not a folder")
    _check_same_source(home, options)
    if home.shop != DEFAULT_SHOP and not options.data and not home.data.is_dir():
        raise UserError(f"say where the files of {home.shop} are: scripts/run --shop {home.shop} --data FOLDER")
    if options.lines and (home.shop != DEFAULT_SHOP or options.data):
        raise UserError("--lines is the size of the demo shop; it means nothing for your own files")
    return home


def _check_same_source(home: Settings, options: argparse.Namespace) -> None:
    """Refuse to mix the simulated shop with files from elsewhere: equal names would replace one another."""
    if home.shop != DEFAULT_SHOP:
        return
    memory = Memory.load(home.home)
    if memory and memory.into == POSTGRES:
        raise UserError(
            f"the shop of {home.home} keeps its orders in PostgreSQL: use `demo-shop advance` and `meltano"
            " --environment=services run daily`, or choose another --home"
        )
    source = home.home / "source"
    if options.data and home.data != source and memory:
        raise UserError(f"{home.home} holds the simulated shop: choose another --home for the files of {home.data}")
    if not options.data and home.warehouse_file.exists() and not memory:
        raise UserError(
            f"{home.home} holds the files of a --data folder, not the simulated shop: name the folder again, or choose "
            "another --home"
        )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/run",
        description="Run the whole job for one shop: extract, load, build, test, publish, document, summarise. "
        "Without --data it is the demo shop, which lives one day more at each run after a published one.",
    )
    parser.add_argument("--shop", help=f"the shop of this warehouse (default: {DEFAULT_SHOP})")
    parser.add_argument("--data", metavar="FOLDER", help="read the files of this folder instead of the demo shop's")
    parser.add_argument(
        "--home", metavar="FOLDER", help="where everything is kept (default: .warehouse or .warehouse-SHOP)"
    )
    parser.add_argument(
        "--lines",
        type=_lines,
        metavar="N",
        help=f"open the demo shop with about so many order lines, at least {FEWEST_LINES:,}",
    )
    parser.add_argument("--started", type=_seconds, default=time.time(), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _lines(text: str) -> int:
    """A size of the demo shop with sales on every open day, which publishing asks for."""
    if not text.isdigit() or int(text) < FEWEST_LINES:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {FEWEST_LINES} up")
    return int(text)


def _seconds(text: str) -> float:
    """Seconds since 1970 as bash writes them: some locales have a decimal comma."""
    return float(text.replace(",", "."))


def main() -> int:
    """Run; the exit code is 0 only when the marts are published and documented."""
    options = parse()
    run = None
    try:
        with commands.interruptible():
            home = resolve(options)
            with only_run(home) as lock:
                with Progress() as progress:
                    run = Run(home, options, lock, progress)
                    run.execute()
                print("\n" + summary.text(run.result, _where(), run.next_commands()))
                return 0
    except StageFailed as error:
        print(f"\nscripts/run: {error}. What it said:", file=sys.stderr)
        print("\n".join(f"    {line}" for line in error.lines), file=sys.stderr)
        code = 1
    except UserError as error:
        print(f"scripts/run: {error}", file=sys.stderr)
        code = 1
    except Interrupted as error:
        print(f"\nscripts/run: {error}; nothing of it is left at work", file=sys.stderr)
        code = 128 + error.signal_number
    if run:
        published = "" if run.result["is_published"] else "; what was published before stays"
        print(f"Everything it wrote: {run.result['log']}{published}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
