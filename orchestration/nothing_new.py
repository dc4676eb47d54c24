"""Whether a complete build would find what the published one found: then `meltano run daily` need not make it.

`scripts/dbt --if-new build` gives each build a hash of all that it is made from beside raw (`ops.builds.inputs_hash`).
The next one is left out when that hash is the same, nothing was loaded since, and that build is the published one. A
build typed as `dbt build` has no such hash, and is never a reason to leave out another.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from ingestion.errors import UserError
from ingestion.settings import PROJECT_ROOT, Settings
from orchestration.publish import Published, audited_build, published_version

VARIABLE = "WAREHOUSE_INPUTS_HASH"
"""Through which dbt is told, to write it into `ops.builds` (macros/invocation.sql)."""
_SUFFIXES = {".sql", ".yml", ".yaml", ".csv", ".md", ".py"}
_BESIDE = {"logs", "target", "dbt_packages"}


def inputs_hash(shop: str, project: Path = PROJECT_ROOT) -> str:
    """A hash of dbt's project, the locked packages, the shop, dbt's variables in the environment, and the day (UTC).

    The day, so that everything is built and tested at least once on each: `mart_data_quality` has a row for it.
    """
    digest = hashlib.sha256()
    folder = project / "dbt_project"
    files = [project / "requirements.lock"]
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _BESIDE and not name.startswith("."))
        files += [Path(root, name) for name in sorted(names) if Path(name).suffix in _SUFFIXES]
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(project)} {len(content)}\n".encode() + content)
    dbt = {name: value for name, value in os.environ.items() if name.startswith("DBT_")}
    digest.update(json.dumps([shop, datetime.now(UTC).date().isoformat(), dbt], sort_keys=True).encode())
    return digest.hexdigest()


def published_as_it_is(home: Settings, wanted: str) -> tuple[Published, datetime] | None:
    """The published version that a build of inputs with the hash `wanted` would only repeat, and when it was built."""
    if not home.warehouse_file.exists() or not home.marts_file.exists():
        return None
    try:
        with duckdb.connect(str(home.warehouse_file), read_only=True) as connection:
            build = audited_build(connection, home.shop)
            found = connection.execute(
                "select 1 from ops.builds where invocation_id = ? and inputs_hash = ?", [build.invocation_id, wanted]
            ).fetchall()
        published = published_version(home.published_file)
    except (UserError, duckdb.Error):  # Whatever is amiss, the build finds it, and says it in its own words.
        return None
    if not found or not published or published.invocation_id != build.invocation_id:
        return None
    return published, build.started_at
