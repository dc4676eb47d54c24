"""The warehouse in DuckDB files: what it has of a person, and how it is made anew without."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from ingestion.erased import Persons
from ingestion.lake import Lake, Stream, identifier, literal
from ingestion.lake.compaction import read
from ingestion.settings import Settings
from ingestion.target.duckdb import open_existing
from ingestion.target.rebuild import REBUILT, rebuild
from orchestration import publish_duckdb
from orchestration.erasure.declaration import FREE_TEXTS, Held, Looked, PersonTable, Wanted
from orchestration.erasure.values import REPLACEMENT, Search
from orchestration.personal_data import PLAIN
from orchestration.publish_duckdb import opened, published_version, wal

HISTORY = ("syncs", "builds", "model_runs", "test_results", "failing_rows", "publishes")
"""Tables of ops that the lake does not have and dbt does not make anew (docs/contracts.md, "Run history")."""
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UBIGINT", "UINTEGER", "DECIMAL", "DOUBLE", "FLOAT")
_NEITHER = ("TIMESTAMP", "DATE", "TIME", "BOOLEAN", "INTERVAL")


class DuckDBWarehouse:
    """The files of one warehouse; what is named after a method below is done while `held` is."""

    def __init__(self, home: Settings) -> None:
        self._home = home
        self.name = str(home.warehouse_file)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep loads, builds, publishes, and who reads what they write out. Raises UserError while one is at work."""
        with contextlib.ExitStack() as held:
            for file in (self._home.warehouse_file, self._home.marts_file):
                if file.exists():
                    held.enter_context(open_existing(file, read_only=False))
            folder = self._home.published_file.parent
            if folder.is_dir():
                held.enter_context(publish_duckdb.alone(folder))
            yield

    @property
    def is_built(self) -> bool:
        """Whether there are models to be made anew; a warehouse that was rebuilt has forgotten its builds."""
        if self._home.marts_file.exists():
            return True
        if not self._home.warehouse_file.exists():
            return False
        with open_existing(self._home.warehouse_file, read_only=False) as connection:
            return _has_rows(connection, "ops", "builds")

    def versions(self) -> int:
        """How many versions there are that readers have or that can be brought back."""
        files = [self._home.published_file, *self._home.published_file.parent.glob("versions/*.duckdb")]
        return len({version.version for file in files if (version := published_version(file))})

    def held_of(self, wanted: Wanted) -> Held:
        """What raw, the models and what is published in plain have of the persons."""
        found = Held()
        for name, file in self._databases():
            version = published_version(file) if name.startswith("published") else None
            if version and version.personal_data != PLAIN:
                continue
            place = "published" if name.startswith("published") else "models"
            with _reading(file) as connection:
                wanted.listed.install(connection)
                for schema, table in _tables(connection):
                    relation = f"{identifier(schema)}.{identifier(table)}"
                    columns = [row[0] for row in connection.execute(f"describe from {relation}").fetchall()]
                    of_raw = next((each for each in wanted.tables if _is_of(each, schema, table)), None)
                    if of_raw:
                        persons = wanted.listed.streams[of_raw.stream.id]
                        kinds = {each: wanted.kinds[each.lower()] for each in persons.personal(columns)}
                        _add(connection, found, f"raw: {of_raw.stream.id}", relation, columns, persons, kinds, wanted)
                    elif schema != "ops" and (personal := wanted.personal_of_model(columns)):
                        _add(connection, found, place, relation, columns, *personal, wanted)
        return found

    def count(self, wanted: Wanted) -> dict[str, int]:
        """By place: the rows of the history of runs and of the quarantine that have something of the persons."""
        counts: dict[str, int] = {}
        if self._home.warehouse_file.exists():
            with open_existing(self._home.warehouse_file, read_only=False) as connection:
                for name in ("quarantine", *HISTORY):
                    if _has_rows(connection, "ops", name):
                        matches = _matches(connection, f"ops.{name}", wanted.search)
                        counts[f"ops.{name}"] = sum(
                            count for column, (count, *_) in matches.items() if column in FREE_TEXTS
                        )
                if "ops.failing_rows" in counts:
                    [(count,)] = connection.execute(
                        f"select count(*) from ops.failing_rows where {_is_failing_row(wanted)}"
                    ).fetchall()
                    counts["ops.failing_rows"] = count
        return counts

    def rebuild(self, lake: Lake, wanted: Wanted) -> None:
        """Raw and ops in a new file, from the lake; what tells of past runs is kept, without the values."""
        rebuild(
            self._home,
            memory_limit="1GB",
            threads=2,
            report=lambda line: None,
            lake=lake,
            keep=lambda connection: _keep_history(connection, wanted),
        )

    def drop_marts(self) -> None:
        """Remove the marts, which the next build makes in a new file."""
        for file in (self._home.marts_file, wal(self._home.marts_file)):
            file.unlink(missing_ok=True)

    def publish(self) -> None:
        """Publish the marts, and remove all other versions."""
        publish_duckdb.publish(self._home)
        folder = self._home.published_file.parent
        with publish_duckdb.alone(folder):
            for file in (*folder.glob("versions/*"), *folder.glob(".next*"), *folder.glob("previous.*")):
                file.unlink()

    def forget(self, administrator: Mapping[str, str] | None) -> list[str]:
        """Nothing: what is replaced is gone."""
        return []

    def search(self, wanted: Wanted) -> Looked:
        """Look for anything of the persons and any of the values."""
        looked = Looked(found=self.held_of(wanted).told)
        for name, file in self._databases():
            with _reading(file) as connection:
                connection.execute("set TimeZone = 'UTC'")
                for schema, table_name in _tables(connection):
                    _search(connection, looked, name, schema, table_name, wanted)
        return looked

    def _databases(self) -> Iterator[tuple[str, Path]]:
        home = self._home
        files = {"warehouse": home.warehouse_file, "marts": home.marts_file, "published": home.published_file}
        files |= {f"published {file.stem}": file for file in home.published_file.parent.glob("versions/*.duckdb")}
        yield from ((name, file) for name, file in files.items() if file.exists())


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    if file.parent.name in ("published", "versions"):
        with opened(file) as connection:
            yield connection
    else:
        with open_existing(file, read_only=False) as connection:
            yield connection


def _keep_history(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> None:
    """Copy the history of runs from the old file into the new one, with no byte of what is erased.

    Failing rows that have a value or a person's number go; in messages a mark takes a value's place. No build counts as
    one of the same inputs any more, so that `scripts/dbt --if-new` builds.
    """
    for name in HISTORY:
        described = connection.execute(
            "select database_name, column_name, data_type from duckdb_columns()"
            " where schema_name = 'ops' and table_name = $1 order by column_index",
            [name],
        ).fetchall()
        columns = [(column, kind) for database, column, kind in described if database != REBUILT]
        if not columns:
            continue
        is_kept = "true"
        if name == "failing_rows":
            is_kept = f"not coalesce({_is_failing_row(wanted)}, false)"
        values = ", ".join(_cleaned(column, kind, wanted.search) for column, kind in columns)
        query = f"select {values} from ops.{name} where {is_kept}"
        if len(columns) < len(described):
            connection.execute(f"insert into {REBUILT}.ops.{name} by name {query}")
        else:
            connection.execute(f"create table {REBUILT}.ops.{name} as {query}")


def _is_failing_row(wanted: Wanted) -> str:
    patterns = [*wanted.search.own_patterns, wanted.record_pattern]
    return " or ".join(f"regexp_matches(failing_row, {literal(pattern)}, 'i')" for pattern in patterns)


def _cleaned(column: str, kind: str, search: Search) -> str:
    value = identifier(column)
    if column == "inputs_hash":
        value = "cast(null as varchar)"
    elif kind == "VARCHAR" and column in FREE_TEXTS:
        # Twice, as Search.replaced says.
        for pattern in (each for each in search.text_patterns for _ in range(2)):
            value = f"regexp_replace({value}, {literal(pattern)}, {literal(REPLACEMENT)}, 'gi')"
    return f"{value} as {identifier(column)}"


def _is_of(table: PersonTable, schema: str, name: str) -> bool:
    return (table.stream.schema, table.stream.name) == (schema, name)


def _add(
    connection: duckdb.DuckDBPyConnection,
    found: Held,
    place: str,
    relation: str,
    columns: Sequence[str],
    persons: Persons,
    kinds: Mapping[str, str],
    wanted: Wanted,
) -> None:
    """Add what a table has of the persons; `kinds` has its personal columns."""
    number = persons.number_column(columns)
    if number is None or not kinds:
        return
    texts = ", ".join(f"cast({identifier(name)} as varchar)" for name in kinds)
    rows = connection.execute(
        f"select {texts}, count(*) from {relation} where {wanted.listed.is_erased_sql(persons, number)} group by all"
    ).fetchall()
    found.add(place, list(kinds.values()), rows)


def search_files(
    connection: duckdb.DuckDBPyConnection, stream: Stream, files: Sequence[Path], wanted: Wanted
) -> Looked:
    """The same for the Parquet files of a stream of the lake, rows or quarantined records."""
    looked = Looked()
    for of_records in (False, True):
        some = [file for file in files if file.name.endswith(".quarantine.parquet") == of_records]
        if some:
            table = ("ops", "quarantine") if of_records else (stream.schema, stream.name)
            _search(connection, looked, "lake", *table, wanted, relation=read(some), shown=stream.id)
    return looked


def _search(
    connection: duckdb.DuckDBPyConnection,
    looked: Looked,
    name: str,
    schema: str,
    table: str,
    wanted: Wanted,
    relation: str | None = None,
    shown: str | None = None,
) -> None:
    """Look at all columns of a table of the database `name`, or of a relation that has its columns."""
    relation = relation or f"{identifier(schema)}.{identifier(table)}"
    columns = [row[0] for row in connection.execute(f"describe from {relation}").fetchall()]
    own = {column for column in columns if wanted.is_personal(schema, table, columns, column)}
    for column, (count, with_parts, condition) in _matches(connection, relation, wanted.search, own).items():
        texts: list[str | None] = []
        if with_parts and not (count and column in own):
            texts = [
                text
                for (text,) in connection.execute(
                    f"select distinct cast({identifier(column)} as varchar) from {relation} where {condition}"
                ).fetchall()
            ]
        place = f"{name}: {shown or f'{schema}.{table}'}.{column}"
        looked.note(place, count, wanted.search, texts, is_personal=column in own)


def _matches(
    connection: duckdb.DuckDBPyConnection, relation: str, search: Search, own: Collection[str] = ()
) -> dict[str, tuple[int, int, str]]:
    """How many rows have any of the values, by column, and how many have one within words too, and which these are.

    Columns that can have none are left out. `own` are those that hold persons.
    """
    conditions = {}
    numbers = ", ".join(literal(number.lstrip("0")) for number in search.numbers)
    for column, kind, *_ in connection.execute(f"describe from {relation}").fetchall():
        value = identifier(column)
        if kind.startswith(_NEITHER) and not kind.endswith("]"):
            continue
        if kind.startswith(_NUMBERS) and not kind.endswith("]"):
            condition = f"regexp_extract(cast({value} as varchar), '^-?([0-9]*)', 1) in ({numbers})" if numbers else ""
            with_parts = condition
        else:
            text = f"cast({value} as varchar)"
            patterns = search.patterns_of(column in own, column in FREE_TEXTS)
            condition, with_parts = (
                " or ".join(f"regexp_matches({text}, {literal(pattern)}, 'i')" for pattern in each)
                for each in (patterns, (*patterns, *search.byte_patterns))
            )
        conditions[column] = (condition or "false", with_parts or "false")
    parts = _counts(connection, relation, {column: with_parts for column, (_, with_parts) in conditions.items()})
    # Only of what has the parts: seldom anything, and the pattern of whole words is the dearer one.
    exact = _counts(connection, relation, {column: conditions[column][0] for column, count in parts.items() if count})
    return {column: (exact.get(column, 0), parts[column], with_parts) for column, (_, with_parts) in conditions.items()}


def _counts(connection: duckdb.DuckDBPyConnection, relation: str, conditions: Mapping[str, str]) -> dict[str, int]:
    """How many rows fulfil each of the conditions, by its name."""
    if not conditions:
        return {}
    counted = ", ".join(f"count(*) filter ({condition})" for condition in conditions.values())
    [counts] = connection.execute(f"select {counted} from {relation}").fetchall()
    return dict(zip(conditions, counts, strict=True))


def _tables(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """Schema and name of the tables of the file; its views read nothing else."""
    return connection.execute(
        "select schema_name, table_name from duckdb_tables() where database_name = current_database() order by all"
    ).fetchall()


def _has_rows(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> bool:
    return (schema, table) in _tables(connection) and bool(
        connection.execute(f"select 1 from {schema}.{table} limit 1").fetchall()
    )
