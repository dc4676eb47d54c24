"""Where this warehouse lives and which shop it holds (docs/contracts.md, "Environment")."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ingestion.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SHOP = "demo_shop"
DUCKDB, POSTGRES = "duckdb", "postgres"


@dataclass(frozen=True)
class Settings:
    """One warehouse: its engine, and its paths, which are all absolute."""

    shop: str
    home: Path
    data: Path
    engine: str = DUCKDB

    @property
    def warehouse_file(self) -> Path:
        """The DuckDB file with raw, ops, staging and intermediate schemas."""
        return self.home / "warehouse.duckdb"

    @property
    def marts_file(self) -> Path:
        """The DuckDB file in which dbt builds the marts."""
        return self.home / "marts.duckdb"

    @property
    def published_file(self) -> Path:
        """The DuckDB file that BI tools read."""
        return self.home / "published" / "warehouse.duckdb"

    @property
    def personal_data_key_file(self) -> Path:
        """The key of the hashes that are published of personal data."""
        return self.home / "personal_data.key"

    @property
    def erased_file(self) -> Path:
        """The suppression list: keyed hashes of the persons whose personal data was erased."""
        return self.home / "erased.json"

    @property
    def erasure_key_file(self) -> Path:
        """The key of the hashes in the suppression list."""
        return self.home / "erasure.key"

    @property
    def lake(self) -> Path:
        """Root of the Parquet lake."""
        return self.home / "lake"

    @property
    def service_file(self) -> Path:
        """PostgreSQL's service file of the servers that `scripts/services` starts: where they are, who may connect."""
        return self.home / "services" / "pg_service.conf"

    @property
    def streams_file(self) -> Path:
        """The list of the shop's file streams."""
        return PROJECT_ROOT / "ingestion" / "shops" / f"{self.shop}.yml"


def _absolute(path: str) -> Path:
    return (PROJECT_ROOT / Path(path).expanduser()).resolve()


def load() -> Settings:
    """Resolve the settings from the environment; unset or empty variables take their defaults.

    Raises UserError for an engine that there is not.
    """
    data = os.environ.get("WAREHOUSE_DATA")
    engine = os.environ.get("WAREHOUSE_ENGINE") or DUCKDB
    if engine not in (DUCKDB, POSTGRES):
        raise UserError(f"WAREHOUSE_ENGINE is {engine}: set it to {DUCKDB} or {POSTGRES}, or leave it unset")
    return Settings(shop=_shop(), home=home(), data=_absolute(data) if data else home() / "source", engine=engine)


def home() -> Path:
    """The folder of this warehouse, whatever its engine."""
    default = ".warehouse" if _shop() == DEFAULT_SHOP else f".warehouse-{_shop()}"
    return _absolute(os.environ.get("WAREHOUSE_HOME") or default)


def _shop() -> str:
    return os.environ.get("WAREHOUSE_SHOP") or DEFAULT_SHOP


def run_id() -> str | None:
    """The run of the job that this process is a step of (docs/contracts.md, "Run history"); None when typed by hand."""
    return os.environ.get("MELTANO_RUN_ID") or None
