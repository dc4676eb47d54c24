"""What our taps share: batches that are the lake's files, one line for each fault, and saying what was not sent.

A tap that is killed between two messages leaves an input that ends well. Its last STATE then has the stream under
`unfinished`; the target notes such a stream's sync as failed (docs/contracts.md, "Database streams").
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import IO, Any, ClassVar

import click
from singer_sdk import Stream as SingerStream
from singer_sdk import Tap
from singer_sdk import typing as th
from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig, StorageTarget
from singer_sdk.helpers._util import load_json
from singer_sdk.helpers.capabilities import PluginCapabilities, TapCapabilities
from singer_sdk.plugin_base import SingerCommand, _ConfigInput

from ingestion import erased, lifeline, settings
from ingestion.erased import Erased
from ingestion.errors import UserError
from ingestion.lake import UNFINISHED, Batch, Lake, Stream

BOOKMARK = "load_id"
LAKE_PATH = th.Property("lake_path", th.StringType, description="The lake. Default: WAREHOUSE_HOME/lake")
ENCODING = BaseBatchFileEncoding(format="parquet", compression="zstd")


class LakeStream(SingerStream):
    """A stream whose batches are the lake's.

    It is in the state's list `unfinished` from before its SCHEMA message until it was sent in full.
    """

    is_complete = True

    def __init__(self, tap: LakeTap, lake_stream: Stream, **options: Any) -> None:
        self.lake_stream = lake_stream
        self.lake_tap = tap
        super().__init__(tap, **options)

    def fault(self, error: object) -> None:
        """Report that something of the stream cannot be taken up; the tap goes on, and fails at its end."""
        self.is_complete = False
        self.lake_tap.fault(str(error))

    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        """Batches by default: the lake's own files."""
        lake = self.lake_tap.lake
        return None if lake is None else BatchConfig(encoding=ENCODING, storage=StorageTarget(root=lake.root.as_uri()))

    def beyond_state(self, manifest: Sequence[Batch]) -> list[Batch]:
        """The batches of the stream's manifest that the state does not have.

        Raises UserError when the lake lacks what the state has.
        """
        loaded = self.stream_state.get(BOOKMARK, 0)
        if loaded > max((batch.load_id for batch in manifest), default=0):
            assert self.lake_tap.lake is not None
            raise UserError(
                f"stream {self.name}: the lake at {self.lake_tap.lake.root} is missing or older than the state, which"
                f" has load {loaded}: bring it back, or start with a new WAREHOUSE_HOME"
            )
        return [batch for batch in manifest if batch.load_id > loaded]

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


class _Command(SingerCommand):
    """The command line, which prints a user's mistake as one line."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        assert self.name
        lifeline.tie(self.name)
        try:
            return super().main(*args, **kwargs)
        except UserError as error:
            self.logger.error("%s", error)
            sys.exit(1)


class LakeTap(Tap):
    """A tap whose setting `wire` says whether its streams go to the lake or into RECORD messages.

    What cannot be taken up is a fault: the rest is sent, and the tap fails at its end. It fails too when a signal stops
    it: the SDK's ends with exit code 0, and the run would count as complete.
    """

    package_name = "shop-warehouse"
    dynamic_catalog = True
    # No stream maps, flattening or batch settings: batches hold the source's rows as they are, and go to the lake.
    capabilities: ClassVar[list[Any]] = [
        TapCapabilities.CATALOG,
        TapCapabilities.STATE,
        TapCapabilities.DISCOVER,
        PluginCapabilities.ABOUT,
        PluginCapabilities.BATCH,
        PluginCapabilities.STRUCTURED_LOGGING,
    ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.faults: list[str] = []
        super().__init__(*args, **kwargs)

    @cached_property
    def lake(self) -> Lake | None:
        """The lake that batches go to; None with `wire: records`."""
        return Lake(self.path("lake_path", settings.load().lake)) if self.config["wire"] == "lake" else None

    @cached_property
    def erased(self) -> Erased | None:
        """Whose personal data does not come back; None where nobody was erased. Raises UserError for a damaged list."""
        return erased.load(settings.load())

    def look_again_who_is_erased(self) -> None:
        """Read the suppression list anew: before a stream's lock was taken somebody may have been erased."""
        self.__dict__.pop("erased", None)

    def path(self, setting: str, default: Path) -> Path:
        """The path that a setting says, from the project's root."""
        value = self.config.get(setting)
        return (settings.PROJECT_ROOT / Path(value).expanduser()).resolve() if value else default

    def fault(self, message: str) -> None:
        """Report what cannot be taken up."""
        if self.erased:
            message = self.erased.text(message)
        self.faults.append(message)
        self.logger.error("%s", message)

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        self.logger.error("stopped by signal %s; nothing is half written, run again to go on", signum)
        sys.exit(1)

    @classmethod
    def invoke(  # The SDK's, but for the end.
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: _ConfigInput | None = None,
        state: IO[str] | None = None,
        catalog: IO[str] | None = None,
    ) -> None:
        """Run the tap. Raises UserError at the end when there were faults."""
        super(Tap, cls).invoke(about=about, about_format=about_format)
        cls.print_version(print_fn=cls.logger.info)
        config = config or _ConfigInput()
        tap = cls(
            config=config.config,
            state=None if state is None else load_json(state.read()),
            catalog=None if catalog is None else load_json(catalog.read()),
            parse_env_config=config.parse_env,
        )
        _ = tap.erased  # Refuse before the first row what would let an erased person come back.
        tap.sync_all()
        if tap.faults:
            raise UserError(
                f"{len(tap.faults)} files or streams could not be taken up, see above; all others were sent"
            )

    @classmethod
    def get_singer_command(cls) -> click.Command:
        """The SDK's command, with one line for a user's mistake."""
        command = super().get_singer_command()
        command.__class__ = _Command
        return command
