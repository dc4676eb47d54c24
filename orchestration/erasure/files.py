"""Files that are neither lake nor warehouse: logs and dbt's own, where a person's values may have been written too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ingestion.lake.row_groups import sync
from ingestion.settings import PROJECT_ROOT, Settings
from orchestration.erasure.values import Search

# In bytes.
_CHUNK = 16_000_000
_DBT = "dbt"
# Of our own that other programs write, as texts.
_WRITTEN = ("logs", _DBT, "docs", "meltano", "last_run.json")
# What DuckDB could not keep in memory, and what a published file's copy was read in: of processes that were killed.
_LEFT = ("tmp/*", ".reading-*")


def erase(home: Settings, search: Search) -> None:
    """Put a mark in the place of each value in logs and in what dbt and Meltano left; dbt's caches go as a whole.

    So does what killed processes left. Each file is the old or the new one, whole. Nobody may be writing them.
    """
    for pattern in _LEFT:
        for path in home.home.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in found(home, search):
        if _is_text(path):
            _rewrite(path, search)
        elif path.is_relative_to(home.home / _DBT):
            path.unlink()


def found(home: Settings, search: Search) -> list[Path]:
    """The logs and the like that have any of the values."""
    return [path for path in _texts(home) if contains(path, search)]


def all_files(home: Settings) -> Iterator[Path]:
    """Every file of the warehouse's home, and its logs elsewhere, but for what is the source's or a server's."""
    not_ours = {home.home / "source", home.home / "demo_shop"}
    if not home.home.is_relative_to(home.data):
        not_ours.add(home.data)
    # What is in a server's own files nobody can tell from outside while it runs (docs/erasure.md).
    not_ours |= set((home.home / "services").glob("*/data"))
    for folder in _folders(home):
        for path in _below(folder):
            if not any(path.is_relative_to(other) for other in not_ours):
                yield path


def is_of_tables(home: Settings, path: Path) -> bool:
    """Whether a file has tables' rows, of the lake or a database."""
    return path.is_relative_to(home.lake) or path.name.endswith((".duckdb", ".duckdb.wal"))


def contains(path: Path, search: Search, of_bytes: Search | None = None) -> bool:
    """Whether a file has any of the values; a file that has gone has not.

    A text is searched as one, any other file for `of_bytes`, where that is another search, in its bytes.
    """
    of_bytes = of_bytes or search
    overlap = b""
    try:
        if _is_text(path):
            return any(search.is_in_text(piece) for piece in _lines(path))
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                if of_bytes.is_in(overlap + chunk):
                    return True
                overlap = chunk[-of_bytes.most_bytes :]
    except (FileNotFoundError, IsADirectoryError):
        return False
    return False


def in_project() -> str:
    """All texts of the dbt project and of Meltano's, in lower case: no person's, whatever the names in its tests."""
    paths = [path for ending in ("yml", "sql", "csv", "md") for path in PROJECT_ROOT.glob(f"dbt_project/**/*.{ending}")]
    paths += [PROJECT_ROOT / "meltano.yml", *PROJECT_ROOT.glob("ingestion/shops/*.yml")]
    return "\n".join(path.read_text(encoding="utf-8").lower() for path in paths)


def _folders(home: Settings) -> list[Path]:
    """The warehouse's home, and where Meltano and dbt write their logs unless they are told otherwise."""
    meltano = Path(os.environ.get("MELTANO_SYS_DIR_ROOT") or PROJECT_ROOT / ".meltano")
    dbt = Path(os.environ.get("DBT_LOG_PATH") or PROJECT_ROOT / "dbt_project" / "logs")
    others = {meltano.resolve(), dbt.resolve(), PROJECT_ROOT / "logs"}
    return [home.home, *sorted(folder for folder in others if not folder.is_relative_to(home.home))]


def _texts(home: Settings) -> Iterator[Path]:
    inside, *outside = _folders(home)
    places = [*(inside / name for name in _WRITTEN), *outside, *(inside / "services").glob("*/*.log")]
    for place in places:
        yield from _below(place)


def _below(place: Path) -> Iterator[Path]:
    if place.is_file() and not place.is_symlink():
        yield place
    for folder, _, names in os.walk(place):
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _is_text(path: Path) -> bool:
    # A log of a machine that lost its power has blocks of zeros.
    if ".log" in path.name:
        return True
    with path.open("rb") as file:
        return b"\0" not in file.read(_CHUNK)


def _lines(path: Path) -> Iterator[bytes]:
    """A file in parts that end with a line: a value has no line's end in it."""
    with path.open("rb") as file:
        rest = b""
        while chunk := file.read(_CHUNK):
            whole, end, rest = (rest + chunk).rpartition(b"\n")
            if end:
                yield whole + end
        if rest:
            yield rest


def _rewrite(path: Path, search: Search) -> None:
    beside = path.with_name(f".{path.name}.erased")
    with beside.open("wb") as new:
        for piece in _lines(path):
            new.write(search.replaced(piece))
        new.flush()
        os.fsync(new.fileno())
    shutil.copystat(path, beside)
    beside.replace(path)
    sync(path.parent)
