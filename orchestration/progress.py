"""What a person sees while a run is at work: one moving line on a terminal, plain lines in a log."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from types import TracebackType

QUIET_SECONDS = 30
"""In a log, a stage that takes longer says so this often."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def plain(text: str) -> str:
    """The text without colours."""
    return _COLOURS.sub("", text)


class Progress:
    """Shows the stage at work, its seconds and its latest line; call `begin`, `line` and `end`."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._stage = ""
        self._line = ""
        self._started = 0.0
        self._shown = 0.0
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._ticker.join()
        self._clear()

    def begin(self, stage: str) -> None:
        """A stage begins."""
        with self._lock:
            self._stage, self._line = stage, ""
            self._started = self._shown = time.monotonic()
        if not self._terminal:
            print(f"{stage} ...", flush=True)

    def line(self, text: str) -> None:
        """The latest line that the stage wrote."""
        with self._lock:
            self._line = plain(text).strip() or self._line

    def end(self, stage: str, seconds: float) -> None:
        """A stage ended well."""
        with self._lock:
            self._stage = ""
        self._clear()
        print(f"{stage:<14} {seconds:7.1f} s", flush=True)

    def _tick(self) -> None:
        while not self._over.wait(0.2 if self._terminal else 1.0):
            with self._lock:
                if not self._stage:
                    continue
                seconds = time.monotonic() - self._started
                text = f"{self._stage:<14} {seconds:7.0f} s  {self._line}"
                if self._terminal:
                    width = shutil.get_terminal_size().columns - 1
                    sys.stdout.write("\r\x1b[2K" + text[:width])
                    sys.stdout.flush()
                elif time.monotonic() - self._shown >= QUIET_SECONDS:
                    self._shown = time.monotonic()
                    print(text, flush=True)

    def _clear(self) -> None:
        if self._terminal:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()
