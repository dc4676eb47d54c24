"""What the histories of users and products should hold (docs/contracts.md, "History"), by walking through the versions.

The demo shop's versions come in files, so they are ordered by the time that they say.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pandas as pd

BEGINNING = pd.Timestamp("1970-01-01")


def history(versions: pd.DataFrame, key: str, member: dict[str, Any]) -> pd.DataFrame:
    """One row per key and version that says something new, and one of the unknown `member`, by key and time.

    `versions` has one cleaned row per received version: `key`, what is said of it, `deleted_at`, and `version_at`, in
    naive UTC. Raises ValueError when two versions of a key differ and have the same time: the shop writes none such.
    """
    content = [column for column in versions.columns if column not in (key, "version_at")]
    values = versions.astype(object).where(versions.notna(), None)
    received = zip(values[key], values["version_at"], values[content].itertuples(index=False, name=None), strict=True)
    said = sorted({*received}, key=lambda version: version[:2])

    rows: list[dict[str, Any]] = []
    for value, of_key in groupby(said, key=lambda version: version[0]):
        spells: list[tuple[pd.Timestamp, tuple]] = []
        moment = None
        for _, version_at, says in of_key:
            if version_at == moment:
                raise ValueError(f"two versions of {key} {value} differ but have the same time")
            moment = version_at
            if not spells or spells[-1][1] != says:
                spells.append((version_at, says))
        ends = [version_at for version_at, _ in spells[1:]] + [None]
        for number, ((version_at, says), end) in enumerate(zip(spells, ends, strict=True), start=1):
            times = {
                "version_at": version_at,
                "valid_from": BEGINNING if number == 1 else version_at,
                "valid_to": end,
                "is_current": end is None,
            }
            rows.append({key: value, "version_number": number} | dict(zip(content, says, strict=True)) | times)
    unknown = {column: member.get(column) for column in content}
    of_member = {"version_at": None, "valid_from": BEGINNING, "valid_to": None, "is_current": True}
    rows.append({key: member[key], "version_number": 1} | unknown | of_member)

    table = pd.DataFrame(rows, columns=[key, "version_number", *content, *of_member], dtype=object)
    moments = dict.fromkeys(("version_at", "valid_from", "valid_to"), "datetime64[us]")
    types = {column: versions[column].dtype for column in (key, *content)} | moments
    table = table.astype(types | {"version_number": "int64", "is_current": bool})
    return table.sort_values([key, "valid_from"], ignore_index=True)
