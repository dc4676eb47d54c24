"""Columns of text, made without a Python loop per row (lookup tables and Arrow kernels)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DAY = 86_400
# How a shop writes a moment: (date table, time table), or an epoch. The position is the style's number.
_STYLES = (
    ("iso", "T..Z"),
    ("iso", "hms"),
    ("iso", "micro"),
    ("iso", "+02:00"),
    ("iso", "none"),
    ("dmy", "hm"),
    ("dmy", "hms"),
    ("ymd", "hm"),
    ("ymd", "hms"),
    ("mon", "hm"),
    ("mon", "hms"),
)
EPOCH_SECONDS = len(_STYLES)
EPOCH_MILLISECONDS = EPOCH_SECONDS + 1
STYLES = EPOCH_MILLISECONDS + 1
_DATES = {"iso": "%Y-%m-%d", "dmy": "%d/%m/%Y", "ymd": "%Y/%m/%d", "mon": "{mon} %d, %Y"}
_TIMES = ("T..Z", "hms", "micro", "+02:00", "none", "hm")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def strings(values: Sequence[str | None]) -> pa.Array:
    """A string column."""
    return pa.array(values, pa.string())


def integers(values: np.ndarray) -> pa.Array:
    """Integers as text."""
    return pa.array(values).cast(pa.string())


def pick(table: pa.Array, index: np.ndarray) -> pa.Array:
    """`table[index]` as a column."""
    return table.take(pa.array(index))


def join(*parts: pa.Array | str, between: str = "") -> pa.Array:
    """Columns and constants side by side; null parts count as empty."""
    return pc.binary_join_element_wise(*parts, between, null_handling="replace", null_replacement="")


def where(mask: np.ndarray, yes: pa.Array | str | None, no: pa.Array | str | None) -> pa.Array:
    """`yes` where the mask holds, else `no`."""

    def scalar(value: pa.Array | str | None) -> pa.Array | pa.Scalar:
        return value if isinstance(value, pa.Array) else pa.scalar(value, pa.string())

    return pc.if_else(pa.array(mask), scalar(yes), scalar(no))


_CENTS = strings(
    [f".{cents:02d}" for cents in range(100)] + [(f".{cents:02d}".rstrip("0").rstrip(".")) for cents in range(100)]
)


def money(cents: np.ndarray, short: np.ndarray) -> pa.Array:
    """Cents as a shop writes them: `12.50`, or where `short` is 1 `12.5` and `12`."""
    return join(integers(cents // 100), pick(_CENTS, cents % 100 + 100 * short))


class Moments:
    """Text of moments given as seconds since the shop's first day, 00:00 UTC."""

    def __init__(self, start: datetime, first_day: int, last_day: int) -> None:
        self._start = int(start.replace(tzinfo=UTC).timestamp())
        self._first_day = first_day
        self._width = last_day - first_day + 1
        days = [start + timedelta(days=day) for day in range(first_day, last_day + 1)]
        self._dates = strings(
            [day.strftime(form).replace("{mon}", _MONTHS[day.month - 1]) for form in _DATES.values() for day in days]
        )
        clock = strings([f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in range(DAY)])
        short = pc.utf8_slice_codeunits(clock, 0, 5)
        texts = {
            "T..Z": join("T", clock, "Z"),
            "hms": join(" ", clock),
            "micro": join(" ", clock, ".500000"),
            "+02:00": join(" ", clock, "+02:00"),
            "none": strings([""] * DAY),
            "hm": join(" ", short),
        }
        self._times = pa.concat_arrays([texts[name] for name in _TIMES])
        self._date_offset = np.array([list(_DATES).index(date) * self._width for date, _ in _STYLES] + [0, 0])
        self._time_offset = np.array([_TIMES.index(time) * DAY for _, time in _STYLES] + [0, 0])
        self._shift = np.array([7200 if time == "+02:00" else 0 for _, time in _STYLES] + [0, 0])

    def iso(self, seconds: np.ndarray) -> pa.Array:
        """`2024-07-01T12:00:00Z`."""
        return self.styled(seconds, np.zeros(len(seconds), np.int64))

    def epoch(self, seconds: np.ndarray) -> np.ndarray:
        """Seconds since 1970."""
        return seconds + self._start

    def styled(self, seconds: np.ndarray, style: np.ndarray) -> pa.Array:
        """Each moment in its own style (0 to STYLES - 1); see `_STYLES`."""
        shifted = seconds + self._shift[style]
        day, second = np.divmod(shifted, DAY)
        text = join(
            pick(self._dates, self._date_offset[style] + day - self._first_day),
            pick(self._times, self._time_offset[style] + second),
        )
        if style.max(initial=0) < EPOCH_SECONDS:
            return text
        epoch = self.epoch(seconds)
        text = where(style == EPOCH_SECONDS, integers(epoch), text)
        return where(style == EPOCH_MILLISECONDS, integers(epoch * 1000 + 250), text)
