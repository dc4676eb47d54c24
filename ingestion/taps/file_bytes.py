"""One look at all bytes of a CSV file: does DuckDB read it exactly, and how?"""

from __future__ import annotations

import codecs
import threading
from concurrent.futures import CancelledError
from enum import Enum
from typing import Protocol

import numpy as np
import pyarrow as pa

_READ_BYTES = 1 << 20
_LINE_END, _QUOTE = ord("\n"), ord('"')


class Shape(Enum):
    """What DuckDB makes of a file's bytes."""

    IRREGULAR = "something else than they say, or an error"
    MULTILINE = "its records, if one thread reads from the start to the end: some texts hold line ends"
    LINES = "its records, also where threads begin in the midst: every line is a record"


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


def shape_of(file: Bytes, mark: bytes, max_line_bytes: int) -> Shape:
    r"""What DuckDB makes of a file of UTF-8; reads it to its end. Raises OSError.

    Regular is a file without NUL and longer lines, whose lines all end the same (\n or \r\n), the first one not empty,
    and whose quotes stand at the edges of fields or are doubled. Of others DuckDB makes something without a word: of a
    quote that is never closed it makes one value of all that follows.
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
            return Shape.IRREGULAR
        if after:
            buffer[1 : 1 + end - after] = buffer[after:end]
            end = 1 + end - after
        if not count:
            return look.shape() if look.at_last(buffer, end) else Shape.IRREGULAR


class _Look:
    """What is to be remembered from one piece of the file to the next."""

    def __init__(self, mark: bytes, max_line_bytes: int) -> None:
        self.is_first = True
        self._has_returns = False
        self._limit = max_line_bytes
        self._is_quoted = 0
        self._has_quoted_line_ends = False
        self._edge = np.zeros(256, bool)
        self._edge[[ord("\r"), _LINE_END, _QUOTE, *mark]] = True

    def shape(self) -> Shape:
        """What was seen, when all was."""
        if self._is_quoted:
            return Shape.IRREGULAR
        return Shape.MULTILINE if self._has_quoted_line_ends else Shape.LINES

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
            and (end <= self._limit or bool(np.diff(np.flatnonzero(text == _LINE_END)).max() <= self._limit + 1))
            and _is_utf8(buffer, end)
            and self._quotes_are_at_edges(text)
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

    def _quotes_are_at_edges(self, text: np.ndarray) -> bool:
        """Whether each quote opens a field or closes one, or is one of two beside each other; notes quoted line ends.

        Then every second one closes what the one before it opened.
        """
        quotes = np.flatnonzero(text == _QUOTE)
        before = self._is_quoted
        if not len(quotes):
            return True
        self._is_quoted = (before + len(quotes)) % 2
        line_ends = np.flatnonzero(text[1:] == _LINE_END) + 1
        if np.any((before + np.searchsorted(quotes, line_ends)) % 2):
            self._has_quoted_line_ends = True
        opening, closing = quotes[before::2], quotes[1 - before :: 2]
        return bool(self._edge[text[opening - 1]].all() and self._edge[text[closing + 1]].all())


def _is_utf8(buffer: bytearray, end: int) -> bool:
    offsets = pa.py_buffer(np.array([0, end], np.int32))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(buffer)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
