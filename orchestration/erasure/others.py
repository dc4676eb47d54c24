"""Who else has what an erased person had: equal names are no fault, and nobody's own data is to be touched."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import duckdb

from ingestion.erased import Erased
from ingestion.lake import Lake, Stream, identifier, literal
from ingestion.lake.compaction import files_of, read
from orchestration.erasure.declaration import PersonTable
from orchestration.erasure.values import Search, Value, digits


class Others:
    """Values of persons who are not on the list, as far as they look like some values."""

    def __init__(
        self, lake: Lake, con: duckdb.DuckDBPyConnection, tables: Collection[PersonTable], listed: Erased, alike: Search
    ) -> None:
        self._texts: set[str] = set()
        self._numbers: set[str] = set()
        for table in tables:
            for text in _rows(lake, con, table, listed, alike):
                self._texts.add(text.lower())
                self._numbers.add(digits(text))
            for text in _records(lake, con, table.stream, listed):
                self._texts.add(text.lower())
                self._numbers.add(digits(text))

    def have(self, value: Value) -> bool:
        """Whether a value is another's too: a name as a word of one, others also within one."""
        if value.kind == "phone" and (number := digits(value.text)) and any(number in each for each in self._numbers):
            return True
        return value.stands_in(self._texts)

    def have_part(self, value: Value) -> bool:
        """Whether a value is a part of another's, within words too."""
        return value.is_part_of(self._texts)


def held(lake: Lake, con: duckdb.DuckDBPyConnection, tables: Collection[PersonTable], listed: Erased) -> set[str]:
    """The ids, as the list has them, of its persons of whom the lake has rows."""
    found = set()
    for table in tables:
        files, names = _described(lake, con, table.stream)
        persons = listed.streams[table.stream.id]
        if (number := persons.number_column(names)) is not None:
            rows = con.execute(
                f"select distinct cast({identifier(number)} as varchar) from {read(files)}"
                f" where {listed.is_erased_sql(persons, number)}"
            ).fetchall()
            found |= {persons.normalised(text) for (text,) in rows}
    return found


def _rows(
    lake: Lake, con: duckdb.DuckDBPyConnection, table: PersonTable, listed: Erased, alike: Search
) -> Iterator[str]:
    """Personal values in rows of others."""
    files, names = _described(lake, con, table.stream)
    persons = listed.streams[table.stream.id]
    number = persons.number_column(names)
    for name in persons.personal(names):
        text = f"cast({identifier(name)} as varchar)"
        # As staging cleans telephone numbers, so that equal ones are known that are written in another way.
        both = f"{text} || ' ' || regexp_replace({text}, '[^0-9]', '', 'g')"
        patterns = (*alike.loose_patterns, *alike.byte_patterns)
        conditions = [f"regexp_matches({both}, {literal(pattern)}, 'i')" for pattern in patterns]
        if conditions:
            is_others = f"not {listed.is_erased_sql(persons, number)}" if number else "true"
            rows = con.execute(
                f"select distinct {text} from {read(files)} where ({' or '.join(conditions)}) and {is_others}"
            ).fetchall()
            yield from (value for (value,) in rows)


def _records(lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream, listed: Erased) -> Iterator[str]:
    """Personal values in quarantined records that name another person."""
    persons = listed.streams[stream.id]
    files = [batch.quarantine_file for batch in lake.manifest(stream) if batch.quarantine_file]
    if not files:
        return
    for (payload,) in con.execute(f"select payload from {read(files)}").fetchall():
        try:
            record = json.loads(payload)
        except ValueError:
            continue
        number = persons.number_column(record) if isinstance(record, dict) else None
        if number and persons.is_number(record[number]) and not listed.has(persons, record[number]):
            yield from (str(record[name]) for name in persons.personal(record) if record[name] is not None)


def _described(lake: Lake, con: duckdb.DuckDBPyConnection, stream: Stream) -> tuple[list[Path], list[str]]:
    """The stream's files of rows, and their columns."""
    files = [file.path for file in files_of(lake.manifest(stream)) if any(batch.rows_loaded for batch in file.batches)]
    return files, [row[0] for row in con.execute(f"describe from {read(files)}").fetchall()] if files else []
