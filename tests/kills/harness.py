"""Start a run, kill one of its processes at a moment, run again; and what every warehouse must hold afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ingestion import lifeline
from tests.integration.conftest import TargetHome
from tests.kills import runner
from tests.pipeline import BIN

VICTIMS = ("tap", "target", "meltano")
START_SHARE = 0.1
"""Of the kills: so many come while the processes start, the others while they work."""
RUN_SECONDS = 120
LEFT = ("half a file", "a batch not loaded", "a load not in the state")
"""What a kill may leave for the next run: of the lake's writing, between lake and warehouse, after the commit."""
MOST_RUNS = 6
"""For one hit so many runs are started at most."""


class RunFailed(Exception):
    """A run that nobody killed did not end well."""


@dataclass(frozen=True)
class Kill:
    """One kill: of whom, how long after the run began to work (None: before), and what it hit."""

    victim: str
    seconds: float | None
    hit: bool
    left: frozenset[str] = frozenset()
    """What it left behind, of LEFT."""


class Starter(Protocol):
    """How a run is started."""

    def start(self) -> Running:
        """Start it; its processes may not be there yet."""


@dataclass
class Running:
    """A run at work: how to wait for it, its log, and the ids of its processes as far as they are there."""

    wait: Callable[[float], int | None]
    log: Path
    find: Callable[[], dict[str, int]]

    def wait_for_work(self) -> bool:
        """Whether the run began to work (the tap its first stream) before it ended."""
        while not (self.log.exists() and b"Beginning sync of" in self.log.read_bytes()):
            if self.wait(0.003) is not None:
                return False
        return True

    def pid(self, victim: str) -> int | None:
        """The process of that name; None when it is not there."""
        return self.find().get(victim)


@dataclass
class Pipe:
    """`tap | target` by `tests.kills.runner`: many moments in little time."""

    tap: runner.Command
    target: runner.Command
    state: Path
    environment: dict[str, str]
    logs: Path

    def start(self) -> Running:
        """Start it."""
        log = next_log(self.logs)
        pids = log.with_suffix(".pids")
        process = runner.start(self.tap, self.target, self.state, self.environment, log, pids)

        def wait(seconds: float) -> int | None:
            process.join(seconds)
            return process.exitcode

        return Running(wait, log, lambda: json.loads(pids.read_text()) if pids.exists() else {})


@dataclass
class Meltano:
    """`meltano run TAP target-warehouse`."""

    tap: str
    project: Path
    environment: dict[str, str]
    logs: Path

    def start(self) -> Running:
        """Start it."""
        log = next_log(self.logs)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(BIN / "meltano"), "run", self.tap, "target-warehouse"],
                cwd=self.project,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def wait(seconds: float) -> int | None:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None

        return Running(wait, log, lambda: self._find(process.pid))

    def _find(self, meltano: int) -> dict[str, int]:
        found = {"meltano": meltano}
        with contextlib.suppress(OSError):
            for pid in map(int, Path(f"/proc/{meltano}/task/{meltano}/children").read_text().split()):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"/target-warehouse" in command:
                    found["target"] = pid
                # Discovery runs before, as a process of its own.
                elif f"/{self.tap}".encode() in command and b"--discover" not in command:
                    found["tap"] = pid
        return found


@dataclass
class Killer:
    """Kills runs at seeded moments, which are spread over the time that a whole run works."""

    starter: Starter
    warehouse: TargetHome
    chance: random.Random
    start_seconds: float
    work_seconds: float = 1.0
    kills: list[Kill] = field(default_factory=list)

    def victims(self, hits: int, among: Sequence[str] = VICTIMS) -> list[str]:
        """Whom to kill next, in random order: those that were not hit so often yet; at the end none."""
        assert len(self.kills) < MOST_RUNS * hits * len(among), table(self.kills)
        counts = Counter(kill.victim for kill in self.kills if kill.hit)
        return self.chance.sample(among, len(among)) if any(counts[each] < hits for each in among) else []

    def whole_run(self) -> None:
        """A run that nobody kills; raises RunFailed with its last words."""
        running = self.starter.start()
        began = running.wait_for_work() and time.monotonic()
        code = running.wait(RUN_SECONDS)
        if code != 0:
            what = f"still at work after {RUN_SECONDS} s" if code is None else f"exit code {code}"
            raise RunFailed(f"{what}\n{last_words(running.log)}")
        self.work_seconds = time.monotonic() - began

    def killed_run(self, victim: str) -> Kill:
        """Start a run, and kill one of its processes; returns when the run has ended, whose leftovers may live on."""
        running = self.starter.start()
        seconds: float | None = None
        if self.chance.random() < START_SHARE:
            running.wait(self.chance.uniform(0, self.start_seconds))
        elif running.wait_for_work():
            seconds = self.chance.uniform(0, self.work_seconds)
            running.wait(seconds)
        pid = running.pid(victim)
        hit = running.wait(0) is None and pid is not None
        if hit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = running.wait(RUN_SECONDS)
        assert code is not None, last_words(running.log)
        kill = Kill(victim, seconds, hit, left_behind(self.warehouse) if hit else frozenset())
        self.kills.append(kill)
        return kill


def next_log(logs: Path) -> Path:
    """A new file for what a run says."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{len(list(logs.glob('*.log'))) + 1}.log"
    log.touch()
    return log


def closed_batches(home: Path) -> Iterator[dict[str, Any]]:
    """The lines of all manifests; a last one that a kill tore does not count."""
    for manifest in home.glob("lake/raw/*/*/_manifest.jsonl"):
        for line in manifest.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def left_behind(warehouse: TargetHome) -> frozenset[str]:
    """What of LEFT is there now."""
    found = set()
    home = warehouse.home
    if any(home.glob("lake/raw/*/*/.tmp-*")):
        found.add(LEFT[0])
    in_lake = {batch["load_id"] for batch in closed_batches(home)}
    # The target may be about to end.
    loads = lifeline.once_free(lambda: _loads(warehouse), lambda _: True)
    if in_lake - {load_id for _, load_id in loads}:
        found.add(LEFT[1])
    state = home / "state.json"
    bookmarks = json.loads(state.read_text())["bookmarks"] if state.exists() else {}
    # Meltano's own state is not looked at.
    if not (home / "meltano").exists() and any(
        load_id > bookmarks.get(stream, {}).get("load_id", 0) for stream, load_id in dict(loads).items()
    ):
        found.add(LEFT[2])
    return frozenset(found)


def _loads(warehouse: TargetHome) -> list[tuple[Any, ...]]:
    """Stream and number of each load that the ledger has, in their order."""
    if warehouse.database is None and not (warehouse.home / "warehouse.duckdb").exists():
        return []
    with warehouse.connect() as ask:
        if not ask("select 1 from information_schema.tables where table_schema = 'ops' and table_name = 'loads'"):
            return []
        return ask("select source || '-' || stream, load_id from ops.loads order by load_id")


def table(kills: list[Kill]) -> str:
    """The kills as a Markdown table: how many of each process hit it, when, and what they left behind."""
    lines = [f"| killed | hits | at start-up | seconds of work before | {' | '.join(LEFT)} |", "|---" * 7 + "|"]
    for victim in VICTIMS:
        own = [kill for kill in kills if kill.victim == victim and kill.hit]
        moments = sorted(kill.seconds for kill in own if kill.seconds is not None)
        span = f"{moments[0]:.2f} to {moments[-1]:.2f}" if moments else ""
        left = " | ".join(str(sum(each in kill.left for kill in own)) for each in LEFT)
        lines.append(f"| {victim} | {len(own)} | {len(own) - len(moments)} | {span} | {left} |")
    return "\n".join(lines)


def last_words(log: Path) -> str:
    """The end of a run's log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-25:]) if log.exists() else "(no log)"


@contextlib.contextmanager
def writing(step: Callable[[], None]) -> Iterator[None]:
    """A source that changes all the time: takes steps in a thread until the block ends."""
    stop = threading.Event()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                step()
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if faults:
        raise faults[0]


def check_ledger(warehouse: TargetHome) -> int:
    """Ledger, raw and lake agree, and nothing of a killed run is in sight; returns the number of loads."""
    with warehouse.connect() as ask:
        loads = ask(
            "select load_id, batch_id, source, stream, rows_extracted, rows_loaded, rows_quarantined, rows_dropped"
            " from ops.loads order by load_id"
        )
        assert len({load[0] for load in loads}) == len({load[1] for load in loads}) == len(loads)
        for load_id, _, _, _, extracted, loaded, quarantined, dropped in loads:
            assert extracted == loaded + quarantined + dropped, load_id
        for source, stream in {load[2:4] for load in loads}:
            in_raw = ask(f'select _sdc_load_id, count(*) from "raw_{source}"."{stream}" group by _sdc_load_id')
            wanted = {load[0]: load[5] for load in loads if load[2:4] == (source, stream) and load[5]}
            assert dict(in_raw) == wanted, stream
        last = ask(
            "select status from ops.syncs"
            " where sync_id in (select sync_id from ops.syncs order by started_at desc limit 1)"
        )
        assert set(last) == {("ok",)}
    assert not list(warehouse.home.glob("lake/raw/*/*/.tmp-*"))
    assert Counter(batch["batch_id"] for batch in closed_batches(warehouse.home)) == Counter(load[1] for load in loads)
    return len(loads)
