"""A small warehouse whose raw tables are written by hand, and dbt run over it in this process.

What target-warehouse would have written (docs/contracts.md, "Raw tables") is written here row by row, so that each test
says exactly which versions arrived in which load.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner, dbtRunnerResult
from dbt.contracts.graph.manifest import Manifest

from tests.pipeline import MART_KEYS, ROOT

STREAMS = {
    "shop.orders": "order_id user_id status ordered_at cancelled_at shipping_cost currency updated_at deleted_at",
    "shop.order_items": (
        "order_line_id order_id product_id quantity unit_price discount created_at updated_at deleted_at"
    ),
    "shop.refunds": "refund_id order_line_id order_id amount reason refunded_at updated_at deleted_at",
    "crm.users": "user_id name email phone age country registered_at updated_at deleted_at",
    "catalog.products": "product_id name category price updated_at deleted_at",
    "web.events": "event_id user_id product_id event_type occurred_at received_at",
    "stock.stock_levels": "product_id quantity_on_hand recorded_at",
}
#: The entities of the demo shop whose current rows are found a second time.
RECOUNTED = ("orders", "order_items", "refunds", "events", "users", "products")
METADATA = """
    _sdc_extracted_at timestamptz, _sdc_received_at timestamptz, _sdc_batched_at timestamptz,
    _sdc_deleted_at timestamptz, _sdc_sequence bigint, _sdc_table_version bigint, _sdc_sync_started_at bigint,
    _sdc_load_id bigint, _sdc_operation varchar, _sdc_row_hash varchar, _sdc_source_file varchar,
    _sdc_line_number bigint, _sdc_occurrence bigint
"""
OPS = """
    create schema ops;
    create table ops.warehouse (shop varchar, created_at timestamptz);
    insert into ops.warehouse values ('demo_shop', now());
    create table ops.loads (
        load_id bigint, batch_id varchar, source varchar, stream varchar, kind varchar, rows_extracted bigint,
        rows_loaded bigint, rows_quarantined bigint, rows_dropped bigint, lake_file varchar, origin varchar,
        extracted_at timestamptz, committed_at timestamptz
    );
    create table ops.quarantine (
        quarantine_id varchar, load_id bigint, source varchar, stream varchar, reason varchar, column_name varchar,
        payload varchar, source_file varchar, line_number bigint, quarantined_at timestamptz, replayed_load_id bigint
    );
    create table ops.streams (
        source varchar, stream varchar, key_properties varchar, schema varchar, updated_at timestamptz
    );
    create table ops.syncs (
        sync_id varchar, source varchar, stream varchar, started_at timestamptz, finished_at timestamptz,
        rows_extracted bigint, rows_loaded bigint, rows_quarantined bigint, rows_dropped bigint, status varchar,
        run_id varchar
    );
"""


class DbtWarehouse:
    """One warehouse below `home`; `load` appends versions to raw, `dbt` runs dbt over it."""

    #: The project parsed for a shop, shared by all warehouses of a test run: parsing costs more than building.
    manifests: dict[tuple[Path, str], Manifest] = {}  # noqa: RUF012

    def __init__(
        self,
        home: Path,
        project: Path = ROOT / "dbt_project",
        profiles: Path | None = None,
        shop: str = "demo_shop",
    ) -> None:
        self.home = home
        self.project = project
        self.shop = shop
        self.profiles = profiles or project
        #: More variables of dbt's environment.
        self.variables: dict[str, str] = {}
        self._last_load = 0

    @classmethod
    def create(cls, home: Path, project: Path = ROOT / "dbt_project") -> DbtWarehouse:
        """An empty raw of the demo shop: all tables, no row."""
        home.mkdir(parents=True)
        warehouse = cls(home, project)
        with warehouse.connect() as connection:
            connection.execute(OPS)
            for stream, columns in STREAMS.items():
                source, table = stream.split(".")
                data = ", ".join(f"{column} varchar" for column in columns.split())
                connection.execute(f"create schema if not exists raw_{source}")
                connection.execute(f"create table raw_{source}.{table} ({data}, {METADATA})")
        return warehouse

    def connect(self, file: str = "warehouse.duckdb") -> duckdb.DuckDBPyConnection:
        """A connection of its own to one of the files."""
        return duckdb.connect(str(self.home / file))

    def copy(self, home: Path) -> DbtWarehouse:
        """A second warehouse in the same state."""
        shutil.copytree(self.home, home)
        copied = DbtWarehouse(home, self.project, self.profiles, self.shop)
        copied._last_load = self._last_load
        return copied

    def reserve_loads(self, count: int) -> int:
        """Give out load ids for loads that commit later; returns the first."""
        self._last_load += count
        return self._last_load - count + 1

    def load(self, versions: dict[str, list[dict[str, Any]]], first_load: int | None = None) -> None:
        """Append one load per stream, from `first_load` on where its ids were reserved.

        The ledger's clock stands still: what builds have seen is not told by times.
        Keys that start with `_` are metadata: `_operation`, `_file`, `_occurrence`, `_deleted_at`.
        """
        first_load = first_load or self.reserve_loads(len(versions))
        with self.connect() as connection:
            for load_id, (stream, rows) in enumerate(versions.items(), start=first_load):
                source, table = stream.split(".")
                for number, row in enumerate(rows, start=1):
                    self._append(connection, f"raw_{source}.{table}", STREAMS[stream].split(), row, number, load_id)
                connection.execute(
                    "insert into ops.loads"
                    " values (?, ?, ?, ?, 'batch', ?, ?, 0, 0, null, null, now(), make_timestamptz(0))",
                    [load_id, str(load_id), source, table, len(rows), len(rows)],
                )

    def _append(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: str,
        columns: list[str],
        row: dict[str, Any],
        number: int,
        load_id: int,
    ) -> None:
        data = {name: str(value) for name, value in row.items() if not name.startswith("_") and value is not None}
        unknown = set(data) - set(columns)
        assert not unknown, f"{table} has no {unknown}"
        deleted_at = row.get("_deleted_at") or (row.get("deleted_at") if row.get("_operation") == "delete" else None)
        values = {
            **data,
            "_sdc_extracted_at": "2026-01-01T00:00:00Z",
            "_sdc_deleted_at": deleted_at,
            "_sdc_sequence": load_id,
            "_sdc_load_id": load_id,
            "_sdc_operation": row.get("_operation", "upsert"),
            "_sdc_row_hash": hashlib.md5(repr(sorted(data.items())).encode(), usedforsecurity=False).hexdigest(),
            "_sdc_source_file": row.get("_file", f"{table}.csv"),
            "_sdc_line_number": number,
            "_sdc_occurrence": row.get("_occurrence", 1),
        }
        places = ", ".join("?" for _ in values)
        connection.execute(f"insert into {table} ({', '.join(values)}) values ({places})", list(values.values()))

    def dbt(self, *args: str) -> dbtRunnerResult:
        """Run dbt in this process; raise AssertionError with dbt's own message unless it succeeds."""
        result = self.try_dbt(*args)
        assert result.success, self.message(result)
        return result

    def try_dbt(self, *args: str) -> dbtRunnerResult:
        """Run dbt in this process, whatever comes out."""
        with self._environment():
            runner = dbtRunner(manifest=self.manifests.get((self.project, self.shop)))
            try:
                result = runner.invoke([*args, "--quiet"])
                if runner.manifest is None and result.success and args[0] == "parse":
                    self.manifests[self.project, self.shop] = result.result
            finally:
                DuckDBConnectionManager.close_all_connections()
        return result

    def parse(self) -> None:
        """Parse the project once, for all following commands."""
        if (self.project, self.shop) not in self.manifests:
            self.dbt("parse")

    @staticmethod
    def message(result: dbtRunnerResult) -> str:
        """What dbt says of a failed run."""
        if result.exception:
            return str(result.exception)
        return "\n".join(
            f"{node.node.name}: {node.message}" for node in result.result if node.status in ("error", "fail")
        )

    @contextmanager
    def _environment(self) -> Iterator[None]:
        changed = {
            "WAREHOUSE_HOME": str(self.home),
            "WAREHOUSE_SHOP": self.shop,
            "DBT_PROJECT_DIR": str(self.project),
            "DBT_PROFILES_DIR": str(self.profiles),
            "DBT_LOG_PATH": str(self.home / "logs"),
        } | self.variables
        before, folder = dict(os.environ), Path.cwd()
        os.environ.update(changed)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            os.chdir(folder)

    def marts(self) -> dict[str, list[tuple]]:
        """All rows of all marts, and of what the audits compare them with, ordered."""
        tables = {
            "marts.duckdb": list(MART_KEYS),
            "warehouse.duckdb": [f"intermediate.int_{entity}__recounted" for entity in RECOUNTED],
        }
        rows = {}
        for file, names in tables.items():
            with self.connect(file) as connection:
                rows |= {name: connection.execute(f"select * from {name} order by all").fetchall() for name in names}
        return rows

    def query(self, sql: str, file: str = "marts.duckdb") -> list[tuple]:
        """Rows of a query on one of the files."""
        with self.connect(file) as connection:
            return connection.execute(sql).fetchall()
