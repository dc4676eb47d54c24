"""The list of a shop's file streams (docs/contracts.md, "Streams")."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ingestion.errors import UserError
from ingestion.lake import Stream

FORMATS = ("csv", "jsonl", "parquet")
TYPES = ("integer", "bigint", "decimal", "timestamp", "boolean", "date")


@dataclass(frozen=True)
class FileStreamConfig:
    """One stream of files: where they are, how to read them and what every record must satisfy."""

    name: str
    path: str
    format: str
    keys: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    not_empty: tuple[str, ...] = ()
    deleted_at: str | None = None
    delimiter: str = ","
    encoding: str = "utf-8"

    @property
    def stream(self) -> Stream:
        """The lake's name of this stream."""
        return Stream.parse(self.name)

    @property
    def required_columns(self) -> list[str]:
        """Columns that a file must have: all that the settings name."""
        deleted_at = (self.deleted_at,) if self.deleted_at else ()
        return list(dict.fromkeys((*self.keys, *self.columns, *self.required, *self.not_empty, *deleted_at)))

    def files(self, data: Path) -> list[Path]:
        """The stream's files below `data`, by name. A link to nothing counts: its file has vanished."""
        return sorted(path for path in data.glob(self.path) if path.is_file() or not path.exists())


def load_streams(path: Path) -> list[FileStreamConfig]:
    """Read a list of streams. Raises UserError that names the file, the stream and the setting to mend."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such list of streams; write one, or set WAREHOUSE_SHOP to a shop that has"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    entries = content.get("streams") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: write a list `streams:` with at least one stream")
    streams = [_stream(path, number, entry) for number, entry in enumerate(entries, start=1)]
    ids = [config.stream.id for config in streams]
    if doubled := {name for name in ids if ids.count(name) > 1}:
        raise UserError(f"{path}: stream {', '.join(sorted(doubled))} is listed twice; give each its own name")
    return streams


def _stream(path: Path, number: int, entry: Any) -> FileStreamConfig:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: stream {number} is not a mapping; write name, path and format")
    where = f"{path}: stream {entry.get('name') or number}"
    known = set(FileStreamConfig.__dataclass_fields__)
    if unknown := set(entry) - known:
        names = ", ".join(sorted(map(str, unknown)))
        raise UserError(f"{where}: unknown setting {names}; known are {', '.join(sorted(known))}")
    values = {key: value for key, value in entry.items() if value is not None}
    for key in ("name", "path", "format"):
        if not values.get(key):
            raise UserError(f"{where}: {key} is missing")
    for key in ("name", "path", "format", "deleted_at", "delimiter", "encoding"):
        if not isinstance(values.get(key, ""), str):
            raise UserError(f"{where}: {key} must be text")
    for key in ("keys", "required", "not_empty"):
        names = values.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where}: {key} must be a list of column names")
        values[key] = tuple(names)
    columns = values.setdefault("columns", {})
    if not isinstance(columns, dict) or not all(kind in TYPES for kind in columns.values()):
        raise UserError(f"{where}: columns must map column names to one of {', '.join(TYPES)}")
    if values["format"] not in FORMATS:
        raise UserError(f"{where}: format {values['format']!r} is not one of {', '.join(FORMATS)}")
    if Path(values["path"]).is_absolute() or ".." in Path(values["path"]).parts:
        raise UserError(f"{where}: path must be a pattern below the data folder, such as orders/*.csv*")
    delimiter = values.get("delimiter", ",")
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise UserError(f"{where}: delimiter {delimiter!r} must be one ASCII character, neither quote nor line end")
    try:
        codecs.lookup(values.get("encoding", "utf-8"))
    except LookupError as error:
        raise UserError(f"{where}: unknown encoding {values['encoding']!r}; try utf-8 or latin-1") from error
    config = FileStreamConfig(**values)
    _ = config.stream  # Refuses a name that cannot be a table.
    return config
