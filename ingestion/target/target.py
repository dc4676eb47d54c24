"""target-warehouse: the Singer target."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, ClassVar

import click
import duckdb
from singer_sdk import Sink, Target
from singer_sdk import typing as th
from singer_sdk.exceptions import (
    InvalidJSONSchema,
    InvalidRecord,
    MissingKeyPropertiesError,
    RecordsWithoutSchemaException,
)
from singer_sdk.helpers._batch import BaseBatchFileEncoding
from singer_sdk.helpers.capabilities import PluginCapabilities
from singer_sdk.io_base import SingerReader
from singer_sdk.plugin_base import _ConfigInput
from singer_sdk.singerlib.exceptions import InvalidInputLine
from singer_sdk.singerlib.json import deserialize_json

from ingestion import erased, lifeline, settings
from ingestion.errors import UserError
from ingestion.lake import METADATA_COLUMNS, UNFINISHED, Lake, first_line
from ingestion.target.core import Options, Run
from ingestion.target.engines import open_warehouse

# A STATE message closes open batches when the last commit is this old: often enough to lose little, rarely enough
# that a tap with a STATE per record does not make a batch per record.
STATE_SECONDS = 5.0

_defaults = Options()


class InputReader(SingerReader):
    """Reads messages; a line that is not one stops the run without showing its content."""

    _lines = 0

    def deserialize_json(self, line: str) -> dict[str, Any]:
        """Parse one line, numbers exactly; raises InvalidInputLine."""
        self._lines += 1
        try:
            message = deserialize_json(line)
        except ValueError as error:
            raise InvalidInputLine(f"input line {self._lines} is not JSON ({len(line)} characters)") from error
        if not isinstance(message, dict):
            raise InvalidInputLine(f"input line {self._lines} is not a Singer message")
        return message

    def _process_unknown_message(self, message_dict: dict[str, Any]) -> None:
        raise InvalidInputLine(f"input line {self._lines} has the unknown type {message_dict['type']!r}")


class WarehouseSink(Sink):
    """Hands a stream's messages to its loader, which does all checking and buffering."""

    target: TargetWarehouse

    def __init__(
        self, target: TargetWarehouse, stream_name: str, schema: dict[str, Any], key_properties: Sequence[str] | None
    ) -> None:
        super().__init__(target, stream_name, schema, key_properties)
        self._loader = target.run.loader(stream_name)

    def setup(self) -> None:
        """Take up the schema; called again with a new sink when it changes."""
        super().setup()
        self._loader.set_schema(self.original_schema, self.key_properties)

    # The loader validates: a bad record is quarantined, which the SDK's own validation cannot do.

    def get_validator(self) -> None:
        """No validation by the SDK."""

    def _validate_and_parse(self, record: dict[str, Any]) -> dict[str, Any]:
        return record

    def _singer_validate_message(self, record: dict[str, Any]) -> None:
        """No check of keys by the SDK."""

    # Metadata fields travel in the record as far as the loader, which stamps raw's.

    @property
    def include_sdc_metadata_properties(self) -> bool:
        """Metadata is always part of raw."""
        return True

    def _add_sdc_metadata_to_schema(self) -> None:
        """Raw's metadata columns are the loader's."""

    def _add_sdc_metadata_to_record(self, record: dict[str, Any], message: dict[str, Any], context: dict) -> None:
        deleted_at = record.get("_sdc_deleted_at")
        for name in METADATA_COLUMNS:
            record.pop(name, None)
        record["_sdc_deleted_at"] = deleted_at
        record["_sdc_extracted_at"] = message.get("time_extracted")
        record["_sdc_table_version"] = message.get("version")

    @property
    def current_size(self) -> int:
        """Records that wait to be loaded."""
        return self._loader.pending

    @property
    def is_full(self) -> bool:
        """Whether the batch should close, by rows or by size."""
        return self._loader.is_full

    def process_record(self, record: dict[str, Any], context: dict) -> None:
        """Take one record."""
        self._loader.add(record)

    def process_batch(self, context: dict) -> None:
        """Load what is pending."""
        self._loader.flush()

    def process_batch_files(self, encoding: BaseBatchFileEncoding, files: Sequence[str]) -> None:
        """Load the files of a BATCH message."""
        for file in files:
            self._loader.load_file(file, encoding.format, encoding.compression)

    def activate_version(self, new_version: int) -> None:
        """Say that full-table versions mark no deletes; their number is kept as `_sdc_table_version`."""
        self.logger.warning(
            "%s: ACTIVATE_VERSION is not applied: rows that a full-table extract no longer has are not marked deleted",
            self.stream_name,
        )


class TargetWarehouse(Target):
    """Loads Singer streams into the warehouse's raw schemas, exactly once per batch."""

    name = "target-warehouse"
    package_name = "shop-warehouse"
    default_sink_class = WarehouseSink
    message_reader_class = InputReader
    capabilities: ClassVar = [
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.FLATTENING,
        PluginCapabilities.STRUCTURED_LOGGING,
        PluginCapabilities.BATCH,
    ]
    config_jsonschema = th.PropertiesList(
        th.Property("shop", th.StringType, description="The shop whose data this is; default: WAREHOUSE_SHOP."),
        th.Property(
            "warehouse_file",
            th.StringType,
            description="The DuckDB file, with that engine; default: warehouse.duckdb in WAREHOUSE_HOME.",
        ),
        th.Property("lake", th.StringType, description="Root of the Parquet lake; default: lake in WAREHOUSE_HOME."),
        th.Property(
            "on_bad_record",
            th.StringType,
            allowed_values=["quarantine", "fail"],
            default=_defaults.on_bad_record,
            description="A record that breaks its stream's schema goes to ops.quarantine, or stops the run.",
        ),
        th.Property(
            "on_type_change",
            th.StringType,
            allowed_values=["quarantine", "fail"],
            default=_defaults.on_type_change,
            description=(
                "When a column's declared type changes to one that raw's does not widen to: quarantine the records "
                "that have a value there, or stop the run. New columns are added and wider types taken up in either "
                "case; a column that is gone stays and is null."
            ),
        ),
        th.Property(
            "batch_size_rows",
            th.IntegerType,
            default=_defaults.batch_size_rows,
            description="Rows of RECORD messages per batch; a batch also closes at 64 million characters.",
        ),
        th.Property(
            "max_quarantine_share",
            th.NumberType,
            default=_defaults.max_quarantine_share,
            description="The run fails, after loading the rest, when more than this share of a stream was bad...",
        ),
        th.Property(
            "min_quarantined_rows",
            th.IntegerType,
            default=_defaults.min_quarantined_rows,
            description="... and more than this many rows, so that one bad row of three does not stop a shop.",
        ),
        th.Property("memory_limit", th.StringType, default="256MB", description="Memory of DuckDB."),
        th.Property("threads", th.IntegerType, default=2, description="Threads of DuckDB."),
    ).to_dict()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.max_parallelism = 1  # One connection, one transaction at a time.
        self._run: Run | None = None
        self._last_commit = time.monotonic()
        self._emitted: Mapping[str, Any] | None = None
        self._unfinished: Sequence[str] = ()

    @property
    def run(self) -> Run:
        """The run, which opens the warehouse when first asked for."""
        if self._run is None:
            home = settings.load()
            _ = erased.load(home)  # Refuse before a warehouse is made what would let an erased person come back.
            options = {name: self.config[name] for name in Options.__dataclass_fields__ if name in self.config}
            lake = Lake(Path(self.config.get("lake") or home.lake).resolve())
            engine = open_warehouse(
                home,
                warehouse_file=self.config.get("warehouse_file"),
                shop=self.config.get("shop"),
                lake=lake.root,
                memory_limit=self.config.get("memory_limit", "256MB"),
                threads=self.config.get("threads", 2),
            )
            # Nobody is erased while the warehouse is held, so this list holds to the end.
            self._run = Run(engine, lake, Options(**options), self.initialized_at, erased.load(home))
        return self._run

    def _process_state_message(self, message_dict: dict[str, Any]) -> None:
        """Emit state once all that came before it is committed: at once when nothing is open, else with the batch."""
        self._unfinished = message_dict["value"].pop(UNFINISHED, ())
        if self._unfinished and not message_dict["value"]:
            return  # The first word of a tap that has no state yet.
        super()._process_state_message(message_dict)
        if not self.run.pending or time.monotonic() - self._last_commit >= STATE_SECONDS:
            self.drain_all()

    def _process_batch_message(self, message_dict: dict[str, Any]) -> None:
        """Load a BATCH message's files. Raises UserError when the stream had no SCHEMA message."""
        stream = message_dict["stream"]
        if stream not in self.mapper.stream_maps:
            raise UserError(f"stream {stream}: a BATCH message before its SCHEMA; see what the tap says of this stream")
        super()._process_batch_message(message_dict)

    def _write_state_message(self, state: dict[str, Any]) -> None:
        """Called by drain_all, so everything received is committed; the same state is not said twice."""
        self._last_commit = time.monotonic()
        if state != self._emitted:
            super()._write_state_message(state)
            self._emitted = state

    def process_endofpipe(self) -> None:
        """Load what is pending and close the run."""
        super().process_endofpipe()
        run, self._run = self.run, None
        if self._unfinished:
            names = ", ".join(self._unfinished)
            click.echo(
                f"{self.name}: the tap did not send all of {names}: the sync failed, what came is loaded", err=True
            )
        run.finish(self._unfinished)

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """Stop at once: an open transaction rolls back, open batches are given up, the tap sends them again."""
        raise UserError(f"stopped by signal {signum}; nothing is half loaded, run again to go on")

    def fail(self) -> None:
        """Note the failed run in the ledger, if there is a run."""
        if self._run is not None:
            run, self._run = self._run, None
            try:
                run.fail()
            except (UserError, duckdb.Error) as error:
                click.echo(f"{self.name}: the failure could not be noted in ops.syncs: {_one_line(error)}", err=True)

    @classmethod
    def invoke(
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: _ConfigInput | None = None,
        file_input: IO[str] | None = None,
        **_: Any,
    ) -> None:
        """Run the target; a failure that somebody can mend is one line and exit status 1."""
        if about:
            cls.print_about(about_format)
            return
        lifeline.tie(cls.name)
        config = config or _ConfigInput()
        target = cls(config=config.config, parse_env_config=config.parse_env)
        try:
            _ = target.run  # Refuse a wrong or busy warehouse before the first message.
            target.listen(file_input)
        except (
            UserError,
            InvalidInputLine,
            InvalidJSONSchema,
            InvalidRecord,
            MissingKeyPropertiesError,
            RecordsWithoutSchemaException,
            UnicodeDecodeError,
            OSError,
            duckdb.Error,
        ) as error:
            target.fail()
            click.echo(f"{cls.name}: {_one_line(error)}", err=True)
            sys.exit(1)
        except BaseException:
            target.fail()
            raise


def _one_line(error: BaseException) -> str:
    if isinstance(error, duckdb.Error):
        return first_line(error)
    text = str(error.args[0]) if error.args and not isinstance(error, OSError | UnicodeDecodeError) else str(error)
    return " ".join(text.split()) or type(error).__name__
