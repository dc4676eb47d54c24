"""Publish on DuckDB: put the audited marts where BI reads them, all at once or not at all.

The marts that dbt built are written beside the published file, without dbt's bookkeeping and with personal data hidden,
read once, and renamed into place. A reader keeps the version that it has open and sees the new one when it connects
again. Versions of before are files of their own beside it. What was published, brought back or refused is noted in
`ops.publishes`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import duckdb

from ingestion import settings
from ingestion.errors import UserError
from ingestion.settings import Settings
from orchestration.audit import (
    BUILD_FIRST,
    OF_BEFORE,
    UNCHANGED,
    Published,
    audited_build,
    chosen,
    outdated,
    versions_kept,
)
from orchestration.personal_data import PLAIN, Disguise, Personal, disguise

_PUBLISHES = """
create schema if not exists ops;
create table if not exists ops.publishes (
    version bigint, invocation_id varchar, action varchar, noted_at timestamptz, load_bound bigint, reason varchar,
    run_id varchar
);
"""
_MESSAGE_LENGTH = 500
_T = TypeVar("_T")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def publish(home: Settings) -> tuple[Published, bool]:
    """Publish the marts of the last build; the flag is False when that build was published before, in the same form.

    Raises:
        UserError: the last build may not be published, another publish is at work, or the disk is full. What is
            published stays as it was.
    """
    try:
        version, is_new = _guarded(home, lambda: _publish(home))
    except UserError as refusal:
        _note(home, "refused", reason=str(refusal))
        raise
    _note(home, "publish" if is_new else None)
    return version, is_new


def _guarded(home: Settings, act: Callable[[], _T]) -> _T:
    """Do it. Raises UserError for what the disk refuses."""
    try:
        return act()
    except OSError as error:
        raise _disk_error(error, home.published_file.parent) from error


def _publish(home: Settings) -> tuple[Published, bool]:
    if not home.warehouse_file.exists() or not home.marts_file.exists():
        raise UserError(f"There are no marts to publish in {home.home}. {BUILD_FIRST}")
    folder = home.published_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".next.duckdb"
    with alone(folder), _unwritten(home) as connection:
        _remove(beside)  # what a killed publish left
        _remove(folder / "previous.duckdb")  # the one version of before that this project kept until it kept several
        hidden, staying = disguise(home), versions_kept() - 1
        current, kept = published_version(home.published_file), _kept(home)
        if current and hidden.hides(current.personal_data):
            _forget_other_forms(kept, hidden)  # what a killed publish left
        build = audited_build(lambda query: connection.execute(query).fetchall(), home.shop)
        models, personal = _noted(connection)
        form = hidden.form(personal)
        if current and (current.invocation_id, current.personal_data) == (build.invocation_id, form):
            return current, False
        seen = [version.version for version in (current, *kept) if version]
        newest = max([0, _newest_noted(connection), *seen])
        new = Published(newest + 1, build.invocation_id, build.load_bound, build.shop, form)
        try:
            _write(home.marts_file, beside, new, models, personal, hidden)
            kept |= _keep(home, current)
            # Before it is published: what stood in the middle of this must never be the version before it.
            for version in outdated(list(kept), current.version if current else newest, staying, form):
                _remove(kept[version])
            _swap(beside, home.published_file)
        except duckdb.Error as error:
            # DuckDB has only the system's words for it.
            if any(os.strerror(number) in str(error) for number in _FULL):
                raise _disk_error(OSError(errno.ENOSPC, str(error)), folder) from error
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"The marts in {home.marts_file} could not be published: {reason}. {UNCHANGED}") from error
        finally:
            _remove(beside)
    return new, True


def bring_back(home: Settings, number: int | None = None) -> Published:
    """Publish a kept version again: the one of this number, or else the one before the published one.

    Newer ones stay until the next publish.

    Raises:
        UserError: there is none, or it shows personal data that is to be hidden.
    """
    try:
        restored = _guarded(home, lambda: _bring_back(home, number))
    except UserError as refusal:
        _note(home, "refused", reason=str(refusal))
        raise
    _note(home, "previous")
    return restored


def _bring_back(home: Settings, number: int | None) -> Published:
    folder = home.published_file.parent
    with alone(folder):
        hidden = disguise(home)
        current, kept = published_version(home.published_file), _kept(home)
        others = {version: file for version, file in kept.items() if not current or version.version != current.version}
        version = chosen(current, list(others), number, str(folder), hidden)
        beside = folder / ".next.duckdb"
        _remove(beside)
        os.link(kept[version], beside)
        kept |= _keep(home, current)
        _swap(beside, home.published_file)
        _forget_other_forms(kept, hidden)
    return version


def place(home: Settings) -> str:
    """Where readers find what is published."""
    return f"{home.published_file} ({home.published_file.stat().st_size / 1e6:.1f} MB)"


def version_before(home: Settings) -> Path | None:
    """The file of the kept version before the published one, if any."""
    current = published_version(home.published_file)
    before = (
        {version.version: file for version, file in _kept(home).items() if version.version < current.version}
        if current
        else {}
    )
    return before[max(before)] if before else None


def published_version(file: Path) -> Published | None:
    """What a published file says about itself; None when there is no such file.

    Raises:
        UserError: the file is not one that publish wrote.
    """
    if not file.exists():
        return None
    try:
        with opened(file) as connection:
            found = connection.execute("select * exclude (published_at) from meta.publish_info")
            names = [column[0] for column in found.description]
            rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        # A version of before does not say in which form personal data is, which then was plain.
        return Published(**({"personal_data": PLAIN} | rows[0])) if rows else None
    except (duckdb.Error, TypeError) as error:
        raise UserError(
            f"{file} is not a published version ({str(error).splitlines()[0]}). Move it away, then publish again."
        ) from error


def _note(home: Settings, action: str | None, reason: str | None = None) -> None:
    """Note in `ops.publishes` what was done, and what an earlier publish did and could not note.

    A warehouse that somebody else has open is not waited for: what is published says itself which version it is, and
    the next publish notes it. A refusal then stands in the job's output alone.
    """
    if not home.warehouse_file.exists():
        return
    try:
        with duckdb.connect(str(home.warehouse_file)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            connection.execute(_PUBLISHES)
            if home.published_file.exists() and action != "previous":
                _note_published(connection, home.published_file, settings.run_id() if action == "publish" else None)
            if action in ("previous", "refused"):
                version = published_version(home.published_file) if action == "previous" else None
                connection.execute(
                    "insert into ops.publishes values (?, ?, ?, now(), ?, ?, ?)",
                    [
                        version.version if version else None,
                        version.invocation_id if version else None,
                        action,
                        version.load_bound if version else None,
                        " ".join(reason.split())[:_MESSAGE_LENGTH] if reason else None,
                        settings.run_id(),
                    ],
                )
    except (duckdb.Error, OSError, UserError) as error:
        if action != "refused":  # A refusal has one line of its own.
            line = str(error).splitlines()[0]
            print(f"warehouse-publish: not noted in ops.publishes yet, the next publish does: {line}", file=sys.stderr)


def _newest_noted(connection: duckdb.DuckDBPyConnection) -> int:
    """The highest number that BI has seen, as far as it was noted: of a version that is gone no file tells."""
    if not connection.execute("from duckdb_tables() where schema_name = 'ops' and table_name = 'publishes'").fetchall():
        return 0
    return connection.execute("select coalesce(max(version), 0) from ops.publishes").fetchall()[0][0]


def _note_published(connection: duckdb.DuckDBPyConnection, file: Path, run_id: str | None) -> None:
    """Note the published version, unless that was done."""
    with opened(file) as published:
        rows = published.execute(
            "select version, invocation_id, 'publish', published_at, load_bound, null from meta.publish_info"
        ).fetchall()
    for row in rows:
        known = connection.execute(
            "select 1 from ops.publishes where version = ? and invocation_id = ?", [row[0], row[1]]
        ).fetchall()
        if not known:
            connection.execute("insert into ops.publishes values (?, ?, ?, ?, ?, ?, ?)", [*row, run_id])


@contextmanager
def opened(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to read a published file, also while somebody has it open to write (DuckDB's default)."""
    try:
        connection = duckdb.connect(str(file), read_only=True)
    except duckdb.IOException as error:
        if "lock" not in str(error):
            raise
        # Not among what is published: a killed process leaves its copy.
        with tempfile.TemporaryDirectory(dir=file.parent.parent, prefix=".reading-") as folder:
            copy = Path(folder) / file.name
            shutil.copyfile(file, copy)
            with duckdb.connect(str(copy), read_only=True) as connection:
                yield connection
        return
    with connection:
        yield connection


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of this folder; it ends with the process, however that ends."""
    if not folder.is_dir():
        raise UserError(f"Nothing is published in {folder} yet. {BUILD_FIRST}")
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another publish of {folder} is at work. {UNCHANGED}") from error
        yield


@contextmanager
def _unwritten(home: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that keeps the target and dbt from writing: DuckDB lets nobody write a file that is open to read."""
    try:
        connection = duckdb.connect(str(home.warehouse_file), read_only=True)
    except duckdb.IOException as error:
        raise UserError(f"{home.warehouse_file} is in use by a load or a build. {UNCHANGED} ({error})") from error
    with connection:
        try:
            connection.execute(f"attach '{quoted(home.marts_file)}' as marts (read_only)")
        except duckdb.IOException as error:
            raise UserError(f"{home.marts_file} is in use by a build. {UNCHANGED} ({error})") from error
        yield connection


def _write(
    marts_file: Path,
    beside: Path,
    version: Published,
    models: Sequence[str],
    personal: Personal,
    hidden: Disguise,
) -> None:
    """A file with nothing but the marts, as they may be seen, and the version; safe on disk.

    Rows are written anew and not hidden in a copy of the file, where what was there before would still be found.
    """
    with duckdb.connect() as connection:
        connection.execute(f"set temp_directory = '{quoted(marts_file.parent / 'tmp')}'; set memory_limit = '1GB'")
        connection.execute("set threads = 2")
        connection.execute(f"attach '{quoted(marts_file)}' as built (read_only)")
        connection.execute(f"attach '{quoted(beside)}' as published (storage_version 'v1.4.0')")
        hidden.install(connection)
        _copy_marts(connection, models, personal, hidden)
        connection.execute("create schema published.meta")
        connection.execute(
            "create table published.meta.publish_info (version bigint, invocation_id text, load_bound bigint,"
            " published_at timestamptz, shop text, personal_data text)"
        )
        connection.execute(
            "insert into published.meta.publish_info values (?, ?, ?, ?, ?, ?)",
            [
                version.version,
                version.invocation_id,
                version.load_bound,
                datetime.now(UTC),
                version.shop,
                version.personal_data,
            ],
        )
        connection.execute("checkpoint published")
    _check_readable(beside)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())


def _noted(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], Personal]:
    """Today's models, and what is personal of them; a yml may write a name in another case than the database."""
    try:
        models = _column(connection, "select lower(model) from marts.ops.models")
        noted = connection.execute(
            "select lower(model), lower(column_name), kind from marts.ops.personal_columns where kind is not null"
        ).fetchall()
    except duckdb.CatalogException as error:
        raise UserError(f"The marts were {OF_BEFORE}. {BUILD_FIRST}") from error
    return models, {(model, column): kind for model, column, kind in noted}


def _copy_marts(
    connection: duckdb.DuckDBPyConnection, models: Sequence[str], personal: Personal, hidden: Disguise
) -> None:
    """Write the marts of the database `built` into the database `published`, personal data hidden."""
    connection.execute("copy from database built to published (schema)")
    for schema in _column(
        connection, "select schema_name from duckdb_schemas() where database_name = 'published' and not internal"
    ):
        if schema != "main":
            connection.execute(f'drop schema published."{schema}" cascade')
    for name in _column(
        connection, "select table_name from duckdb_tables() where database_name = 'published' order by table_name"
    ):
        # One that this shop cannot have, or that is no model any more, so that nobody says what of it is personal.
        if name.lower() not in models:
            connection.execute(f'drop table published.main."{name}"')
            continue
        columns = _column(
            connection,
            "select column_name from duckdb_columns() where database_name = 'built' and schema_name = 'main'"
            f" and table_name = '{name}' order by column_index",
        )
        kinds = [personal.get((name.lower(), column.lower())) for column in columns]
        shown = [
            hidden.sql(f'"{column}"', kind) if kind else f'"{column}"'
            for column, kind in zip(columns, kinds, strict=True)
        ]
        for column, kind in zip(columns, kinds, strict=True):
            if kind and hidden.is_null(kind):
                connection.execute(f'alter table published.main."{name}" alter column "{column}" drop not null')
        connection.execute(f'insert into published.main."{name}" select {", ".join(shown)} from built.main."{name}"')


def _kept(home: Settings) -> dict[Published, Path]:
    """The versions that can be brought back; the published one may be among them."""
    files = _versions(home).glob("*.duckdb")
    return {version: file for file in files if (version := published_version(file))}


def _keep(home: Settings, current: Published | None) -> dict[Published, Path]:
    """Keep the published file under its number, which costs no room; returns it as `_kept` would."""
    if not current:
        return {}
    folder = _versions(home)
    folder.mkdir(exist_ok=True)
    file, beside = folder / f"{current.version}.duckdb", folder / ".next"
    beside.unlink(missing_ok=True)
    os.link(home.published_file, beside)
    beside.replace(file)
    return {current: file}


def _forget_other_forms(kept: Mapping[Published, Path], hidden: Disguise) -> None:
    """Remove versions that show what is to be hidden, or hide it by a key of before."""
    for version, file in kept.items():
        if not hidden.hides(version.personal_data):
            _remove(file)


def _check_readable(file: Path) -> None:
    """Read every column of every mart once, as a reader would open them."""
    with duckdb.connect(str(file), read_only=True) as connection:
        names = marts(connection)
        if not names:
            raise UserError(f"No mart was built. {BUILD_FIRST}")
        for name in names:
            connection.execute(f'select max(columns(*)) from main."{name}"').fetchall()


def marts(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of the marts in an opened published file."""
    return _column(
        connection,
        "select table_name from information_schema.tables "
        "where table_schema = 'main' and table_catalog = current_database() order by table_name",
    )


def _swap(beside: Path, published: Path) -> None:
    """Put the new file in the place of the published one, in one step."""
    # What a reader with leave to write left there is of the old file, and no reader could open the new one with it.
    wal(published).unlink(missing_ok=True)
    beside.replace(published)
    folder = os.open(published.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _disk_error(error: OSError, folder: Path) -> UserError:
    if error.errno in _FULL:
        return UserError(f"No room for a second copy of the marts in {folder}. Make room, publish again. {UNCHANGED}")
    return UserError(f"The marts could not be written to {folder}: {error}. {UNCHANGED}")


def _versions(home: Settings) -> Path:
    return home.published_file.parent / "versions"


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
    wal(file).unlink(missing_ok=True)


def wal(file: Path) -> Path:
    """DuckDB's log beside a database file."""
    return file.with_name(file.name + ".wal")


def _column(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    return [row[0] for row in connection.execute(query).fetchall()]


def quoted(path: Path) -> str:
    """A path within quotes in SQL."""
    return str(path).replace("'", "''")
