"""Whether a complete build would find what the published one found: then `meltano run daily` need not make it.

`scripts/dbt --if-new build` gives each build a hash of all that it is made from beside raw (`ops.builds.inputs_hash`).
The next one is left out when that hash is the same, nothing was loaded since, and that build is the published one. A
build typed as `dbt build` has no such hash, and is never a reason to leave out another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
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


def inputs_hash(shop: str, arguments: Sequence[str] = (), project: Path = PROJECT_ROOT) -> str | None:
    """A hash of all that a build is made from, beside raw; None where it cannot be told.

    That is dbt's project and arguments, the locked packages, the shop, dbt's variables in the environment, and the day
    (UTC): everything is built and tested at least once on each, `mart_data_quality` has a row for it. The times of the
    files count too: what was changed and changed back may have been built in between.
    """
    try:
        return _inputs_hash(shop, arguments, project)
    except OSError:  # A file that vanishes meanwhile, or may not be read, is dbt's to complain of.
        return None


def _inputs_hash(shop: str, arguments: Sequence[str], project: Path) -> str:
    digest = hashlib.sha256()
    folder = project / "dbt_project"
    files = [project / "requirements.lock"]
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if root != str(folder) or name not in _BESIDE)
        files += [Path(root, name) for name in sorted(names) if _is_of_dbt(name)]
    for file in files:
        content = file.read_bytes()
        when = file.stat().st_mtime_ns
        digest.update(f"{file.relative_to(project)} {len(content)} {when}\n".encode() + content)
    dbt = {name: value for name, value in os.environ.items() if name.startswith("DBT_")}
    digest.update(
        json.dumps([shop, list(arguments), datetime.now(UTC).date().isoformat(), dbt], sort_keys=True).encode()
    )
    return digest.hexdigest()


def _is_of_dbt(name: str) -> bool:
    return name == ".dbtignore" or (Path(name).suffix in _SUFFIXES and not name.startswith("."))


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
            # What failed since is in mart_data_quality, and a failed test may fail again; a warning is to be repeated.
            amiss = connection.execute(
                "select 1 from ops.runs where status = 'failed' and finished_at > ?"
                " union all select 1 from ops.test_results where invocation_id = ? and status = 'warn'",
                [build.started_at, build.invocation_id],
            ).fetchall()
        published = published_version(home.published_file)
    except (UserError, duckdb.Error, OSError):  # Whatever is amiss, the build finds it, and says it in its own words.
        return None
    if not found or amiss or not published or published.invocation_id != build.invocation_id:
        return None
    return published, build.started_at
