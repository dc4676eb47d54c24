"""What the histories of users and products should hold (docs/contracts.md, "History"), version by version."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pandas as pd

BEGINNING = pd.Timestamp("1970-01-01")


def history(versions: pd.DataFrame, key: str, member: dict[str, Any]) -> pd.DataFrame:
    """One row per key and version that says something new, and one of the unknown `member`, by key and time.

    `versions` has one cleaned row per version, those of a key in their order: `key`, what is said of it, `deleted_at`,
    and `version_at`, in naive UTC.
    """
    content = [column for column in versions.columns if column not in (key, "version_at")]
    values = versions.astype(object).where(versions.notna(), None)
    received = zip(values[key], values["version_at"], values[content].itertuples(index=False, name=None), strict=True)
    said = sorted(received, key=lambda version: version[0])

    rows: list[dict[str, Any]] = []
    for value, of_key in groupby(said, key=lambda version: version[0]):
        # Since when a version holds: (that, its own time, what it says). The last of a moment counts.
        held: list[tuple[pd.Timestamp, pd.Timestamp, tuple]] = []
        for _, version_at, says in of_key:
            since = max(version_at, held[-1][0] if held else BEGINNING)
            if held and held[-1][0] == since:
                held.pop()
            held.append((since, version_at, says))
        before = [None, *(says for *_, says in held)]
        spells = [spell for spell, said_before in zip(held, before, strict=False) if spell[2] != said_before]
        ends = [since for since, *_ in spells[1:]] + [None]
        for number, ((since, version_at, says), end) in enumerate(zip(spells, ends, strict=True), start=1):
            times = {
                "version_at": version_at,
                "valid_from": BEGINNING if number == 1 else since,
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
