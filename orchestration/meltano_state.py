"""Meltano's state backend `warehouse-home://<folder>`: Singer state as files in the warehouse's own home.

Meltano keeps state in the project's folder, where two warehouses would share it and a moved `WAREHOUSE_HOME` would
leave it behind. Here it follows `WAREHOUSE_HOME`, also for a plain `meltano run`, and a killed run leaves no lock: the
operating system holds it. The interface is `meltano.core.state_store.StateStoreManager`.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

from meltano.core.state_store import MeltanoState, StateStoreManager

from ingestion import settings


class HomeStateStoreManager(StateStoreManager):
    """State as `WAREHOUSE_HOME/meltano/<folder>/<state id>.json`, replaced atomically."""

    label = "the warehouse's home"

    def __init__(self, uri: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = settings.load().home / "meltano" / urlparse(uri).netloc
        self.folder.mkdir(parents=True, exist_ok=True)

    def _file(self, state_id: str) -> Path:
        return self.folder / f"{quote(state_id, safe='')}.json"

    def set(self, state: MeltanoState) -> None:
        """Write the state beside its file, then put it in place: a reader finds the old or the new one, whole."""
        file = self._file(state.state_id)
        beside = file.with_suffix(".next")
        with beside.open("w") as writer:
            writer.write(state.json())
            writer.flush()
            os.fsync(writer.fileno())
        beside.replace(file)

    def get(self, state_id: str) -> MeltanoState | None:
        """The state of a pipeline; None when it has none."""
        try:
            state = MeltanoState.from_json(state_id, self._file(state_id).read_text())
        except FileNotFoundError:
            return None
        # Meltano merges into these, and writes what it has none of as null.
        state.completed_state = state.completed_state or {}
        state.partial_state = state.partial_state or {}
        return state

    def delete(self, state_id: str) -> None:
        """Forget the state of a pipeline."""
        self._file(state_id).unlink(missing_ok=True)

    def get_state_ids(self, pattern: str | None = None) -> list[str]:
        """The ids of all pipelines with a state, or of those that match the glob."""
        ids = sorted(unquote(file.stem) for file in self.folder.glob("*.json"))
        return fnmatch.filter(ids, pattern) if pattern else ids

    @contextmanager
    def acquire_lock(self, state_id: str, *, retry_seconds: float) -> Iterator[None]:
        """Hold the state of a pipeline; the lock ends with its process, so there is nothing to time out or retry."""
        with self._file(state_id).with_suffix(".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield
