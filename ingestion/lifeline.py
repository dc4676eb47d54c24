"""After a kill the next run starts at once: what is left of the killed one ends by itself, and is waited for.

After `kill -9` of Meltano its tap and target would live on, and hold the locks of the lake and the warehouse.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import TypeVar

LEAVING_SECONDS = 3.0
"""How long a lock is tried for: its holder may be about to end. One that is at work is not waited for."""

T = TypeVar("T")
_STDOUT, _STDERR = 1, 2
_started = threading.Lock()


def tie(name: str) -> None:
    """End this process at once when nobody can read its standard output any more, as SIGPIPE would at its next word.

    `name` is the program's, for the line that says so. Everything that a killed process may leave is cleaned up by the
    next run, so nothing is waited for. A standard output that is no pipe changes nothing, and neither does a second
    call.
    """
    if _started.acquire(blocking=False):
        threading.Thread(target=_watch, args=(name,), name="lifeline", daemon=True).start()


def once_free(take: Callable[[], T], is_busy: Callable[[Exception], bool]) -> T:
    """What `take` returns; while it raises what `is_busy` says is a lock of others, it is tried again for a moment.

    Raises what `take` raised last.
    """
    deadline = time.monotonic() + LEAVING_SECONDS
    while True:
        try:
            return take()
        except Exception as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def _watch(name: str) -> None:
    poll = select.poll()
    # No events: the end of the pipe's reader is always told, and nothing else wakes us.
    poll.register(_STDOUT, 0)
    [(_, event)] = poll.poll()
    if event & select.POLLNVAL:  # There is no standard output.
        return
    with contextlib.suppress(OSError):  # Whoever read this is likely to be gone too.
        os.write(_STDERR, f"{name}: ended, because the process that reads its output did\n".encode())
    os._exit(1)
