"""Commands with their time and memory, and the figures that are drawn from repetitions."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingestion.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One run: wall time and processor time in seconds, and the peak memory of its largest process in MB (2^20)."""

    seconds: float
    processor_seconds: float
    peak_mb: float

    def __add__(self, other: Sample) -> Sample:
        """This run, and then the other."""
        return Sample(
            self.seconds + other.seconds,
            self.processor_seconds + other.processor_seconds,
            max(self.peak_mb, other.peak_mb),
        )


def run(command: Sequence[str | Path], log: Path, environment: Mapping[str, str], folder: Path) -> Sample:
    """Run a command to its end; its output goes to `log`. Raises UserError when it fails.

    The system counts time and peak memory over the whole tree of processes that were waited for, so nothing is sampled.
    A child's peak includes ours at the time of the fork: this process must stay small.
    """
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise UserError(
            f"'{' '.join(words)[:200]}' failed with exit code {child.returncode}; the end of {log}:\n{tail}"
        )
    return Sample(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of repetitions."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(min(values), statistics.median(values), max(values))


def ratios(others: Sequence[float], ours: Sequence[float], idle: Sequence[float] | None = None) -> Spread:
    """Our speed as a multiple of another's, round by round: what ran side by side is compared, so drift cancels out.

    `idle` is the time of a run that moves nothing, which is taken off ours.
    """
    less = idle or [0.0] * len(ours)
    return Spread.of([other / (own - nothing) for other, own, nothing in zip(others, ours, less, strict=True)])


def beyond(ours: Sequence[float], idle: Sequence[float]) -> Spread:
    """Seconds that ours took beyond a run that moves nothing, round by round."""
    return Spread.of([own - nothing for own, nothing in zip(ours, idle, strict=True)])
