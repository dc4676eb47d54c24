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
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import yaml

from ingestion.errors import UserError
from ingestion.settings import POSTGRES, PROJECT_ROOT, Settings
from orchestration.audit import Build, Published, Query, audited_build
from orchestration.publish_duckdb import published_version, quoted, wal

VARIABLE = "WAREHOUSE_INPUTS_HASH"
"""Through which dbt is told, to write it into `ops.builds` (macros/invocation.sql)."""
_SUFFIXES = {".sql", ".yml", ".yaml", ".csv", ".md", ".py"}
_BESIDE = {"logs", "target", "dbt_packages"}


def inputs_hash(shop: str, arguments: Sequence[str] = (), project: Path = PROJECT_ROOT) -> str | None:
    """A hash of all that a build is made from, beside raw; None where it cannot be told.

    That is dbt's project and arguments, the locked packages, the shop, dbt's variables in the environment, the `.env`
    that dbt reads, and the shop's day: everything is built and tested at least once on each, `mart_data_quality` has a
    row for it. The times of the files count too: what was changed and changed back may have been built in between.
    """
    try:
        return _inputs_hash(shop, arguments, project)
    # A file that vanishes meanwhile, or may not be read, and settings that are none are dbt's to complain of.
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError):
        return None


def _inputs_hash(shop: str, arguments: Sequence[str], project: Path) -> str:
    digest = hashlib.sha256()
    folder = project / "dbt_project"
    files = [project / "requirements.lock"]
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if root != str(folder) or name not in _BESIDE)
        files += [Path(root, name) for name in sorted(names) if _is_of_dbt(name)]
    for file in [*files, *_env_files()]:
        content = file.read_bytes()
        when = file.stat().st_mtime_ns
        digest.update(f"{os.path.relpath(file, project)} {len(content)} {when}\n".encode() + content)
    dbt = {name: value for name, value in os.environ.items() if name.startswith("DBT_")}
    day = _day_of_shop(folder / "dbt_project.yml", shop).isoformat()
    digest.update(json.dumps([shop, list(arguments), day, dbt], sort_keys=True).encode())
    return digest.hexdigest()


def _env_files() -> list[Path]:
    """The `.env` that dbt reads, if any: the nearest one upwards from where it starts, which is here."""
    here = Path.cwd()
    return [file for folder in (here, *here.parents) if (file := folder / ".env").is_file()][:1]


def _day_of_shop(settings: Path, shop: str) -> date:
    """Today, where the shop is; its day begins up to 14 hours before that of UTC."""
    # PyYAML has its quick loader only where libyaml was there when it was built.
    variables = yaml.load(settings.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["vars"]
    return datetime.now(ZoneInfo(variables["shops"][shop]["time_zone"])).date()


def _is_of_dbt(name: str) -> bool:
    return name == ".dbtignore" or (Path(name).suffix in _SUFFIXES and not name.startswith("."))


def published_as_it_is(home: Settings, wanted: str) -> tuple[Published, datetime] | None:
    """The published version that a build of inputs with the hash `wanted` would only repeat, and when it was built."""
    # Whatever is amiss, the build finds it, and says it in its own words.
    try:
        build, published = (_in_postgres if home.engine == POSTGRES else _in_files)(home, wanted)
    except (UserError, duckdb.Error, OSError):
        return None
    if not build or not published or published.invocation_id != build.invocation_id:
        return None
    return published, build.started_at


def _in_files(home: Settings, wanted: str) -> tuple[Build | None, Published | None]:
    """The last build, if another would repeat it, and the published version."""
    if not _is_untouched(home):
        return None, None
    with duckdb.connect(str(home.warehouse_file), read_only=True) as connection:
        connection.execute(f"attach '{quoted(home.marts_file)}' as marts (read_only)")
        build = _repeated(lambda query: connection.execute(query).fetchall(), home.shop, wanted, "marts.ops.watermarks")
    return build, published_version(home.published_file)


def _in_postgres(home: Settings, wanted: str) -> tuple[Build | None, Published | None]:
    """The same; who has written the marts by hand since they were built is not known there."""
    from orchestration.publish_postgres import reading  # Its driver is nobody else's.

    with reading(home) as (query, published):
        return _repeated(query, home.shop, wanted, "ops.watermarks"), published


def _repeated(query: Query, shop: str, wanted: str, watermarks: str) -> Build | None:
    build = audited_build(query, shop)
    # What failed since is in mart_data_quality, and a failed test may fail again; a warning is to be repeated.
    found = query(
        f"select 1 from ops.builds as built where invocation_id = '{build.invocation_id}' and inputs_hash = '{wanted}'"
        f" and exists (select 1 from {watermarks} as made where made.invocation_id = built.invocation_id)"
        " and not exists (select 1 from ops.runs where status = 'failed' and finished_at > built.started_at)"
        " and not exists (select 1 from ops.test_results as results where results.invocation_id = built.invocation_id"
        " and results.status = 'warn')"
    )
    return build if found else None


def _is_untouched(home: Settings) -> bool:
    """Whether nobody has written the marts since they were published."""
    files = [home.marts_file, *(file for file in [wal(home.marts_file)] if file.exists())]
    return max(file.stat().st_mtime_ns for file in files) <= home.published_file.stat().st_mtime_ns
