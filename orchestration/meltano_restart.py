"""Meltano's add-on that lets a run start although Meltano remembers one that a kill ended.

Meltano takes a run without an end for alive for five minutes after its last heartbeat, and refuses the next, unless it
is given `--force`. What keeps two runs apart here are the locks of the warehouse and of the lake's streams: they end
with their processes. An entry point of the group `meltano.settings` is what Meltano loads before it reads the options
of its commands; `.env` comes too late for them.

It also keeps two first runs apart, which would both make Meltano's database and break each other, and gives the run its
id where all of its commands can see it: Meltano keeps the one that it makes itself to itself (docs/contracts.md, "Run
history").

And it moves Meltano's own folder (runs, scratch files) and its logs into the warehouse's home. Below the project, two
runs for two warehouses would share the files in which Meltano hands a tap its catalog and its state, and one would
extract by the state of the other. Meltano has read the variable when it loads an add-on, so its project is made to read
it again before any command sees it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import uuid
from pathlib import Path
from typing import IO

from meltano.core.error import MeltanoError
from meltano.core.project import Project
from meltano.core.setting_definition import SettingDefinition

from ingestion.settings import home

VARIABLE = "MELTANO_RUN_FORCE"

setting = SettingDefinition(
    name="run.force",
    env=VARIABLE,
    kind="boolean",
    hidden=True,
    description="Start although Meltano remembers a run without an end; default: true while it remembers one.",
)


#: Where Meltano keeps what it remembers of runs, and hands its plugins their files.
FOLDER = "MELTANO_SYS_DIR_ROOT"


def _database() -> Path:
    return Path(os.environ[FOLDER]) / "meltano.db"


def remembers_a_run() -> bool | None:
    """Whether Meltano's own database has a run without an end; None when there is no database yet."""
    if not _database().exists():
        return None
    with contextlib.closing(sqlite3.connect(_database())) as database:
        try:
            return bool(database.execute("select 1 from runs where state = 'RUNNING' limit 1").fetchall())
        except sqlite3.OperationalError:  # It is being made.
            return None


def hold_first_start() -> IO[str] | None:
    """Wait for another process that makes the database; the lock of this one if it is to make it, else None."""
    lock = _database().with_name("first_start.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    if remembers_a_run() is None:
        return lock
    lock.close()
    return None


os.environ.setdefault("MELTANO_RUN_ID", str(uuid.uuid4()))
if not os.environ.get(FOLDER):
    os.environ[FOLDER] = str(home() / "meltano")
    _activate = Project.activate

    def _activate_there(project: Project) -> None:
        project.refresh()
        _activate(project)

    Project.activate = staticmethod(_activate_there)
# Logs of runs hold what taps say of the shop's data, and an erasure looks for persons in them: so they lie here too,
# and not in the user's own folder, beside those of other projects.
os.environ["XDG_STATE_HOME"] = str(_database().parent.resolve())
try:
    _database().parent.mkdir(parents=True, exist_ok=True)
    if not os.access(_database().parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
except OSError as error:
    raise MeltanoError(
        f"{_database().parent} is no folder to write to: {error.strerror}",
        "Set WAREHOUSE_HOME to one that is",
    ) from error

# With a database elsewhere (`MELTANO_DATABASE_URI`) nothing is known of it.
if "MELTANO_DATABASE_URI" in os.environ:
    os.environ.setdefault(VARIABLE, "true")
else:
    # Held until this process ends.
    _lock = hold_first_start() if remembers_a_run() is None else None
    if remembers_a_run():
        os.environ.setdefault(VARIABLE, "true")
