"""A process that ends with the one that reads its output.

After `kill -9` of Meltano its tap and target would live on, hold the locks of the lake and the warehouse, and the next
run would have to wait for them.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

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
