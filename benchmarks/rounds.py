"""Rounds in which every way runs once, and what they gave."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Sample
from benchmarks.report import Figure


@dataclass
class Results:
    """Samples by way and row count, and the figures drawn from them."""

    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def add(self, way: str, rows: int, sample: Sample) -> None:
        """Take a sample, and show it."""
        self.samples.setdefault((way, rows), []).append(sample)
        print(f"  {way}, {rows:,} rows: {sample.seconds:.2f} s, {sample.peak_mb:.0f} MB", file=sys.stderr, flush=True)

    def seconds(self, way: str, rows: int) -> list[float]:
        """Wall times of a way, in the order of the rounds."""
        return [sample.seconds for sample in self.samples[way, rows]]

    @property
    def missed(self) -> list[Figure]:
        """Figures that break their limit."""
        return [figure for figure in self.figures if figure.reached is False]


def in_turns(ways: Sequence[Callable[[], None]], rounds: int) -> None:
    """Run every way once per round, every other round backwards."""
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            way()
