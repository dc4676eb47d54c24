"""The warehouse in a database of PostgreSQL: what it has of a person, and how it is made anew without.

Values are looked for here and not there: no statement has them, and so no log of the server. Tables are made anew
(raw, the models, what is published) or rewritten (`vacuum full`: the ledger and the history of runs), because what
PostgreSQL deletes stays in its files.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from ingestion import lifeline, postgres_service
from ingestion.erased import BLANKS, WHOLE_NUMBER, Persons
from ingestion.errors import UserError
from ingestion.lake import Lake
from ingestion.postgres_service import BUILD_LOCK, LOADER, PUBLISH_LOCK, RAW_LOCK, TRANSFORMER
from ingestion.settings import Settings
from ingestion.target.rebuild import rebuild
from orchestration import publish_postgres
from orchestration.erasure import administrator as administrator_of
from orchestration.erasure import files
from orchestration.erasure.declaration import FREE_TEXTS, Held, Looked, Wanted
from orchestration.erasure.values import Search

_HISTORY = ("builds", "model_runs", "test_results", "failing_rows", "publishes")
"""Tables of ops that dbt and publish write, which tell of the past."""
_OF_MODELS = ("intermediate", publish_postgres.BUILD, "published", "published_before")
"""The schemas in which dbt and publish keep tables."""
_LEDGER = ("loads", "quarantine", "streams", "syncs")
_FETCH_ROWS = 5_000
_WAIT = "60s"
_TABLES = """
    select nspname, relname, array_agg(attname order by attnum), array_agg(typcategory::text order by attnum),
        array_agg(typname::text order by attnum)
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
    join pg_type on pg_type.oid = atttypid
    where relkind in ('r', 'm') and nspname not like 'pg\\_%' and nspname <> 'information_schema'
    group by nspname, relname
    order by nspname, relname
"""


class PostgresWarehouse:
    """The database of one warehouse. What its methods cannot do they raise as UserError."""

    def __init__(self, home: Settings) -> None:
        self._home = home
        parameters = postgres_service.connection(TRANSFORMER)
        self.name = f"the database {parameters.get('dbname', '')} of {parameters.get('host', 'PostgreSQL')}"

    @contextlib.contextmanager
    def _connected(self, role: str) -> Iterator[Any]:
        """A cursor whose statements commit by themselves."""
        parameters = postgres_service.connection(role)
        try:
            with contextlib.closing(postgres_service.connect(parameters, "erase-user")) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute("set time zone 'UTC'; set client_min_messages = error")
                    cursor.execute(f"set idle_session_timeout = 0; set lock_timeout = '{_WAIT}'")
                    yield cursor
        except psycopg2.Error as error:
            raise UserError(f"{self.name}: {postgres_service.one_line(error, parameters)}") from None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep loads, builds and publishes out. Raises UserError while one is at work."""
        with self._connected(LOADER) as loader, self._connected(TRANSFORMER) as transformer:
            for cursor, lock in ((loader, RAW_LOCK), (transformer, BUILD_LOCK), (transformer, PUBLISH_LOCK)):
                try:
                    lifeline.once_free(
                        lambda cursor=cursor, lock=lock: _take(cursor, lock), lambda error: isinstance(error, _InUse)
                    )
                except _InUse:
                    raise UserError(
                        f"{self.name} is in use by another process (a run, a build or a publish); wait until it has"
                        " ended, then run again"
                    ) from None
            yield

    @property
    def is_built(self) -> bool:
        """Whether there are models to be made anew."""
        with self._connected(TRANSFORMER) as cursor:
            models = _rows(cursor, "select 1 from pg_tables where schemaname = %s limit 1", publish_postgres.BUILD)
            return bool(models) or _has_rows(cursor, "ops.builds")

    def versions(self) -> int:
        """How many versions there are that readers have or that can be brought back."""
        return publish_postgres.versions(self._home)

    def held_of(self, wanted: Wanted) -> Held:
        """What raw, the models and what is published have of the persons."""
        found = Held()
        with self._connected(TRANSFORMER) as cursor:
            _send(cursor, "wanted_persons", wanted.persons)
            for schema, name, columns, *_ in _rows(cursor, _TABLES):
                of_raw = [each for each in wanted.tables if (each.stream.schema, each.stream.name) == (schema, name)]
                if of_raw:
                    persons = wanted.listed.streams[of_raw[0].stream.id]
                    kinds = {each: wanted.kinds[each.lower()] for each in persons.personal(columns)}
                    place = f"raw: {of_raw[0].stream.id}"
                elif schema in _OF_MODELS and (personal := wanted.personal_of_model(columns)):
                    persons, kinds = personal
                    place = "published" if schema.startswith("published") else "models"
                else:
                    continue
                number = persons.number_column(columns)
                if number is None or not kinds:
                    continue
                texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(each)) for each in kinds)
                query = sql.SQL(
                    "select {0}, count(*) from {1} where {2} in (select value from pg_temp.wanted_persons) group by {3}"
                ).format(
                    texts,
                    sql.Identifier(schema, name),
                    _normalised(sql.Identifier(number), persons),
                    sql.SQL(", ").join(sql.SQL(str(place)) for place in range(1, len(kinds) + 1)),
                )
                found.add(place, list(kinds.values()), _rows(cursor, query))
        return found

    def count(self, wanted: Wanted) -> dict[str, int]:
        """By place: the rows of the history of runs and of the quarantine that have something of the persons."""
        counts = {}
        with self._connected(TRANSFORMER) as cursor:
            for schema, name, *columns in _rows(cursor, _TABLES):
                if schema == "ops" and name in (*_HISTORY, "quarantine"):
                    matches = _matches(cursor, schema, name, columns, wanted.search)
                    counts[f"ops.{name}"] = sum(count for column, (count, _) in matches.items() if column in FREE_TEXTS)
                if (schema, name) == ("ops", "failing_rows"):
                    rows = _rows(cursor, "select failing_row from ops.failing_rows")
                    counts["ops.failing_rows"] = sum(_are_failing_rows(rows, wanted))
        return counts

    def rebuild(self, lake: Lake, wanted: Wanted) -> None:
        """Raw and the ledger from the lake, and the history of runs without the values; all in new files."""
        with self._connected(TRANSFORMER) as cursor:
            for schema, name, columns, *_ in _rows(cursor, _TABLES):
                if schema == "ops" and name in _HISTORY:
                    _clean(cursor, name, [column for column in columns if column in FREE_TEXTS], wanted)
                    _rewrite(cursor, "ops", name)
        rebuild(self._home, memory_limit="1GB", threads=2, report=lambda line: None, lake=lake)
        with self._connected(LOADER) as cursor:
            for schema, name, *_ in _rows(cursor, _TABLES):
                if schema.startswith("raw_") or (schema == "ops" and name in _LEDGER):
                    _rewrite(cursor, schema, name)

    def drop_marts(self) -> None:
        """Nothing: a build in full makes every table anew."""

    def publish(self) -> None:
        """Publish the marts, and remove all other versions."""
        publish_postgres.publish_alone(self._home)

    def forget(self, administrator: Mapping[str, str] | None) -> list[str]:
        """Have the server forget what it keeps beside the tables; returns what it cannot, and what to do."""
        return administrator_of.forget(self._home, administrator)

    def search(self, wanted: Wanted) -> Looked:
        """Look for anything of the persons and any of the values."""
        looked = Looked(found=self.held_of(wanted).told)
        with self._connected(TRANSFORMER) as cursor:
            ours = self._ours(cursor)
            for schema, name, *columns in _rows(cursor, _TABLES):
                if not _is_readable(cursor, schema, name):
                    looked.elsewhere.append(
                        f"{schema}.{name}: not to be read by {TRANSFORMER}, and so not looked at: look there yourself"
                    )
                    continue
                own = {each for each in columns[0] if wanted.is_personal(schema, name, columns[0], each)}
                own = own if (schema, name) in ours else set()
                for column, (count, texts) in _matches(cursor, schema, name, columns, wanted.search, own).items():
                    looked.note(f"{schema}.{name}.{column}", count, wanted.search, texts, is_personal=column in own)
            equal = wanted.search.without(looked.equal)
            # What PostgreSQL notes of columns to plan queries: their most common values.
            for schema, name, column, *texts in _rows(
                cursor,
                "select schemaname, tablename, attname, most_common_vals::text, histogram_bounds::text from pg_stats",
            ):
                if equal.is_in_texts(texts):
                    looked.found.append(f"statistics of {schema}.{name}.{column}")
            of_bytes = equal.without_parts()
            looked.found += [str(path) for path in self._own_files(cursor) if files.contains(path, of_bytes)]
        return looked

    def _ours(self, cursor: Any) -> set[tuple[str, str]]:
        """The tables of the warehouse's own roles: schema and name."""
        [(user,)] = _rows(cursor, "select current_user::text")
        owners = [user, postgres_service.connection(LOADER).get("user", user)]
        return set(
            _rows(cursor, "select schemaname::text, tablename::text from pg_tables where tableowner = any(%s)", owners)
        )

    def _own_files(self, cursor: Any) -> Iterator[Path]:
        """The database's files and the log of changes, of a server of `scripts/services`: others are out of reach."""
        server = administrator_of.own_server(self._home)
        if server:
            [(number,)] = _rows(cursor, "select oid from pg_database where datname = current_database()")
            for folder in ("base", str(number)), ("pg_wal",):
                yield from sorted((server.folder / "data").joinpath(*folder).glob("*"))


class _InUse(Exception):
    """Another process has a lock."""


def _take(cursor: Any, lock: tuple[int, int]) -> None:
    if not _rows(cursor, "select pg_try_advisory_lock(%s, %s)", *lock)[0][0]:
        raise _InUse


def _rows(cursor: Any, statement: str | sql.Composable, *values: Any) -> list[tuple[Any, ...]]:
    cursor.execute(statement, values or None)
    return cursor.fetchall()


def _is_readable(cursor: Any, schema: str, name: str) -> bool:
    """Whether we may read a table; by its number, since a name in a schema that is shut cannot be asked for."""
    [(is_readable,)] = _rows(
        cursor,
        "select has_schema_privilege(pg_namespace.oid, 'usage') and has_table_privilege(pg_class.oid, 'select')"
        " from pg_class join pg_namespace on pg_namespace.oid = relnamespace where nspname = %s and relname = %s",
        schema,
        name,
    )
    return is_readable


def _has_rows(cursor: Any, table: str) -> bool:
    if _rows(cursor, "select to_regclass(%s) is null", table)[0][0]:
        return False
    return bool(_rows(cursor, f"select 1 from {table} limit 1"))


def _normalised(column: sql.Identifier, persons: Persons) -> sql.Composable:
    """A person's number as `Persons.normalised` gives it."""
    text = sql.SQL("btrim({}::text, {})").format(column, sql.Literal(BLANKS))
    if not persons.is_integer:
        return text
    # What is no whole number does not match, and stays as it is.
    return sql.SQL(r"regexp_replace(regexp_replace({}, {}, '\1\2'), '^-0$', '0')").format(
        text, sql.Literal(f"^{WHOLE_NUMBER}$")
    )


def _send(cursor: Any, table: str, values: Sequence[str]) -> None:
    """Have values in a temporary table; they go there as a COPY's data, which no log has."""
    cursor.execute(f"drop table if exists pg_temp.{table}")
    cursor.execute(f"create temporary table {table} (value text)")
    lines = "".join(value.replace("\\", "\\\\").replace("\t", "\\t") + "\n" for value in values)
    cursor.copy_expert(f"copy pg_temp.{table} from stdin", io.StringIO(lines))


def _matches(
    cursor: Any,
    schema: str,
    name: str,
    columns: Sequence[Sequence[str]],
    search: Search,
    own: Collection[str] = (),
) -> dict[str, tuple[int, set[str | None]]]:
    """How many rows have any of the values, by column, and their texts, and those that have one within words too.

    Columns that can have none are left out. `own` are those that hold persons.
    """
    names, categories, types = columns
    # Of the kinds of types: dates, intervals and booleans have no texts.
    texts = [each for each, category in zip(names, categories, strict=True) if category not in "NDTB"]
    numbers = [each for each, category in zip(names, categories, strict=True) if category == "N"]
    kinds = dict(zip(names, types, strict=True))
    found: dict[str, tuple[int, set[str | None]]] = {each: (0, set()) for each in [*texts, *numbers]}
    if texts:
        shown = [
            sql.SQL("encode({}, 'escape')" if kinds[each] == "bytea" else "{}::text").format(sql.Identifier(each))
            for each in texts
        ]
        query = sql.SQL("select {} from {}").format(sql.SQL(", ").join(shown), sql.Identifier(schema, name))
        with cursor.connection.cursor("searched", withhold=True) as reader:
            reader.itersize = _FETCH_ROWS
            reader.execute(query)
            while chunk := reader.fetchmany(_FETCH_ROWS):
                for column, values in zip(texts, zip(*chunk, strict=True), strict=True):
                    patterns = search.patterns_of(column in own, column in FREE_TEXTS)
                    with_parts = (*patterns, *search.byte_patterns)
                    if search.is_in_texts(values, with_parts):
                        similar = list(itertools.compress(values, search.each_is_in(values, with_parts)))
                        count = sum(search.each_is_in(similar, patterns))
                        found[column] = (found[column][0] + count, found[column][1] | set(similar))
    if numbers and search.numbers:
        _send(cursor, "wanted_numbers", [number.lstrip("0") for number in search.numbers])
        for column in numbers:
            query = sql.SQL(
                "select trunc(abs({0}::numeric))::text, count(*) from {1} where trunc(abs({0}::numeric))::text"
                " in (select value from pg_temp.wanted_numbers) group by 1"
            ).format(sql.Identifier(column), sql.Identifier(schema, name))
            rows = _rows(cursor, query)
            found[column] = (sum(count for _, count in rows), {number for number, _ in rows})
    return found


def _are_failing_rows(rows: Sequence[Sequence[str | None]], wanted: Wanted) -> list[bool]:
    """For the texts of each row, whether any has a value or names one of the persons."""
    has_value = wanted.search.each_is_in(map(_joined, rows), wanted.search.own_patterns)
    record = re.compile(wanted.record_pattern)
    return [
        has or any(record.search(text) for text in texts if text) for has, texts in zip(has_value, rows, strict=True)
    ]


def _joined(texts: Iterable[str | None]) -> str:
    return "\n".join(text for text in texts if text)


def _clean(cursor: Any, name: str, texts: Sequence[str], wanted: Wanted) -> None:
    """Take the values out of a table of the history of runs, whose builds count as of the same inputs no more."""
    if name == "builds":
        cursor.execute("update ops.builds set inputs_hash = null")
    if not texts:
        return
    columns = sql.SQL(", ").join(map(sql.Identifier, texts))
    rows = _rows(cursor, sql.SQL("select ctid::text, {} from {}").format(columns, sql.Identifier("ops", name)))
    all_values = [values for _, *values in rows]
    if name == "failing_rows":
        for [place, *_] in itertools.compress(rows, _are_failing_rows(all_values, wanted)):
            cursor.execute("delete from ops.failing_rows where ctid = %s::tid", [place])
        return
    for place, *values in itertools.compress(rows, wanted.search.each_is_in(map(_joined, all_values))):
        new = [value and wanted.search.replaced(value.encode()).decode() for value in values]
        changed = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(each)) for each in texts)
        statement = sql.SQL("update {} set {} where ctid = %s::tid").format(sql.Identifier("ops", name), changed)
        cursor.execute(statement, [*new, place])


def _rewrite(cursor: Any, schema: str, name: str) -> None:
    """Have nothing in the table's files and statistics that is not in its rows."""
    cursor.execute(sql.SQL("vacuum (full, analyze) {}").format(sql.Identifier(schema, name)))
