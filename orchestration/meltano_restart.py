"""Meltano's add-on that lets a run start although Meltano remembers one that a kill ended.

Meltano takes a run without an end for alive for five minutes after its last heartbeat, and refuses the next, unless it
is given `--force`. What keeps two runs apart here are the locks of the warehouse and of the lake's streams: they end
with their processes. An entry point of the group `meltano.settings` is what Meltano loads before it reads the options
of its commands; `.env` comes too late for them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from meltano.core.setting_definition import SettingDefinition

from ingestion.settings import PROJECT_ROOT

VARIABLE = "MELTANO_RUN_FORCE"

setting = SettingDefinition(
    name="run.force",
    env=VARIABLE,
    kind="boolean",
    hidden=True,
    description="Start although Meltano remembers a run without an end; default: true while it remembers one.",
)


def remembers_a_run() -> bool:
    """Whether Meltano's own database has a run without an end; True where that is not known."""
    if "MELTANO_DATABASE_URI" in os.environ:
        return True
    file = Path(os.environ.get("MELTANO_SYS_DIR_ROOT") or PROJECT_ROOT / ".meltano") / "meltano.db"
    if not file.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(file)) as database:
            return bool(database.execute("select 1 from runs where state = 'RUNNING' limit 1").fetchall())
    except sqlite3.Error:
        return True


if remembers_a_run():
    os.environ.setdefault(VARIABLE, "true")
