"""One warehouse in a temporary folder, driven by the same commands a user types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import pandas as pd

from tests import parsed_project

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

#: Marts and their keys; every comparison covers all of their columns.
MART_KEYS = {
    "fact_orders": ["order_line_id"],
    "fact_refunds": ["refund_line_id"],
    "fact_adjustments": ["adjustment_id"],
    "dim_users": ["user_id"],
    "dim_products": ["product_id"],
    "dim_users_history": ["user_id", "valid_from"],
    "dim_products_history": ["product_id", "valid_from"],
    "dim_date": ["date_id"],
    "mart_daily_sales": ["date_id"],
    "mart_money_reconciliation": ["date_id"],
    "mart_kpis": ["grain", "period_start"],
    "mart_customers": ["user_id"],
    "mart_cohort_retention": ["cohort_month", "months_since"],
    "mart_product_recommendations": ["product_id", "rank"],
    "fact_product_clicks": ["product_id", "window_start"],
    "mart_trending_products": ["product_id", "started_at"],
    "fact_inventory_daily": ["product_id", "date_id"],
}
#: Columns that depend on when the machine loaded the data, not on the data.
WALL_CLOCK_COLUMNS = {"mart_money_reconciliation": ["quarantined_rows"]}


class CommandFailed(Exception):
    """A command of the pipeline ended with a non-zero exit code."""

    def __init__(self, command: list[str], result: subprocess.CompletedProcess[str]) -> None:
        self.returncode = result.returncode
        self.output = result.stdout + result.stderr
        super().__init__(f"{' '.join(command)} exited with {result.returncode}\n{self.output[-6000:]}")


@dataclass
class Pipeline:
    """A warehouse under `home`, for `shop`, fed from `data` (default: `home/source`)."""

    home: Path
    shop: str = "demo_shop"
    data: Path | None = None
    project: Path = ROOT / "dbt_project"
    extra_env: dict[str, str] = field(default_factory=dict)
    #: dbt's unit tests come out the same over whatever data, and are a third of a small build.
    with_unit_tests: bool = False

    @property
    def env(self) -> dict[str, str]:
        """The environment of an activated shell, pointed at this warehouse."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("WAREHOUSE_", "DBT_"))}
        env |= {
            "PATH": f"{BIN}{os.pathsep}{env['PATH']}",
            "WAREHOUSE_HOME": str(self.home),
            "WAREHOUSE_SHOP": self.shop,
            "DBT_PROJECT_DIR": str(self.project),
            "DBT_PROFILES_DIR": str(self.project),
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        }
        if not self.with_unit_tests:
            env["DBT_EXCLUDE_RESOURCE_TYPES"] = "unit_test"
        if self.data:
            env["WAREHOUSE_DATA"] = str(self.data)
        return env | self.extra_env

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment; raise CommandFailed unless it exits with 0."""
        full = [str(BIN / command[0]), *command[1:]]
        runs_dbt = command[0] in ("dbt", "meltano") and "WAREHOUSE_ENGINE" not in self.extra_env
        if runs_dbt:
            parsed_project.hand_over(self.env)
        result = subprocess.run(full, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        if runs_dbt and result.returncode == 0 and self.project == ROOT / "dbt_project":
            parsed_project.keep(self.env)
        if check and result.returncode != 0:
            raise CommandFailed(full, result)
        return result

    def ingest(self) -> None:
        """`tap-files | target-warehouse`, with the Singer state kept in a file, as Meltano would."""
        self.home.mkdir(parents=True, exist_ok=True)
        state = self.home / "singer_state.json"
        tap_command = [str(BIN / "tap-files"), "--config=ENV"] + (["--state", str(state)] if state.exists() else [])
        tap = subprocess.run(tap_command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        target_command = [str(BIN / "target-warehouse"), "--config=ENV"]
        target = subprocess.run(
            target_command, cwd=ROOT, env=self.env, input=tap.stdout, capture_output=True, text=True, check=False
        )
        if target.returncode != 0:
            raise CommandFailed(target_command, target)
        states = [line for line in target.stdout.splitlines() if line.strip()]
        if states:
            state.write_text(json.dumps(json.loads(states[-1])))
        if tap.returncode != 0:
            raise CommandFailed(tap_command, tap)

    def dbt(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run dbt with the given arguments."""
        return self.run("dbt", *args, check=check)

    def copy(self, home: Path) -> Pipeline:
        """A second warehouse with the same raw data, lake and marts."""
        shutil.copytree(self.home, home)
        copied = replace(self, home=home, data=self.data or self.home / "source", extra_env=dict(self.extra_env))
        parsed_project.move(self.env, copied.env)
        return copied

    def marts(self) -> dict[str, pd.DataFrame]:
        """All marts as built."""
        return read_marts(self.home / "marts.duckdb")


def read_marts(file: Path) -> dict[str, pd.DataFrame]:
    """All marts of a DuckDB file, every value as text (so that a comparison is exact), ordered by key."""
    with duckdb.connect(str(file), read_only=True) as connection:
        return {name: _as_text(connection, name, f'"{name}"') for name in MART_KEYS}


def read_truth(folder: Path) -> dict[str, pd.DataFrame]:
    """The same from the Parquet files that `demo-shop truth` writes."""
    with duckdb.connect() as connection:
        return {name: _as_text(connection, name, f"read_parquet('{folder / name}.parquet')") for name in MART_KEYS}


def _as_text(connection: duckdb.DuckDBPyConnection, name: str, relation: str) -> pd.DataFrame:
    connection.execute("set timezone = 'UTC'")
    skipped = WALL_CLOCK_COLUMNS.get(name, [])
    columns = [row[0] for row in connection.execute(f"describe select * from {relation}").fetchall()]
    kept = ", ".join(f'cast("{column}" as varchar) as "{column}"' for column in columns if column not in skipped)
    keys = ", ".join(f'"{key}"' for key in MART_KEYS[name])
    return connection.execute(f"select {kept} from {relation} order by {keys}").df()


def differences(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> list[str]:
    """What differs between two sets of marts, a few rows of each; empty when they are equal."""
    found = []
    for name in MART_KEYS:
        one, two = left[name], right[name]
        if sorted(one.columns) != sorted(two.columns):
            found.append(f"{name}: columns {sorted(one.columns)} against {sorted(two.columns)}")
            continue
        two = two[list(one.columns)]
        if one.equals(two):
            continue
        merged = one.merge(two, how="outer", indicator=True)
        rows = merged[merged["_merge"] != "both"]
        found.append(f"{name}: {len(rows)} rows differ\n{rows.head(8).to_string()}")
    return found
