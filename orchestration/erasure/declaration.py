"""Where persons are: what the shop's list of sources says of personal data (dbt_project/models/staging/<shop>)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ingestion.erased import BLANKS, Erased, Persons
from ingestion.errors import UserError
from ingestion.lake import Stream
from ingestion.settings import PROJECT_ROOT
from orchestration.erasure.values import IDENTIFYING, Search, Value, is_of_somebody

_RAW = "raw_"
FREE_TEXTS = ("message", "reason", "failing_row", "payload")
"""The columns of ops that quote data; the others name models, streams, runs."""
# As every model calls it.
_OF_USERS = "user_id"


@dataclass(frozen=True)
class PersonTable:
    """A table of raw with personal data: the column with the person's id, and the kind of each personal column."""

    stream: Stream
    person: str
    columns: Mapping[str, str]


@dataclass
class Held:
    """What a warehouse has of some persons, found by their numbers."""

    rows: dict[str, int] = field(default_factory=dict)
    """By place: rows in which something is personal."""
    values: set[tuple[str, str]] = field(default_factory=set)
    """Texts that are personal, each with its kind."""

    def add(self, place: str, kinds: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Rows of one place: a text for each of the kinds, then how many rows have these texts."""
        self.rows.setdefault(place, 0)
        for *texts, count in rows:
            personal = {pair for pair in zip(texts, kinds, strict=True) if is_of_somebody(pair[0])}
            self.rows[place] += count if personal else 0
            self.values |= personal

    @property
    def told(self) -> list[str]:
        """The places that have anything, in words."""
        return [f"{place}: {count} rows of the persons" for place, count in self.rows.items() if count]


@dataclass
class Looked:
    """What a search for what should be gone has seen."""

    columns: int = 0
    found: list[str] = field(default_factory=list)
    """Where anything of the persons still is."""
    elsewhere: list[str] = field(default_factory=list)
    """Where a value stands that is not the person's there: in columns that hold no persons, in others' tables."""
    equal: set[Value] = field(default_factory=set)
    """Values that stand elsewhere, or within other words, and so in the bytes of the files too."""

    def add(self, other: Looked) -> None:
        """What another search has seen."""
        self.columns += other.columns
        self.found += other.found
        self.elsewhere += other.elsewhere
        self.equal |= other.equal

    def note(self, place: str, count: int, search: Search, texts: Iterable[str | None], *, is_personal: bool) -> None:
        """A column, and how many rows of it have any of the values.

        `texts` are those rows', and those in which a value stands within words; where it is personal and has rows, none
        are needed.
        """
        self.columns += 1
        texts = list(texts)
        equal = search.of_texts(texts) if count and not is_personal else set()
        # An e-mail address is nobody else's word: where one stands, whatever the column, the person is told.
        if count and (is_personal or any(value.kind == "email" for value in equal)):
            self.found.append(f"{place}: {count} rows")
            return
        if count:
            self.elsewhere.append(f"{place}: {count} rows")
        if texts:
            self.equal |= equal | search.of_bytes(texts)


@dataclass(frozen=True)
class Wanted:
    """Whom and what an erasure looks for."""

    tables: Collection[PersonTable]
    persons: Collection[str]
    """Their ids, in the form that the list hashes."""
    listed: Erased
    """A suppression list of them alone."""
    search: Search

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of personal data by the name of a column in lower case, of raw."""
        return {name.lower(): kind for table in self.tables for name, kind in table.columns.items()}

    def personal_of_model(self, columns: Iterable[str]) -> tuple[Persons, dict[str, str]] | None:
        """Whose a model's rows are, and the kinds of what tells who they are; None for one that has neither."""
        kinds = {name: kind for name, kind in self.kinds.items() if kind in IDENTIFYING}
        kinds |= {kind: kind for kind in IDENTIFYING}
        names = {name: kinds[name.lower()] for name in columns if name.lower() in kinds}
        is_integer = any(persons.is_integer for persons in self.listed.streams.values())
        persons = Persons(_OF_USERS, tuple(names), is_integer)
        return (persons, names) if names and persons.number_column(columns) else None

    def is_personal(self, schema: str, table: str, columns: Collection[str], column: str) -> bool:
        """Whether a column of the warehouse can have something of a person: all others are about something else."""
        if schema == "ops":
            return column in FREE_TEXTS
        for each in self.tables:
            if (each.stream.schema, each.stream.name) == (schema, table):
                return column.lower() in {name.lower() for name in each.columns}
        personal = self.personal_of_model(columns)
        return personal is not None and column in personal[1]

    @property
    def record_pattern(self) -> str:
        """A regular expression for records as JSON that name one of the persons."""
        names = "|".join(sorted({_OF_USERS, *(re.escape(table.person) for table in self.tables)}))
        ids = "|".join(map(self._spelled, self.persons))
        # A text's blanks may be written as escapes.
        blanks = rf"([{BLANKS}]|\\[tnrf]|\\u00(0[bBcC]|[aA]0))*"
        return f'"({names})"[ ]*:[ ]*"?{blanks}({ids}){blanks}"?[ ]*[,}}]'

    def _spelled(self, person: str) -> str:
        """All that is this person's id, as a regular expression."""
        if not all(persons.is_integer for persons in self.listed.streams.values()):
            return re.escape(person)
        number = person.removeprefix("-")
        sign = "-" if number != person else "[+-]?" if number == "0" else "[+]?"
        return f"{sign}0*{re.escape(number)}([.]0*)?"


def declared(shop: str, project: Path = PROJECT_ROOT / "dbt_project") -> list[PersonTable]:
    """The tables of raw in which this shop has persons; none for a shop without personal data.

    Raises UserError where the list of sources cannot be read, or a table has personal data and does not say whose.
    """
    found = []
    for file in sorted((project / "models" / "staging" / shop).glob("*.yml")):
        try:
            content = yaml.safe_load(file.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{file} cannot be read: mend it, then run again") from error
        for source, table in _tables(content):
            columns = {
                column["name"]: kind for column in table.get("columns") or [] if (kind := _meta(column).get("pii"))
            }
            if not columns:
                continue
            person = _meta(table).get("person")
            if not person:
                raise UserError(
                    f"{file}: {source}.{table['name']} has personal data ({', '.join(columns)}) and does not say whose:"
                    " name the column with the person's id, `config: {meta: {person: <column>}}`"
                )
            found.append(PersonTable(Stream(source.removeprefix(_RAW), table["name"]), person, columns))
    return found


def _tables(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for source in (content or {}).get("sources") or []:
        if source["name"].startswith(_RAW):
            for table in source.get("tables") or []:
                yield source["name"], table


def _meta(of: Mapping[str, Any]) -> Mapping[str, Any]:
    return (of.get("config") or {}).get("meta") or of.get("meta") or {}
