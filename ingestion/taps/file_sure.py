"""Cheap proofs, from the bytes of a whole column at once, that all its texts pass the rules.

Most columns of most files are written in one plain way. What these looks do not recognise is not wrong, it only has to
be looked at by `file_rules`, which is tens of times dearer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.taps.file_config import FileStreamConfig
from ingestion.taps.file_rules import BOOLEANS, kinds, obligatory

_DIGITS = {"integer": 9, "bigint": 18, "decimal": 14}
_DECIMALS = 4
# In microseconds, because Python's datetime has no year 0.
_FROM, _UNTIL = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 for year in (1970, 2100))
_BOOLEANS = [*BOOLEANS, "", None]


def unsure_columns(config: FileStreamConfig, columns: Sequence[str], chunk: pa.RecordBatch) -> list[str]:
    """The columns of a chunk of texts in which some text may break a rule."""
    types, needed = kinds(config, columns), obligatory(config, columns)
    return [name for name in columns if not _is_sure(chunk[name], types.get(name), name in needed, config.format)]


def _is_sure(texts: pa.StringArray, kind: str | None, is_needed: bool, source: str) -> bool:
    if kind is None and not is_needed and source == "csv":
        return True
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    # A null has no bytes.
    content = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    ends = ends - ends[0]
    if is_needed and np.any(np.diff(ends) == 0):
        return False
    if not len(content):
        return True
    if kind is None:
        # In a CSV file there is no NUL, as its bytes tell. Other blanks than " " have more than one byte.
        first = content[ends[:-1]] if is_needed else content[:0]
        return (source == "csv" or content.min() > 0) and not np.any((first == ord(" ")) | (first > 127))
    if kind == "boolean":
        return bool(pc.all(pc.is_in(texts, pa.array(_BOOLEANS))).as_py())
    if kind in ("timestamp", "date"):
        return _are_moments(texts, content, np.diff(ends), kind)
    return _are_numbers(content, ends, kind)


def _are_numbers(content: np.ndarray, ends: np.ndarray, kind: str) -> bool:
    """Whether all texts are digits, perhaps with a minus before them or, in a decimal, a point between them."""
    lengths = np.diff(ends)
    given = np.flatnonzero(lengths)
    starts, ends, lengths = ends[:-1][given], ends[1:][given], lengths[given]
    strangers = np.flatnonzero(content - np.uint8(ord("0")) > 9)
    if not len(strangers):
        return bool(lengths.max() <= _DIGITS[kind])
    minus = content[starts] == ord("-")
    points = strangers[content[strangers] == ord(".")] if kind == "decimal" else strangers[:0]
    if len(points) + np.count_nonzero(minus) != len(strangers):
        return False
    whole = lengths - minus
    if len(points):
        rows = np.searchsorted(ends, points, "right") if len(points) != len(given) else np.arange(len(given))
        before, after = points - starts[rows] - minus[rows], ends[rows] - points - 1
        if np.any(np.diff(rows) == 0) or np.any(after < 1) or np.any(after > _DECIMALS) or np.any(before < 1):
            return False
        whole[rows] = before
    return bool(whole.min() >= 1 and whole.max() <= _DIGITS[kind])


def _are_moments(texts: pa.StringArray, content: np.ndarray, lengths: np.ndarray, kind: str) -> bool:
    """Whether all texts are such moments, written alike: YYYY-MM-DD or YYYY-MM-DD[ T]HH:MM:SS[.ffffff][Z]."""
    given = np.flatnonzero(lengths)
    first = texts[int(given[0])].as_py()
    if np.any(lengths[given] != len(first)):
        return False
    pattern = b"0000-00-00"
    if kind == "timestamp" and len(first) >= 19:
        pattern += first[10].encode() + b"00:00:00"
        fraction = len(first) - len(pattern) - first.endswith("Z")
        pattern += b"." + b"0" * (fraction - 1) if 2 <= fraction <= 7 else b""
        pattern += b"Z" * first.endswith("Z")
    if len(pattern) != len(first) or pattern[10:11] not in (b"", b" ", b"T"):
        return False
    least, span = _repeated(pattern, len(given))
    if np.any(content - least > span):
        return False
    zone = "UTC" if first.endswith("Z") else None
    try:
        # Arrow knows the calendar.
        bounds = pc.min_max(pc.cast(texts, pa.timestamp("us", zone)))
    except pa.ArrowInvalid:
        return False
    return bounds["min"].value >= _FROM and bounds["max"].value <= _UNTIL


@lru_cache(4)
def _repeated(pattern: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The least byte at each place, and how much greater it may be."""
    span = bytes(9 * (byte == ord("0")) for byte in pattern)
    return np.frombuffer(pattern * count, np.uint8), np.frombuffer(span * count, np.uint8)
