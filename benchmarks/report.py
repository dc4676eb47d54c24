"""What was measured as tables in Markdown, which are also read well on a terminal."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Sample, Spread


@dataclass(frozen=True)
class Figure:
    """One figure beside its limit: `at_least` or `at_most`, or neither where there is no promise for it."""

    what: str
    spread: Spread
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the median keeps the limit; None without one."""
        if self.at_least is not None:
            return self.spread.middle >= self.at_least
        return self.spread.middle <= self.at_most if self.at_most is not None else None

    def row(self) -> list[str]:
        """The figure as cells of a table."""
        limit = (
            ""
            if self.reached is None
            else f"at least {self.at_least:g}"
            if self.at_least
            else f"at most {self.at_most:g}"
        )
        verdict = {None: "", True: "yes", False: "**no**"}[self.reached]
        values = [f"{value:.2f} {self.unit}" for value in (self.spread.low, self.spread.middle, self.spread.high)]
        return [self.what, *values, limit, verdict]


FIGURE_HEADER = ("figure", "min", "median", "max", "limit", "reached")
TIME_HEADER = ("way", "rows", "s min", "s median", "s max", "rows/s", "processor s", "peak MB")


def time_row(way: str, rows: int, samples: Sequence[Sample]) -> list[str]:
    """A way's repetitions as cells of a table: speed and processor time are medians, memory is the highest.

    `rows` is 0 for a way that moves none.
    """
    seconds = Spread.of([sample.seconds for sample in samples])
    processor = Spread.of([sample.processor_seconds for sample in samples])
    peak = max(sample.peak_mb for sample in samples)
    times = [f"{value:.2f}" for value in (seconds.low, seconds.middle, seconds.high)]
    speed = f"{rows / seconds.middle:,.0f}" if rows else ""
    return [way, f"{rows:,}" if rows else "", *times, speed, f"{processor.middle:.1f}", f"{peak:.0f}"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(line[n]) for line in (header, *rows)) for n in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def machine(ours: Sequence[str], more: Mapping[str, str] | None = None, others: Mapping[str, str] | None = None) -> str:
    """Where and when, and with which versions, it was measured.

    `ours` are packages of this environment, `more` versions of what is no package, `others` those of other projects.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware = f"{cores} cores ({_processor()}), {_memory_gb():.0f} GB of memory"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    lines = [
        f"Measured {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC on {hardware}, {system}; load before:"
        f" {os.getloadavg()[0]:.1f}.",
        "",
        f"Ours: {_named({name: version(name) for name in ours} | dict(more or {}))}.",
    ]
    return "\n".join(lines + ([f"Others: {_named(others)}."] if others else []))


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def put(file: Path, page: str) -> None:
    """Write a page, which begins with a heading of the first level, into a file in the place of the one it renews."""
    title = page.partition("\n")[0]
    pages = [f"# {text}" for text in f"\n{file.read_text()}".split("\n# ")[1:]] if file.exists() else []
    titles = [each.partition("\n")[0] for each in pages]
    if title in titles:
        pages[titles.index(title)] = page
    else:
        pages.append(page)
    file.write_text("\n\n".join(each.strip() for each in pages) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
