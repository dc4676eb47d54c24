"""The models made anew, as a user would type it: `scripts/dbt build --full-refresh`."""

from __future__ import annotations

import os

from ingestion.errors import UserError
from ingestion.settings import PROJECT_ROOT, Settings
from orchestration import commands
from orchestration.run import what_matters

_PROJECT = str(PROJECT_ROOT / "dbt_project")


def build(home: Settings) -> None:
    """Build and test every model in full. Raises UserError, with dbt's own words, unless all pass."""
    lines: list[str] = []
    command = [str(PROJECT_ROOT / "scripts" / "dbt"), "build", "--full-refresh"]
    code = commands.run(
        [*command, "--project-dir", _PROJECT, "--profiles-dir", _PROJECT],
        folder=PROJECT_ROOT,
        environment=os.environ
        | {
            "WAREHOUSE_SHOP": home.shop,
            "WAREHOUSE_HOME": str(home.home),
            "WAREHOUSE_ENGINE": home.engine,
            "DBT_USE_COLORS": "false",
        },
        on_start=lambda group: None,
        on_line=lines.append,
    )
    if code:
        told = "\n".join(f"    {line}" for line in what_matters(lines))
        raise UserError(
            "the marts could not be built anew without the erased persons; what is published stays as it was. Repair"
            f" what dbt says, then type the same again:\n{told}"
        )
