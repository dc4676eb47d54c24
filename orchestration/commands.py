"""Child commands: their output line by line, and nothing of them left when they end or we are told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 10
"""How long a command may take to end after it was asked to, before it is killed."""


class Interrupted(Exception):
    """A signal told this process to stop."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C, `kill` and a closed terminal into Interrupted, so that everything is cleaned up on the way out."""

    def stop(signal_number: int, _frame: FrameType | None) -> None:
        raise Interrupted(signal_number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    command: list[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    on_start: Callable[[int], None],
    on_line: Callable[[str], None],
) -> int:
    """Run a command in a process group of its own and return its exit code.

    `on_start` gets the group's id, `on_line` each line of standard output and error. When this returns or raises, no
    process of the group is left.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def end_with_it() -> None:
        # What the command leaves behind may hold the pipe open, and the loop below would wait for it.
        child.wait()
        end_group(child.pid)

    threading.Thread(target=end_with_it, daemon=True).start()
    try:
        on_start(child.pid)
        assert child.stdout is not None
        for line in child.stdout:
            on_line(line.rstrip("\n"))
        return child.wait()
    finally:
        end_group(child.pid)
        child.wait()


def end_group(group: int) -> None:
    """Ask the processes of a group to end, and kill them after GRACE_SECONDS."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        _wait_for_end(group)
        os.killpg(group, signal.SIGKILL)
        _wait_for_end(group)


def end_leftovers(group: int, executables: Path) -> bool:
    """End what a killed run left of its process group; True if there was anything.

    A number may belong to somebody else by now, so only processes of `executables` (the environment's folder) count.
    """
    if not any(str(executables) in _command_line(process) for process in _members(group)):
        return False
    end_group(group)
    return True


def _wait_for_end(group: int) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(_runs(process) for process in _members(group)):
        time.sleep(0.05)


def _runs(process: Path) -> bool:
    """Whether a process runs; one that ended but was not waited for yet (a zombie) does not."""
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _members(group: int) -> list[Path]:
    """The processes of a group, as folders of /proc; none on systems without it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(int(process.name)) == group:
                found.append(process)
    return found


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
