"""tap-postgres and the target, run in this process against a database of the tests' server."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestion.lake import Batch, Stream
from ingestion.taps.postgres import TapPostgres
from tests.integration.conftest import TargetHome
from tests.postgres import Database


@dataclass
class Run:
    """What one run of the tap said, and what the target then committed."""

    lines: str
    faults: list[str]
    states: list[dict[str, Any]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.splitlines()]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]


@dataclass
class Source:
    """A database as the source `shop`, a warehouse, and the state between their runs."""

    database: Database
    warehouse: TargetHome
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return {"sqlalchemy_url": self.database.dsn, "source": "shop"}

    def extract(self, catalog: dict[str, Any] | None = None, **config: Any) -> Run:
        """Run the tap alone."""
        tap = TapPostgres(config=self.config | config, state=self.state, catalog=catalog)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            tap.sync_all()
        return Run(output.getvalue(), tap.faults)

    def run(self, catalog: dict[str, Any] | None = None, **config: Any) -> Run:
        """Run the tap and then the target, whose last state the next run starts from; no stream may fail."""
        run = self.try_run(catalog, **config)
        assert run.faults == []
        return run

    def try_run(self, catalog: dict[str, Any] | None = None, **config: Any) -> Run:
        """The same where streams may fail."""
        run = self.extract(catalog, **config)
        run.states = self.warehouse.load_lines(run.lines)
        if run.states:
            self.state = run.states[-1]
        if self.warehouse.query("select 1 from ops.loads"):
            self.warehouse.check_identities()
        return run

    def catalog(self, *, replication_key: str | None = None, **metadata: Any) -> dict[str, Any]:
        """The discovered catalog with metadata for every stream, as Meltano's `metadata:` sets it."""
        catalog = TapPostgres(config=self.config).catalog_dict
        for stream in catalog["streams"]:
            if replication_key:
                metadata |= {"replication-method": "INCREMENTAL", "replication-key": replication_key}
            root = next(item["metadata"] for item in stream["metadata"] if not item["breadcrumb"])
            root |= {"selected": True, **metadata}
        return catalog

    def manifest(self, table: str) -> list[Batch]:
        return self.warehouse.lake.manifest(Stream("shop", table))

    def current(self, table: str, columns: str, key: str | None = "id") -> list[tuple[Any, ...]]:
        """Raw's current rows: each key's last version that is no delete; without key what is left of each content."""
        if key:
            return self.warehouse.query(
                f"select {columns} from (from raw_shop.{table} qualify row_number() over (partition by {key}"
                " order by _sdc_load_id desc, _sdc_sequence desc) = 1) where _sdc_operation = 'upsert' order by all"
            )
        return self.warehouse.query(
            f"select {columns}, sum(case _sdc_operation when 'upsert' then 1 else -1 end)::int as times"
            f" from raw_shop.{table} group by all having times <> 0 order by all"
        )

    def versions(self, table: str, columns: str) -> list[tuple[Any, ...]]:
        """All of raw's rows in their order, each with its operation."""
        return self.warehouse.query(
            f"select {columns}, _sdc_operation from raw_shop.{table} order by _sdc_load_id, _sdc_sequence, 1"
        )


def let_nan_pass(
    warehouse: TargetHome, table: str, column: str, types: Sequence[str] = ("number", "string", "null")
) -> None:
    """The correction before a replay: raw takes text in this column of a table of `shop`, and with it NaN."""
    warehouse.query(f"alter table raw_shop.{table} alter column {column} type varchar")
    schema = json.loads(warehouse.query(f"select schema from ops.streams where stream = '{table}'")[0][0])
    schema["properties"][column]["type"] = list(types)
    warehouse.query(f"update ops.streams set schema = '{json.dumps(schema)}' where stream = '{table}'")
