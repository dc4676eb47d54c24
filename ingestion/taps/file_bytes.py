"""One look at all bytes of a CSV file: are they what DuckDB reads exactly?"""

from __future__ import annotations

import codecs
import threading
from concurrent.futures import CancelledError
from typing import Protocol

import numpy as np
import pyarrow as pa

_READ_BYTES = 1 << 20
_BLANK, _QUOTE = ord(" "), ord('"')


class Bytes(Protocol):
    """A file, decompressed."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read up to the size of `buffer`; 0 at the end."""


class Until:
    """A file that is read until an event is set, by which a thread that reads it is told to stop."""

    def __init__(self, file: Bytes, ended: threading.Event) -> None:
        self._file = file
        self._ended = ended

    def readable(self) -> bool:
        """Yes, as hashlib wants to know."""
        return True

    def readinto(self, buffer: memoryview, /) -> int | None:
        """As the file; raises CancelledError once the event is set."""
        if self._ended.is_set():
            raise CancelledError
        return self._file.readinto(buffer)


def read_to_end(file: Bytes) -> None:
    """Read all there is, which finds damaged compression. Raises OSError."""
    buffer = memoryview(bytearray(_READ_BYTES))
    while file.readinto(buffer):
        pass


def is_regular(file: Bytes, mark: bytes, max_line_bytes: int) -> bool:
    r"""Whether a file of UTF-8 is CSV that DuckDB reads as it is; reads it to its end. Raises OSError.

    No NUL, no longer line, every line with the same end (\n or \r\n), the first one not empty, and no blanks between
    a delimiter and a quote.
    """
    look = _Look(mark, max_line_bytes)
    # The lines stand between two line ends, so that every byte of theirs has neighbours; the buffer is used again and
    # again, because taking memory from the system for every read costs more than all that is looked for.
    buffer = bytearray(_READ_BYTES)
    buffer[0] = ord("\n")
    end = 1
    while end < 4 and (count := file.readinto(memoryview(buffer)[end:4])):
        end += count
    if buffer.startswith(codecs.BOM_UTF8, 1):
        end = 1
    while True:
        if end == len(buffer) - 1:
            buffer = buffer + bytes(len(buffer))
        count = file.readinto(memoryview(buffer)[end:-1])
        end += count or 0
        after = buffer.rfind(b"\n", 1, end) + 1
        if end - max(after, 1) > max_line_bytes or (after and not look.at_lines(buffer, after)):
            read_to_end(file)
            return False
        if after:
            buffer[1 : 1 + end - after] = buffer[after:end]
            end = 1 + end - after
        if not count:
            return look.at_last(buffer, end)


class _Look:
    """What is to be remembered from one piece of the file to the next."""

    def __init__(self, mark: bytes, max_line_bytes: int) -> None:
        self.is_first = True
        self._has_returns = False
        self._limit = max_line_bytes
        self._quotes = 0
        self._edge = np.zeros(256, bool)
        self._edge[[ord("\r"), ord("\n"), *mark]] = True

    def at_lines(self, buffer: bytearray, end: int) -> bool:
        r"""Look at whole lines, `buffer[1:end]`; before and after them there is a \n."""
        if self.is_first:
            self.is_first = False
            if buffer[1] in b"\r\n":
                return False
            self._has_returns = buffer.find(b"\r", 1, end) >= 0
        if buffer.find(b"\0", 1, end) >= 0:
            return False
        text = np.frombuffer(buffer, np.uint8, end)
        return (
            self._lines_end_alike(buffer, text)
            and (end <= self._limit or bool(np.diff(np.flatnonzero(text == ord("\n"))).max() <= self._limit + 1))
            and _is_utf8(buffer, end)
            and not self._blanks_at_quotes(text)
        )

    def at_last(self, buffer: bytearray, end: int) -> bool:
        """Look at a last line that has no end."""
        if end == 1:
            return True
        if end - 1 > self._limit or buffer.find(b"\r", 1, end) >= 0:
            return False
        self._has_returns = False
        buffer[end] = ord("\n")
        return self.at_lines(buffer, end + 1)

    def _lines_end_alike(self, buffer: bytearray, text: np.ndarray) -> bool:
        if not self._has_returns:
            return buffer.find(b"\r", 1, len(text)) < 0
        return bool(np.array_equal(text[1:-1] == ord("\r"), text[2:] == ord("\n"))) and text[1] != ord("\n")

    def _blanks_at_quotes(self, text: np.ndarray) -> bool:
        """Whether blanks stand between a delimiter and a quote, outside of quotes: DuckDB takes those away.

        What is inside is told by the number of quotes before it, in the file and in the line; where these disagree, the
        answer is yes.
        """
        quotes = np.flatnonzero(text == _QUOTE)
        before = self._quotes
        self._quotes += len(quotes)
        opening = np.flatnonzero(text[quotes - 1] == _BLANK)
        closing = np.flatnonzero(text[quotes + 1] == _BLANK)
        if len(opening):
            opening = opening[self._edge[text[_beyond_blanks(text, quotes[opening], -1)]]]
        if len(closing):
            found = text[_beyond_blanks(text, quotes[closing], 1)]
            closing = closing[self._edge[found] | (found == _QUOTE)]
        if not len(opening) and not len(closing):
            return False
        lines = np.flatnonzero(text == ord("\n"))
        for at, closes in ((opening, 0), (closing, 1)):
            starts = lines[np.searchsorted(lines, quotes[at]) - 1]
            in_line = at - np.searchsorted(quotes, starts)
            if np.any((before + at) % 2 == closes) or np.any(in_line % 2 == closes):
                return True
        return False


def _beyond_blanks(text: np.ndarray, at: np.ndarray, step: int) -> np.ndarray:
    """Where the blanks beside each place end."""
    found = at + step
    blank = np.flatnonzero(text[found] == _BLANK)
    while len(blank):
        found[blank] += step
        blank = blank[text[found[blank]] == _BLANK]
    return found


def _is_utf8(buffer: bytearray, end: int) -> bool:
    offsets = pa.py_buffer(np.array([0, end], np.int32))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(buffer)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
