"""A tap, a target and the state between them, as Meltano runs them, without anybody's seconds of start-up.

The processes are forked from one that has imported everything (`multiprocessing`'s fork server), so that sixty killed
runs take a minute. Each is a process of its own, tied to the others by pipes alone, as under Meltano.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO, NoReturn

from singer_sdk.io_base import SingerReader

PRELOADED = ["tests.kills.preload", "tests.kills.runner"]

Command = Sequence[str]
"""Module and class of a Singer plugin, then its arguments."""

_context = multiprocessing.get_context("forkserver")


def start(
    tap: Command, target: Command, state: Path, environment: Mapping[str, str], log: Path, pids: Path
) -> BaseProcess:
    """Start `tap | target`; the process returned is what Meltano would be, and ends with 1 when one of them failed.

    `state` is read and written; `pids` gets the processes' ids as JSON, `log` what they say.
    """
    _context.set_forkserver_preload(PRELOADED)
    process = _context.Process(target=_run, args=(tap, target, state, dict(environment), log, pids))
    process.start()
    return process


def _run(tap: Command, target: Command, state: Path, environment: Mapping[str, str], log: Path, pids: Path) -> NoReturn:
    os.environ.update(environment)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if state.exists():
        tap = [*tap, "--state", str(state)]
    nothing = os.open(os.devnull, os.O_RDWR)
    messages, states = os.pipe(), os.pipe()
    inputs = os.pipe()
    of_target = _fork(target, inputs[0], states[1])
    of_tap = _fork(tap, nothing, messages[1])
    beside = pids.with_suffix(".next")
    beside.write_text(json.dumps({"meltano": os.getpid(), "tap": of_tap, "target": of_target}))
    beside.replace(pids)
    for descriptor in (inputs[0], states[1], messages[1]):
        os.close(descriptor)
    pump = threading.Thread(target=_pump, args=(open(messages[0], "rb"), open(inputs[1], "wb")), daemon=True)  # noqa: PTH123, SIM115
    pump.start()
    with open(states[0], "rb") as lines:  # noqa: PTH123
        for line in lines:
            _save(line, state)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (of_target, of_tap)]
    os.write(2, f"target exited with {codes[0]}, tap with {codes[1]}\n".encode())
    os._exit(int(any(codes)))


def _fork(command: Command, stdin: int, stdout: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    # Nobody else's ends: a pipe ends with its last writer.
    os.closerange(3, 256)
    # `multiprocessing` closed the one that the SDK took when it was imported.
    SingerReader.default_input = sys.stdin = open(0)  # noqa: SIM115
    module, name, *arguments = command
    code: object = 1
    try:
        getattr(importlib.import_module(module), name).cli(args=arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(int(code or 0) if isinstance(code, int | None) else 1)


def _pump(messages: BinaryIO, sink: BinaryIO) -> None:
    """Pass the tap's lines to the target, until either ends."""
    try:
        for line in messages:
            sink.write(line)
            sink.flush()
        sink.close()
    except BrokenPipeError:
        messages.close()  # The tap ends with it, as Meltano ends it.


def _save(state: bytes, file: Path) -> None:
    """Put the state in place whole."""
    beside = file.with_suffix(".next")
    beside.write_bytes(state)
    beside.replace(file)
