"""Which build may be published, and what a published version says of itself; the same on every warehouse engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ingestion.errors import UserError
from orchestration.personal_data import CHOICE, PLAIN, Disguise

OF_BEFORE = "built by an earlier version of this project"
BUILD_FIRST = "Run `dbt build` (complete, without --select), then publish again."
UNCHANGED = "What is published stays as it was."
VERSIONS_KEPT = "WAREHOUSE_VERSIONS_KEPT"
_DEFAULT_VERSIONS_KEPT = 2

Query = Callable[[str], Sequence[tuple[Any, ...]]]
"""Runs a query on the warehouse and returns its rows."""


@dataclass(frozen=True)
class Build:
    """The dbt invocation that last changed the marts: a row of `ops.builds`."""

    invocation_id: str
    command: str
    is_complete: bool
    status: str
    load_bound: int
    shop: str
    failures: int | None
    started_at: datetime
    loads: int | None


@dataclass(frozen=True)
class Published:
    """One published version."""

    version: int
    invocation_id: str
    load_bound: int
    shop: str
    personal_data: str


def audited_build(query: Query, shop: str) -> Build:
    """The last build. Raises UserError unless it is complete, passed, of this shop, and nothing was loaded after it."""
    names = {
        row[0]
        for row in query(
            "select column_name from information_schema.columns where table_schema = 'ops' and table_name = 'builds'"
        )
    }
    if not names:
        raise UserError(f"The marts were never built. {BUILD_FIRST}")
    if not {"loads", "build_number"} <= names:
        raise UserError(f"The marts were {OF_BEFORE}. {BUILD_FIRST}")
    rows = query(
        "select invocation_id, command, is_complete, status, load_bound, shop, failures, started_at, loads "
        "from ops.builds "
        "order by build_number desc nulls last, started_at desc limit 1"
    )
    if not rows:
        raise UserError(f"The marts were never built. {BUILD_FIRST}")
    build = Build(*rows[0])
    if build.loads is None:
        raise UserError(f"The marts were {OF_BEFORE}. {BUILD_FIRST}")
    if build.shop != shop:
        raise UserError(f"The marts are of the shop {build.shop}, not of {shop}. Set WAREHOUSE_SHOP. {UNCHANGED}")
    if build.status == "running":
        raise UserError(f"The last dbt command ({build.command}) did not end: killed, or still at work. {BUILD_FIRST}")
    if build.status != "passed":
        count = f" with {build.failures} failures" if build.failures else ""
        raise UserError(f"The last dbt command ({build.command}) failed{count}. Repair it. {BUILD_FIRST}")
    if not build.is_complete:
        raise UserError(f"The last dbt command ({build.command}) built only a part of the marts. {BUILD_FIRST}")
    # Their number and not their ids: a killed run's batch that is sent again commits long after it got its id.
    newer = query("select count(*) from ops.loads")[0][0] - build.loads
    if newer:
        raise UserError(f"{newer} loads came after the last build. {BUILD_FIRST}")
    return build


def versions_kept() -> int:
    """How many versions stay, the published one among them. Raises UserError where that is no such number."""
    text = os.environ.get(VERSIONS_KEPT) or str(_DEFAULT_VERSIONS_KEPT)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"{VERSIONS_KEPT} is {text!r}, and not how many versions are kept, the published one among them: 1 or more."
        )
    return int(text)


def chosen(
    current: Published | None, kept: Sequence[Published], wanted: int | None, where: str, hidden: Disguise
) -> Published:
    """The kept version to bring back: the one of this number, or else the last one before the published one.

    Raises:
        UserError: there is none, or it shows personal data that is to be hidden.
    """
    if wanted is not None:
        found = [version for version in kept if version.version == wanted]
    else:
        found = [version for version in kept if current is None or version.version < current.version]
    if not found:
        which = f"version {wanted}" if wanted is not None else "previous version"
        numbers = ", ".join(str(number) for number in sorted(version.version for version in kept))
        others = f" Kept beside the published one: {numbers} (`--version`)." if kept else ""
        raise UserError(f"There is no {which} in {where}.{others} {UNCHANGED}")
    version = max(found, key=lambda version: version.version)
    if not hidden.hides(version.personal_data):
        raise UserError(
            f"Version {version.version} has personal data {version.personal_data}, not {hidden.name}."
            f" To bring it back all the same, set {CHOICE}={PLAIN}. {UNCHANGED}"
        )
    return version


def outdated(kept: Sequence[Published], replaced: int, staying: int, form: str) -> list[Published]:
    """Of the kept versions those that go when a new one has taken the place of the version `replaced`.

    Those that it had been brought back from, those that hide personal data in another form than the new one's (where
    that is plain, all may stay), and the oldest where more than `staying` are left.
    """
    fit = [version for version in kept if version.version <= replaced and form in (PLAIN, version.personal_data)]
    newest = sorted(fit, key=lambda version: -version.version)[:staying]
    return [version for version in kept if version not in newest]
