"""A database, the tap that follows its log and the target behind it, for tests."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ingestion.lake import Stream
from ingestion.taps.postgres import TapPostgres
from tests.integration.conftest import TargetHome
from tests.postgres import Database


@dataclass
class Sent:
    """What one run of the tap said."""

    messages: list[dict[str, Any]]
    faults: list[str]

    @property
    def batches(self) -> list[str]:
        """The stream of each batch."""
        return [message["stream"] for message in self.messages if message["type"] == "BATCH"]

    @property
    def state(self) -> dict[str, Any]:
        return [message for message in self.messages if message["type"] == "STATE"][-1]["value"]


class Follower:
    """Runs of tap-postgres over the schema `shop` of a database, by its log."""

    def __init__(self, database: Database, home: TargetHome, *, dsn: str | None = None, **config: Any) -> None:
        self.database = database
        self.home = home
        self.slot = f"slot_{database.name}"
        self.state: dict[str, Any] | None = None
        self.config = {
            "sqlalchemy_url": dsn or database.dsn,
            "filter_schemas": ["shop"],
            "default_replication_method": "LOG_BASED",
            "lake_path": str(home.lake.root),
            "replication_slot_name": self.slot,
            **config,
        }

    def tap(self, deselected: Sequence[tuple[str, ...]] = ()) -> TapPostgres:
        """A tap with the state so far. `deselected` are streams, or streams with a column."""
        catalog = None
        if deselected:
            catalog = json.loads(json.dumps(TapPostgres(config=self.config).catalog_dict))
            for stream in catalog["streams"]:
                for entry in stream["metadata"]:
                    if (stream["tap_stream_id"], *entry["breadcrumb"][1:]) in deselected:
                        entry["metadata"] |= {"selected": False, "inclusion": "available"}
        state = json.loads(json.dumps(self.state)) if self.state else None
        return TapPostgres(config=self.config, catalog=catalog, state=state)

    def send(self, tap: TapPostgres | None = None) -> Sent:
        """Run the tap alone."""
        tap = tap or self.tap()
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            tap.sync_all()
        return Sent([json.loads(line) for line in output.getvalue().splitlines()], tap.faults)

    def load(self, sent: Sent) -> None:
        """Load what a run sent, and keep the state that the target emits."""
        states = self.home.load(sent.messages, max_quarantine_share=1)
        self.state = states[-1] if states else self.state

    def run(self, tap: TapPostgres | None = None) -> Sent:
        """Run tap and target."""
        sent = self.send(tap)
        assert sent.faults == []
        self.load(sent)
        return sent

    def versions(self, table: str, columns: str) -> list[tuple[Any, ...]]:
        """Rows of raw with their operation, in their order."""
        return self.home.query(
            f"select _sdc_operation, {columns} from raw_shop.{table} order by _sdc_load_id, _sdc_sequence,"
            " _sdc_operation"
        )

    def held(self, table: str, columns: str, key: str = "id") -> list[tuple[Any, ...]]:
        """The current rows of raw, by key."""
        return self.home.query(
            f"select {columns} from (from raw_shop.{table} qualify row_number() over (partition by {key}"
            " order by _sdc_load_id desc, _sdc_sequence desc) = 1) where _sdc_operation = 'upsert' order by all"
        )

    def confirmed(self) -> str | None:
        """Where the slot begins; None when there is none."""
        rows = self.database.query(
            f"select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{self.slot}'"
        )
        return rows[0][0] if rows else None

    def positions(self, table: str) -> list[dict[str, Any]]:
        """The positions of the stream's batches in the lake."""
        return [batch.origin["position"] for batch in self.home.lake.manifest(Stream("shop", table))]
