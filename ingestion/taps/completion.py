"""How a tap says which of its streams it has begun and not completed, so that the target can say which syncs failed.

A tap that is killed between two messages leaves an input that ends well. Its last STATE then has the stream under
`unfinished`; the target notes such a stream's sync as failed (docs/contracts.md, "Database streams").
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from singer_sdk import Stream, Tap

UNFINISHED = "unfinished"


class AnnouncedStream(Stream):
    """A stream that is in the state's list `unfinished` from before its SCHEMA message until it was sent in full."""

    is_complete = True

    def fault(self, error: object) -> None:
        """Report that something of the stream cannot be taken up; the tap goes on, and fails at its end."""
        self.is_complete = False
        self._tap.fault(str(error))  # type: ignore[attr-defined]

    def _write_schema_message(self) -> None:
        if self.name not in self.tap_state.setdefault(UNFINISHED, []):
            self.tap_state[UNFINISHED].append(self.name)
            self._tap.state_writer.write_state(self.tap_state)
        super()._write_schema_message()

    def finalize_state_progress_markers(self, state: dict[str, Any] | None = None) -> None:
        """End the stream, which the SDK says with this: it is complete unless something of it could not be taken up."""
        unfinished = self.tap_state.get(UNFINISHED, [])
        if self.name in unfinished and self.is_complete:
            unfinished.remove(self.name)
            if not unfinished:
                del self.tap_state[UNFINISHED]
            self.state_manager.is_flushed = False
        super().finalize_state_progress_markers(state)


class StoppableTap(Tap):
    """A tap that fails when a signal stops it: the SDK's ends with exit code 0, and the run would count as complete."""

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        self.logger.error("stopped by signal %s; nothing is half written, run again to go on", signum)
        sys.exit(1)
