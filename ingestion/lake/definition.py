"""What a stream is, beside its batches: `_stream.json`, from which ops.streams is made anew."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingestion.errors import UserError
from ingestion.lake.batch import Stream
from ingestion.lake.row_groups import sync
from ingestion.lake.writer import Lake, make_folder

DEFINITION = "_stream.json"
NEXT = ".next"


@dataclass(frozen=True)
class Definition:
    """A stream's keys and JSON schema, as the target received them last."""

    keys: list[str]
    schema: dict[str, Any]
    updated_at: datetime


def streams(lake: Lake) -> list[Stream]:
    """Every stream of the lake, also one without batches."""
    return sorted(Stream(folder.parent.name, folder.name) for folder in lake.root.glob("raw/*/*") if folder.is_dir())


def read_definition(lake: Lake, stream: Stream) -> Definition | None:
    """The stream's definition; None where no target has written one. Raises UserError for a damaged file."""
    path = lake.root / stream.folder / DEFINITION
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text())
        return Definition(fields["key_properties"], fields["schema"], datetime.fromisoformat(fields["updated_at"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}; remove it, the next run of the stream writes it anew") from error


def write_definition(lake: Lake, stream: Stream, keys: Sequence[str], schema: Mapping[str, Any]) -> None:
    """Write the stream's definition, if it is not what the lake has."""
    fields = {"key_properties": list(keys), "schema": json.loads(json.dumps(schema, default=str))}
    path = lake.root / stream.folder / DEFINITION
    with contextlib.suppress(FileNotFoundError, ValueError):  # A damaged one is replaced.
        if json.loads(path.read_text()).items() >= fields.items():
            return
    make_folder(path.parent)
    replace_file(path, json.dumps(fields | {"updated_at": datetime.now(UTC).isoformat()}, ensure_ascii=False))


def replace_file(path: Path, text: str, *, keep_mode: bool = False) -> None:
    """Write a file beside its place, then put it there: a reader finds the old or the new one, whole.

    `keep_mode`: there is one, and who may read it may read the new one.
    """
    # Not a temporary file of the writer, which another process may remove while this one writes it.
    beside = path.with_name(f"{path.name}{NEXT}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if keep_mode:
        shutil.copymode(path, beside)
    beside.replace(path)
    sync(path.parent)
