"""Publish on PostgreSQL: the audited marts, personal data hidden, become what readers of the schema `marts` see.

Readers ask views. Behind each is one table in the schema `published` with a partition for each of a few slots; a
version fills one slot of all tables, and the view shows the slot that `published.current_slot` names. So a new version
is seen by one changed row: whoever asks has one snapshot for the whole query, and in it one version, while nobody waits
for a lock. (Renaming schemas was measured: the names in one query are looked up one after another, and now and then one
was found in the old schema and the next in the new.)

Only where the marts' columns changed, tables and views are made anew beside the old ones and take their names, in a
transaction that has the old views for itself for a moment. The old ones stay as the schemas `..._before`, until the
next such change, so that their versions can be brought back.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg2
from psycopg2 import errors, sql

from ingestion import postgres_service, settings
from ingestion.errors import UserError
from ingestion.postgres_service import PERSONAL_REPORTER, PUBLISH_LOCK, REPORTER, TRANSFORMER, one_line
from ingestion.settings import Settings
from orchestration.audit import (
    BUILD_FIRST,
    UNCHANGED,
    Published,
    Query,
    audited_build,
    chosen,
    outdated,
    versions_kept,
)
from orchestration.personal_data import Disguise, disguise

BUILD = "build"
"""The schema in which dbt builds the marts."""
# Behind a query that is at work new ones would wait as long as we do. In milliseconds.
_WAIT_FOR_READERS = 300
_ATTEMPTS, _BETWEEN_SECONDS = 100, 0.2
_WAIT_FOR_BUILD = "10s"
_MESSAGE_LENGTH = 500

_HIDDEN = "_hidden_"
_NAME_BYTES = 63

Column = tuple[str, str]  # name, type
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Generation:
    """The schemas of tables and views that belong together."""

    suffix: str

    @property
    def tables(self) -> str:
        return f"published{self.suffix}"

    @property
    def views(self) -> str:
        return f"marts{self.suffix}"

    @property
    def meta(self) -> str:
        return f"meta{self.suffix}"

    @property
    def personal_views(self) -> str:
        return f"marts_personal{self.suffix}"

    @property
    def schemas(self) -> tuple[str, ...]:
        return self.tables, self.views, self.personal_views, self.meta


_NOW, _BEFORE, _NEXT, _ASIDE = (_Generation(suffix) for suffix in ("", "_before", "_next", "_aside"))


def publish(home: Settings) -> tuple[Published, bool]:
    """Publish the marts of the last build; the flag is False when that build was published before, in the same form.

    Raises:
        UserError: the server cannot be reached, the last build may not be published, another publish is at work, or
            readers do not let the views be exchanged. What is published stays as it was.
    """
    with _connected() as connection:
        _take_turn(connection)
        publisher = _Publisher(home, connection)
        return publisher.run(publisher.publish)


def publish_alone(home: Settings) -> None:
    """Publish the marts of the last build in tables of their own, and remove all other versions with their tables.

    So that nothing of them is left in the database's files. Raises UserError as `publish` does, and when a reader goes
    on to use a version of before.
    """
    with _connected() as connection:
        _take_turn(connection)
        publisher = _Publisher(home, connection)
        publisher.run(lambda: publisher.publish(anew=True))
        publisher.run(publisher.drop_before)


def versions(home: Settings) -> int:
    """How many versions there are. Raises UserError for what PostgreSQL refuses."""
    with _connected() as connection:
        return _Publisher(home, connection).versions()


def bring_back(home: Settings, number: int | None = None) -> Published:
    """Publish a kept version again: the one of this number, or else the one before the published one.

    Newer ones stay until the next publish.

    Raises:
        UserError: there is none, or it shows personal data that is to be hidden.
    """
    with _connected() as connection:
        _take_turn(connection)
        publisher = _Publisher(home, connection)
        return publisher.run(lambda: publisher.bring_back(number))


@contextmanager
def reading(home: Settings) -> Iterator[tuple[Query, Published | None]]:
    """What runs queries on the warehouse, and the published version. Raises UserError for what PostgreSQL refuses."""
    with _connected() as connection:
        publisher = _Publisher(home, connection)
        yield publisher.rows, publisher.current()


def place(home: Settings) -> str:
    """Where readers find what is published."""
    parameters = postgres_service.connection(TRANSFORMER)
    return f"the schema {_NOW.views} of the database {parameters.get('dbname')} on {parameters.get('host')}"


@contextmanager
def _connected() -> Iterator[Any]:
    """A connection. All errors of PostgreSQL are raised as UserError."""
    parameters = postgres_service.connection(TRANSFORMER)
    try:
        with closing(postgres_service.connect(parameters, "warehouse-publish")) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute("set time zone 'UTC'; set client_min_messages = warning")
            yield connection
    except psycopg2.Error as error:
        raise _refused(error) from None


def _refused(error: psycopg2.Error) -> UserError:
    return UserError(f"PostgreSQL refused to publish ({TRANSFORMER}): {_said(error)}. {UNCHANGED}")


def _said(error: psycopg2.Error) -> str:
    return one_line(error, postgres_service.connection(TRANSFORMER))


def _take_turn(connection: Any) -> None:
    """Hold the lock of publishing as long as the connection lives. Raises UserError when another has it."""
    with connection, connection.cursor() as cursor:
        cursor.execute("select pg_try_advisory_lock(%s, %s)", PUBLISH_LOCK)
        if not cursor.fetchall()[0][0]:
            raise UserError(f"Another publish is at work in this database. {UNCHANGED}")


class _Publisher:
    """One publish, over one connection, and but for the notes of refusals in one transaction."""

    def __init__(self, home: Settings, connection: Any) -> None:
        self.home = home
        self._connection = connection
        self._cursor = connection.cursor()

    def run(self, act: Callable[[], _T]) -> _T:
        """Do it whole or not at all; a refusal is noted in `ops.publishes`."""
        try:
            done = act()
            self._connection.commit()
        except (UserError, psycopg2.Error) as error:
            refusal = error if isinstance(error, UserError) else _refused(error)
            if self._connection.closed:
                raise refusal from None
            self._connection.rollback()
            if self.rows("select to_regclass('ops.publishes') is not null") == [(True,)]:
                self._note("refused", None, " ".join(str(refusal).split())[:_MESSAGE_LENGTH])
                self._connection.commit()
            raise refusal from None
        try:
            self._clean()
        except psycopg2.Error as error:
            print(f"warehouse-publish: not cleaned yet, the next publish does: {_said(error)}", file=sys.stderr)
        return done

    def versions(self) -> int:
        """How many versions there are."""
        return len(self._kept())

    def drop_before(self) -> None:
        """Remove the tables of before the last that were made anew."""
        self._run("set local lock_timeout = {}", sql.Literal(_WAIT_FOR_BUILD))
        try:
            if self._exists(_BEFORE):
                self._drop(_BEFORE)
        except errors.LockNotAvailable:
            raise UserError(
                "A reader goes on to use the version of before, which is to go: let its transaction end (see pg_locks),"
                " then do the same again."
            ) from None

    def publish(self, *, anew: bool = False) -> tuple[Published, bool]:
        """See the module's `publish`; `anew`: into new tables, whatever the columns, and the same build again too."""
        hidden, staying = disguise(self.home), versions_kept() - 1
        built, personal = noted = self._noted()
        self._connection.commit()
        self._hold(built)
        if self._noted() != noted:
            raise UserError(f"The marts are in use by a build. {UNCHANGED}")
        build = audited_build(self.rows, self.home.shop)
        current, kept = self.current(), self._kept()
        form = hidden.form(personal)
        if not anew and current and (current.invocation_id, current.personal_data) == (build.invocation_id, form):
            return current, False
        if not built:
            raise UserError(f"No mart was built. {BUILD_FIRST}")
        newest = max([version.version for version in kept] + [self._newest_noted()])
        new = Published(newest + 1, build.invocation_id, build.load_bound, build.shop, form)
        gone = outdated(list(kept), current.version if current else newest, staying, form)
        columns = {
            mart: [
                *(of_mart := self._columns(BUILD, mart)),
                *((_hidden(column), kind) for column, kind in of_mart if (mart.lower(), column.lower()) in personal),
            ]
            for mart in built
        }
        is_alike = not anew and columns == self._published_columns() and len(self._slots(_NOW)) == staying + 2
        generation = _NOW if is_alike else _NEXT
        if not is_alike:
            self._make(_NEXT, columns, staying + 2)
        self._fill(generation, new, columns, personal, hidden)
        self._admit(generation)
        if not is_alike and self._exists(_BEFORE):
            self._drop(_BEFORE)
        self._forget(gone)
        self._note("publish", new)
        if not is_alike:
            self._exchange(_NEXT)
        return new, True

    def bring_back(self, number: int | None) -> Published:
        """See the module's `bring_back`."""
        hidden = disguise(self.home)
        current, kept = self.current(), self._kept()
        others = [version for version in kept if version != current]
        version = chosen(current, others, number, f"the schema {_NOW.tables}", hidden)
        generation, slot = kept[version]
        self._show(generation, slot)
        self._admit(generation)
        self._forget([other for other in kept if other != version and not hidden.hides(other.personal_data)])
        self._note("previous", version)
        if generation == _BEFORE:
            self._exchange(_BEFORE)
        return version

    def _noted(self) -> tuple[list[str], dict[tuple[str, str], str]]:
        """The marts that are built and may be published, and the kind of each of their columns with personal data."""
        if self.rows("select to_regclass('ops.models') is null or to_regclass('ops.personal_columns') is null")[0][0]:
            raise UserError(f"The marts were never built. {BUILD_FIRST}")
        built = self.rows(
            "select tables.table_name from information_schema.tables as tables inner join ops.models"
            f" on lower(tables.table_name) = lower(models.model) where tables.table_schema = '{BUILD}' order by 1"
        )
        kinds = self.rows("select lower(model), lower(column_name), kind from ops.personal_columns")
        return [name for (name,) in built], {(model, column): kind for model, column, kind in kinds}

    def _hold(self, built: Sequence[str]) -> None:
        """Begin the transaction that publishes: no build can exchange these tables until it ends.

        Its one snapshot is taken after that, so that the tables are those of which `ops.builds` speaks in it.
        """
        self._connection.set_session(isolation_level="REPEATABLE READ")
        self._run("set local lock_timeout = {}", sql.Literal(_WAIT_FOR_BUILD))
        if built:
            try:
                self._run("lock table {} in access share mode", _listed(_name(BUILD, mart) for mart in built))
            except (errors.LockNotAvailable, errors.UndefinedTable):
                raise UserError(f"The marts are in use by a build. {UNCHANGED}") from None

    def current(self) -> Published | None:
        if not self._exists(_NOW):
            return None
        found = self.rows(
            _VERSIONS.format(_name(_NOW.tables, "versions"))
            + sql.SQL(" where slot = {}").format(
                sql.SQL("(select slot from {})").format(_name(_NOW.tables, "current_slot"))
            )
        )
        return Published(*found[0][1:]) if found else None

    def _kept(self) -> dict[Published, tuple[_Generation, int]]:
        """All versions that are there, the published one among them, and where."""
        found = {}
        for generation in (_BEFORE, _NOW):
            for slot, *version in self._slots(generation):
                if version[0] is not None:
                    found[Published(*version)] = (generation, slot)
        return found

    def _slots(self, generation: _Generation) -> list[tuple[Any, ...]]:
        """Each slot, and what `versions` says of it: nulls where it is free."""
        if not self._exists(generation):
            return []
        return self.rows(_VERSIONS.format(_name(generation.tables, "versions")) + sql.SQL(" order by slot"))

    def _exists(self, generation: _Generation) -> bool:
        return self.rows(f"select to_regclass('{generation.tables}.versions') is not null") == [(True,)]

    def _columns(self, schema: str, table: str) -> list[Column]:
        return self.rows(
            sql.SQL(
                "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = {}::regclass"
                " and attnum > 0 and not attisdropped and attname <> '_slot' order by attnum"
            ).format(sql.Literal(_name(schema, table).as_string(self._connection)))
        )

    def _published_columns(self) -> dict[str, list[Column]]:
        return {mart: self._columns(_NOW.tables, mart) for mart in self._marts(_NOW)}

    def _marts(self, generation: _Generation) -> list[str]:
        found = self.rows(
            f"select relname from pg_class where relnamespace = to_regnamespace('{generation.tables}')"
            " and relkind = 'p' order by 1"
        )
        return [name for (name,) in found]

    def _make(self, generation: _Generation, columns: Mapping[str, Sequence[Column]], slots: int) -> None:
        """Empty tables, and the views of them."""
        for schema in generation.schemas:
            self._run("create schema {}", _name(schema))
        versions, current = _name(generation.tables, "versions"), _name(generation.tables, "current_slot")
        self._run(
            "create table {} (slot smallint primary key, version bigint, invocation_id text, load_bound bigint,"
            " shop text, personal_data text, published_at timestamptz)",
            versions,
        )
        self._run("insert into {} (slot) select generate_series(0, {})", versions, sql.Literal(slots - 1))
        self._run("create table {} (slot smallint)", current)
        self._run("insert into {} values (null)", current)
        self._run(
            "create view {} as select version, invocation_id, published_at, load_bound, shop, personal_data from {}"
            " where slot = (select slot from {})",
            _name(generation.meta, "publish_info"),
            versions,
            current,
        )
        for mart, of_mart in columns.items():
            table = _name(generation.tables, mart)
            self._run(
                "create table {} (like {}, {} _slot smallint not null) partition by list (_slot)",
                table,
                _name(BUILD, mart),
                sql.SQL("").join(
                    sql.SQL("{} {}, ").format(_name(column), sql.SQL(kind))
                    for column, kind in of_mart
                    if column.startswith(_HIDDEN)
                ),
            )
            for slot in range(slots):
                partition = _name(generation.tables, _partition(mart, slot))
                self._run("create table {} partition of {} for values in ({})", partition, table, sql.Literal(slot))
            for indexed in self._indexes(mart):
                self._run("create index on {} ({})", table, _listed(map(_name, indexed)))
            hidden = [column for column, _ in of_mart if column.startswith(_HIDDEN)]
            plain = [column for column, _ in of_mart if not column.startswith(_HIDDEN)]
            shown = [
                sql.SQL("{} as {}").format(_name(_hidden(column)), _name(column))
                if _hidden(column) in hidden
                else _name(column)
                for column in plain
            ]
            for schema, selected in ((generation.views, shown), (generation.personal_views, map(_name, plain))):
                if schema == generation.views or hidden:
                    self._run(
                        "create view {} as select {} from {} where _slot = (select slot from {})",
                        _name(schema, mart),
                        _listed(selected),
                        table,
                        current,
                    )

    def _indexes(self, mart: str) -> list[list[str]]:
        """The columns of each index of a mart as it is built."""
        found = self.rows(
            sql.SQL(
                "select array_agg(attname::text order by position) from pg_index cross join unnest(indkey::smallint[])"
                " with ordinality as of_index (number, position) inner join pg_attribute on attrelid = indrelid and"
                " attnum = number where indrelid = {}::regclass and indpred is null and indexprs is null"
                " group by indexrelid order by indexrelid"
            ).format(sql.Literal(_name(BUILD, mart).as_string(self._connection)))
        )
        return [columns for (columns,) in found]

    def _fill(
        self,
        generation: _Generation,
        version: Published,
        columns: Mapping[str, Sequence[Column]],
        personal: Mapping[tuple[str, str], str],
        hidden: Disguise,
    ) -> None:
        """Write the built marts into a free slot, and show it."""
        slot = next(slot for slot, number, *_ in self._slots(generation) if number is None)
        hidden.install_in_postgres(self._cursor)
        for mart, of_mart in columns.items():
            plain = {_hidden(column): column for column, _ in of_mart}
            values = [
                sql.SQL(
                    hidden.postgres_sql(
                        _quoted(plain[column]), personal[mart.lower(), plain[column].lower()], column_type
                    )
                )
                if column.startswith(_HIDDEN)
                else _name(column)
                for column, column_type in of_mart
            ]
            self._run(
                "insert into {} ({}, _slot) select {}, {} from {}",
                _name(generation.tables, _partition(mart, slot)),
                _listed(_name(column) for column, _ in of_mart),
                _listed(values),
                sql.Literal(slot),
                _name(BUILD, mart),
            )
            # Of what nobody counted, queries of several marts would be planned as of few rows.
            self._run("analyze {}", _name(generation.tables, mart))
        self._run(
            "update {} set (version, invocation_id, load_bound, shop, personal_data, published_at) ="
            " ({}, now()) where slot = {}",
            _name(generation.tables, "versions"),
            _listed(sql.Literal(value) for value in _values(version)),
            sql.Literal(slot),
        )
        self._show(generation, slot)

    def _show(self, generation: _Generation, slot: int) -> None:
        self._run("update {} set slot = {}", _name(generation.tables, "current_slot"), sql.Literal(slot))

    def _exchange(self, taking: _Generation) -> None:
        """Have another generation take the names that readers use; the one that had them becomes the one before.

        The last thing in its transaction: until that ends, readers wait. Raises UserError when readers kept the old
        views in use all the time, or somebody's own views are made of them.
        """
        if self._exists(_NOW):
            self._refuse_views_of_others()
            self._have_for_ourselves(_NOW)
            self._rename(_NOW, _ASIDE)
            self._rename(taking, _NOW)
            self._rename(_ASIDE, _BEFORE)
            self._allow(_BEFORE, "revoke usage on schema {} from {}")
        else:
            self._rename(taking, _NOW)

    def _refuse_views_of_others(self) -> None:
        """They would go on to show the old version, and vanish with it."""
        views = [(_NOW.meta, "publish_info")]
        views += [(schema, mart) for schema in (_NOW.views, _NOW.personal_views) for mart in self._marts(_NOW)]
        found = self.rows(
            "select distinct user_namespace.nspname, users.relname from pg_depend"
            " inner join pg_rewrite on classid = 'pg_rewrite'::regclass and objid = pg_rewrite.oid"
            " inner join pg_class as users on ev_class = users.oid"
            " inner join pg_namespace as user_namespace on users.relnamespace = user_namespace.oid"
            " inner join pg_class as used on refclassid = 'pg_class'::regclass and refobjid = used.oid"
            " inner join pg_namespace as used_namespace on used.relnamespace = used_namespace.oid"
            f" where used_namespace.nspname in ('{_NOW.views}', '{_NOW.personal_views}', '{_NOW.meta}') order by 1, 2"
        )
        if others := [".".join(view) for view in found if view not in views]:
            raise UserError(
                f"The marts have other columns than before, and {', '.join(others)} would go on to show the old ones:"
                f" drop what you made of the published marts, publish, and make it again. {UNCHANGED}"
            )

    def _have_for_ourselves(self, generation: _Generation) -> None:
        """Wait until no query uses the views of a generation; new ones wait for us, for a moment at a time."""
        views = self.rows(
            "select table_schema, table_name from information_schema.views where table_schema in"
            f" ('{generation.views}', '{generation.personal_views}', '{generation.meta}') order by 1, 2"
        )
        # PostgreSQL's own cleaning gives way as well, but only to who waits for longer than we do for readers.
        self._run("set local lock_timeout = {}", sql.Literal(_WAIT_FOR_BUILD))
        self._run(
            "lock table {} in share update exclusive mode",
            _listed(_name(generation.tables, mart) for mart in self._marts(generation)),
        )
        # Well before PostgreSQL looks for deadlocks, so that it is always we who give way, and never a reader.
        [(deadlock,)] = self.rows("select setting::integer from pg_settings where name = 'deadlock_timeout'")
        self._run("set local lock_timeout = {}", sql.Literal(max(1, min(_WAIT_FOR_READERS, deadlock // 3))))
        for attempt in range(_ATTEMPTS):
            self._run("savepoint waiting")
            try:
                self._run("lock table {} in access exclusive mode", _listed(_name(*view) for view in views))
                return
            except errors.LockNotAvailable:
                self._run("rollback to savepoint waiting")
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_BETWEEN_SECONDS)
        raise UserError(
            "The marts have other columns than before, and their views cannot be exchanged while queries use them"
            " without pause, or a reader leaves a transaction open (see pg_locks). Publish again."
            f" {UNCHANGED}"
        )

    def _rename(self, generation: _Generation, to: _Generation) -> None:
        for old, new in zip(generation.schemas, to.schemas, strict=True):
            self._run("alter schema {} rename to {}", _name(old), _name(new))

    def _drop(self, generation: _Generation) -> None:
        for schema in generation.schemas:
            self._run("drop schema {} cascade", _name(schema))

    def _admit(self, generation: _Generation) -> None:
        """Let readers in; each time, for the roles may have been made since."""
        self._allow(generation, "grant usage on schema {} to {}")
        self._allow(generation, "grant select on all tables in schema {} to {}")

    def _allow(self, generation: _Generation, right: str) -> None:
        for role, schemas in (
            (REPORTER, (generation.views, generation.meta)),
            (PERSONAL_REPORTER, (generation.views, generation.personal_views, generation.meta)),
        ):
            if self.rows(f"select from pg_roles where rolname = '{role}'"):
                for schema in schemas:
                    self._run(right, _name(schema), _name(role))

    def _forget(self, versions: Iterable[Published]) -> None:
        """Remove the rows of kept versions; readers who see them already go on to."""
        kept = self._kept()
        for generation, slot in [kept[version] for version in versions if version in kept]:
            for mart in self._marts(generation):
                self._run("delete from {}", _name(generation.tables, _partition(mart, slot)))
            self._run(
                "update {} set (version, invocation_id, load_bound, shop, personal_data, published_at) ="
                " (null, null, null, null, null, null) where slot = {}",
                _name(generation.tables, "versions"),
                sql.Literal(slot),
            )

    def _clean(self) -> None:
        """Have the room of removed rows used again: the next version goes there.

        Without truncating, for which PostgreSQL would want the tables for itself.
        """
        free = [
            _name(generation.tables, _partition(mart, slot))
            for generation in (_NOW, _BEFORE)
            for slot, number, *_ in self._slots(generation)
            if number is None
            for mart in self._marts(generation)
        ]
        self._connection.commit()
        if free:
            self._connection.autocommit = True
            self._run("vacuum (truncate false) {}", _listed(free))

    def _newest_noted(self) -> int:
        """The highest number that BI has seen; of a version that is gone nothing else tells."""
        if self.rows("select to_regclass('ops.publishes') is null") == [(True,)]:
            return 0
        return self.rows("select coalesce(max(version), 0) from ops.publishes")[0][0]

    def _note(self, action: str, version: Published | None, reason: str | None = None) -> None:
        self._cursor.execute(
            "insert into ops.publishes (version, invocation_id, action, noted_at, load_bound, reason, run_id)"
            " values (%s, %s, %s, now(), %s, %s, %s)",
            [
                version.version if version else None,
                version.invocation_id if version else None,
                action,
                version.load_bound if version else None,
                reason,
                settings.run_id(),
            ],
        )

    def rows(self, query: str | sql.Composable) -> list[tuple[Any, ...]]:
        self._cursor.execute(query)
        return self._cursor.fetchall()

    def _run(self, statement: str, *names: sql.Composable) -> None:
        self._cursor.execute(sql.SQL(statement).format(*names))


_VERSIONS = sql.SQL("select slot, version, invocation_id, load_bound, shop, personal_data from {}")


def _values(version: Published) -> tuple[Any, ...]:
    return version.version, version.invocation_id, version.load_bound, version.shop, version.personal_data


def _partition(mart: str, slot: int) -> str:
    return _fitting(f"{mart}__{slot}")


def _hidden(column: str) -> str:
    """The column beside one with personal data: what most readers see of it."""
    return _fitting(_HIDDEN + column)


def _fitting(name: str) -> str:
    """A name that PostgreSQL does not cut: of two long ones that begin alike both would be called the same."""
    encoded = name.encode()
    if len(encoded) <= _NAME_BYTES:
        return name
    return encoded[: _NAME_BYTES - 32].decode(errors="ignore") + hashlib.sha256(encoded).hexdigest()[:32]


def _name(*parts: str) -> sql.Identifier:
    return sql.Identifier(*parts)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
