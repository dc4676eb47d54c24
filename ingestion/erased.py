"""The suppression list: whose personal data was erased, and must not come back with a later load (docs/erasure.md).

`WAREHOUSE_HOME/erased.json` has keyed hashes alone, of the persons' numbers and of what was personal of them. Whoever
reads rows asks here before they are hashed or compared, so that an unchanged row of an erased person is no change:

- a row belongs to an erased person by the person's number: what is personal in it becomes null, all else stays;
- text that is no row (a broken line, a message) is known by what it says: a value of an erased person, or, in a broken
  line of a stream that holds persons, the number itself.
"""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.errors import UserError
from ingestion.keys import install_hash, kept_key
from ingestion.lake.definition import NEXT, replace_file
from ingestion.lake.rowhash import identifier, literal
from ingestion.settings import Settings

#: What stands where something was that is not to be kept.
MARK = "[erased]"
_KEY = "the key of the suppression list"
#: What does not count around a person's number: spaces of any script, as staging trims them, and ends of lines.
BLANKS = " \t\n\v\f\r\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
#: A whole number as staging reads it (`to_whole_number`), 7.0 among them; sign and digits count. For any engine.
WHOLE_NUMBER = "(?:[+]|(-)|)0*([0-9]+)([.]0*)?"
_NUMBER = re.compile(WHOLE_NUMBER)
#: A value is looked for between the bounds of words. Shorter ones ("Al", "-") are too often something else, but where a
#: letter is beyond ASCII: many a name in Chinese has two.
LEAST_VALUE_LENGTH = 3
LEAST_LENGTH_BEYOND_ASCII = 2
#: In UTF-8, where it is looked for within words too or in bytes that are no text, such as compressed ones.
LEAST_BYTES = 5
#: Fewer digits alone are an order's number as well as a phone's, and are known in personal columns only.
LEAST_DIGITS = 9
#: A value is looked for as so many neighbouring words at most.
_MOST_WORDS = 8
_WORD = re.compile(r"""[^\s,;|:"'{}\[\]()<>=\\]+""")
_EDGES = " .,;:!?()[]{}<>\"'`\\"
_FIELD = re.compile(r"[,;|\t\n\r]+")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Persons:
    """What a stream says of persons: the column with a person's number, and those with personal data.

    Names count whatever their case. Where numbers are integers `007`, `+7` and `7.0` are 7, as staging reads them.
    """

    person: str
    columns: tuple[str, ...]
    is_integer: bool = False

    @cached_property
    def _lower(self) -> frozenset[str]:
        return frozenset(name.lower() for name in self.columns)

    def personal(self, names: Iterable[str]) -> list[str]:
        """Those of some columns that are personal."""
        return [name for name in names if name.lower() in self._lower]

    def number_column(self, names: Iterable[str]) -> str | None:
        """The one of some columns that has the person's number."""
        return next((name for name in names if name.lower() == self.person.lower()), None)

    def normalised(self, number: str) -> str:
        """A person's number as it is hashed."""
        number = number.strip(BLANKS)
        whole = _NUMBER.fullmatch(number) if self.is_integer else None
        if not whole:
            return number
        return "0" if whole[2] == "0" else (whole[1] or "") + whole[2]

    def is_number(self, number: object) -> bool:
        """Whether this can be somebody's number."""
        text = "" if number is None else str(number).strip(BLANKS)
        return bool(_NUMBER.fullmatch(text)) if self.is_integer else bool(text)


def normalised_value(value: str) -> str:
    """A personal value as it is hashed: blanks, case and what stands around it do not count."""
    return " ".join(value.split()).lower().strip(_EDGES)


def is_long_enough(value: str, *, within_words: bool = False) -> bool:
    """Whether a value tells a person from other words, and so is looked for; `within_words`: from parts of them too."""
    if within_words:
        return len(value.encode(errors="replace")) >= LEAST_BYTES
    return len(value) >= (LEAST_VALUE_LENGTH if value.isascii() else LEAST_LENGTH_BEYOND_ASCII)


def is_short_number(value: str) -> bool:
    """Whether a value is digits alone, and too few to be looked for where anything but a person may stand."""
    digits = value.replace(" ", "")
    return digits.isdecimal() and len(digits) < LEAST_DIGITS


@dataclass(frozen=True)
class Erased:
    """The list. `persons`, `values` and `pending` are hashes; `pending` are those whose erasure has not ended."""

    _key: bytes = field(repr=False)
    streams: Mapping[str, Persons] = field(default_factory=dict)
    """By stream id, as `crm-users`."""
    persons: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()

    # The list

    def person_hash(self, number: str) -> str:
        """The hash of a person's number, in the form that `Persons.normalised` gives."""
        return hmac.digest(self._key, f"person:{number}".encode(errors="replace"), "sha256").hex()

    def value_hash(self, value: str) -> str:
        """The hash of a personal value."""
        return self._hash_of(normalised_value(value))

    @property
    def _check(self) -> str:
        """What tells that a key is the list's own."""
        return hmac.digest(self._key, b"check:", "sha256").hex()

    def _hash_of(self, normalised: str) -> str:
        return hmac.digest(self._key, f"value:{normalised}".encode(errors="replace"), "sha256").hex()

    def with_streams(self, streams: Mapping[str, Persons]) -> Erased:
        """The list with these streams, instead of those that it had."""
        return replace(self, streams=dict(streams))

    def with_persons(self, numbers: Iterable[str]) -> Erased:
        """The list with these persons, whose erasure begins; numbers in the form that `Persons.normalised` gives."""
        hashes = frozenset(map(self.person_hash, numbers))
        return replace(self, persons=self.persons | hashes, pending=self.pending | hashes)

    def with_values(self, values: Iterable[str]) -> Erased:
        """The list with these values of erased persons (names, e-mails, phones), but for those that are too short."""
        normalised = filter(is_long_enough, map(normalised_value, values))
        return replace(self, values=self.values | frozenset(map(self._hash_of, normalised)))

    def has_value(self, value: str) -> bool:
        """Whether this, in a personal column, is a value of an erased person."""
        return self.value_hash(value) in self.values

    def without_pending(self) -> Erased:
        """The list when the erasures have ended."""
        return replace(self, pending=frozenset())

    def save(self, home: Settings) -> None:
        """Replace the list on the disk, at once, for this user's eyes alone. Raises OSError."""
        self._write(home, self._check)

    def _write(self, home: Settings, check: str) -> None:
        file = home.erased_file
        # Made before it is filled: nobody else may ever read it.
        descriptor = os.open(file.with_name(f"{file.name}{NEXT}"), os.O_WRONLY | os.O_CREAT, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        content = {
            "streams": {
                name: {"person": each.person, "columns": list(each.columns), "is_integer": each.is_integer}
                for name, each in sorted(self.streams.items())
            },
            "persons": sorted(self.persons),
            "values": sorted(self.values),
            "pending": sorted(self.pending),
            "check": check,
        }
        replace_file(file, json.dumps(content, indent=1) + "\n")

    # Rows

    def rows_of(self, stream: str) -> Persons | None:
        """What a stream says of persons; None where it holds none, and its rows are to be left as they are."""
        return self.streams.get(stream) if self.persons else None

    def known_by(self, stream: str, columns: Iterable[str]) -> tuple[str, list[str]] | None:
        """Of some columns of a stream the one with the person's number, and those that are personal; None for none.

        Raises UserError where there is something personal and no number: whose it is cannot be told.
        """
        persons = self.rows_of(stream)
        columns = tuple(columns)
        personal = persons.personal(columns) if persons else []
        if not persons or not personal:
            return None
        number = persons.number_column(columns)
        if number is None:
            raise UserError(
                f"stream {stream}: {', '.join(personal)} without {persons.person}, by which erased persons are known:"
                f" select {persons.person}; where the source has renamed it, name the new one as `person` in the list"
                " of sources, then run scripts/erase-user for somebody again (docs/erasure.md)"
            )
        return number, personal

    def has(self, persons: Persons, number: object) -> bool:
        """Whether this is the number of an erased person."""
        return number is not None and self.person_hash(persons.normalised(str(number))) in self.persons

    def install(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make what `is_erased_sql` needs known to a connection: no SQL has the key."""
        install_hash(con, self._key, "erasure_hash")
        # By their first two digits: DuckDB makes a join of a search in one constant list, which loses the rows' order.
        by_digits = [[each for each in sorted(self.persons) if each.startswith(f"{n:02x}")] for n in range(256)]
        con.execute(
            "create or replace temp macro is_erased_hash(hash) as"
            " list_contains(getvariable('erased_persons')[1 + cast('0x' || hash[:2] as integer)], hash)"
        )
        con.execute("set variable erased_persons = cast($1 as varchar[][])", [by_digits])

    def is_erased_sql(self, persons: Persons, column: str) -> str:
        """Whether a column of a relation has the number of an erased person, as SQL; never null."""
        text = f"trim(cast({identifier(column)} as varchar), {literal(BLANKS)})"
        if persons.is_integer:
            # What is no whole number does not match, and stays as it is.
            text = f"regexp_replace(regexp_replace({text}, '^{WHOLE_NUMBER}$', '\\1\\2'), '^-0$', '0')"
        return f"coalesce(is_erased_hash(erasure_hash('person:' || {text})), false)"

    def sql(self, stream: str, relation: str, columns: Sequence[str]) -> str:
        """A query for all of a relation, or a query in parentheses, without what is erased; `columns` are its own.

        The connection must know what `install` tells it. Raises UserError as `known_by` does.
        """
        known = self.known_by(stream, columns)
        if not known:
            return f"from {relation}"
        number, personal = known
        values = ", ".join(
            f"case when not _sdc_is_erased then {identifier(name)} end as {identifier(name)}" for name in personal
        )
        return (
            f"select * exclude (_sdc_is_erased) replace ({values})"
            f" from (select *, {self.is_erased_sql(self.streams[stream], number)} as _sdc_is_erased from {relation})"
        )

    def mask(self, stream: str, rows: pa.RecordBatch) -> pa.BooleanArray | None:
        """Which rows are of erased persons; None where none is. Raises UserError as `known_by` does."""
        known = self.known_by(stream, rows.schema.names)
        if not known:
            return None
        numbers = rows.column(known[0])
        erased = [each.as_py() for each in pc.unique(numbers) if self.has(self.streams[stream], each.as_py())]
        return pc.is_in(numbers, value_set=pa.array(erased, numbers.type)) if erased else None

    def arrow(self, stream: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows without what is erased. Raises UserError as `known_by` does."""
        is_erased = self.mask(stream, rows)
        if is_erased is None:
            return rows
        for name in self.streams[stream].personal(rows.schema.names):
            place = rows.schema.names.index(name)
            column = pc.if_else(is_erased, pa.scalar(None, rows.schema.types[place]), rows.column(place))
            rows = rows.set_column(place, rows.schema.field(place).with_nullable(True), column)
        return rows

    def record(self, stream: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """A record without what is erased: itself where nothing is. Raises UserError as `known_by` does."""
        known = self.known_by(stream, record)
        if not known or not self.has(self.streams[stream], record[known[0]]):
            return record
        return {**record, **dict.fromkeys(known[1])}

    def personal_values(self, stream: str, record: Mapping[str, Any]) -> dict[str, str]:
        """What is personal in a record of an erased person, by column in lower case; empty for others'."""
        persons = self.rows_of(stream)
        number = persons and persons.number_column(record)
        if not persons or not number or not self.has(persons, record[number]):
            return {}
        return {name.lower(): str(record[name]) for name in persons.personal(record) if record[name] is not None}

    def personal_values_of(self, stream: str, payload: str) -> dict[str, str]:
        """The same for a quarantined record."""
        fields = _fields(payload) if self.rows_of(stream) else None
        return self.personal_values(stream, {name: value for name, value, _, _ in fields}) if fields else {}

    # Text

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where values of erased persons stand in a text, in order; the longest first where several begin."""
        if not self.values:
            return
        words = [match.span() for match in _WORD.finditer(text)]
        at = 0
        while at < len(words):
            for last in range(min(at + _MOST_WORDS, len(words)) - 1, at - 1, -1):
                start, end = words[at][0], words[last][1]
                normalised = normalised_value(text[start:end])
                is_findable = is_long_enough(normalised) and not is_short_number(normalised)
                if is_findable and self._hash_of(normalised) in self.values:
                    yield start, end
                    at = last
                    break
            at += 1

    def tells(self, text: str) -> bool:
        """Whether a text has a value of an erased person, also where letters are escaped (`\\u00e9`, `\\xe9`)."""
        if next(self.spans(text), None):
            return True
        return "\\" in text and next(self.spans(_unescaped(text)), None) is not None

    def text(self, text: str) -> str:
        """A message without the values of erased persons."""
        parts, end = [], 0
        for start, stop in self.spans(text):
            parts += [text[end:start], MARK]
            end = stop
        return "".join([*parts, text[end:]])

    def payload(self, stream: str, payload: str) -> str:
        """What a quarantined record holds, without what is erased: itself where nothing is.

        A JSON object stays one, letter for letter where nothing is erased. Of a person who is not erased it is left
        alone, whoever else has the same name.
        """
        fields = _fields(payload)
        if fields is None:
            return MARK if self._is_line_erased(stream, payload) else payload
        by_name = {name: value for name, value, _, _ in fields}
        persons = self.rows_of(stream)
        number = persons and persons.number_column(by_name)
        is_line = "line" in by_name and set(by_name) <= {"line", "truncated_from_bytes", "sha256"}
        personal: set[str] = set()
        if persons and number and persons.is_number(by_name[number]):
            if not self.has(persons, by_name[number]):
                return payload
            personal = set(persons.personal(by_name))
        elif persons:
            personal = {name for name in persons.personal(by_name) if self.has_value(str(by_name[name]))}
        parts, end = [], 0
        is_line_erased = is_line and self._is_line_erased(stream, str(by_name["line"]))
        for name, value, start, stop in fields:
            if is_line:
                # Of the whole line, which is not to be guessed from it.
                new = {"line": json.dumps(MARK), "sha256": "null"}.get(name) if is_line_erased else None
            else:
                is_personal = name in personal or any(map(self.tells, _texts(value)))
                new = "null" if value is not None and is_personal else None
            if new is not None:
                parts += [payload[end:start], new]
                end = stop
        return "".join([*parts, payload[end:]])

    def _is_line_erased(self, stream: str, line: str) -> bool:
        """Whether a line that is no record may be of an erased person."""
        if self.tells(line):
            return True
        persons = self.rows_of(stream)
        if not persons:
            return False
        named = re.compile(rf"{re.escape(persons.person)}[\"']?\s*[:=]\s*[\"']?([^\"',;|{{}}\s]+)", re.IGNORECASE)
        candidates = [*named.findall(line), *(each.strip(" \"'") for each in _FIELD.split(line))]
        return any(self.has(persons, each) for each in candidates if each)


def load(home: Settings) -> Erased | None:
    """The suppression list; None where nobody was erased.

    Raises:
        UserError: the list is missing or damaged, or its key is missing or another: erased persons would come back.
    """
    file, key_file = home.erased_file, home.erasure_key_file
    if not file.exists():
        if key_file.exists() or _has_certificates(home):
            raise _lost(file, "the suppression list, is missing")
        return None
    try:
        fields = json.loads(file.read_text())
        streams = {
            name: Persons(each["person"], tuple(each["columns"]), each.get("is_integer", False))
            for name, each in fields["streams"].items()
        }
        persons, values, pending = (frozenset(fields[name]) for name in ("persons", "values", "pending"))
        check = fields["check"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _lost(file, "the suppression list, cannot be read") from error
    if not persons:
        if _has_certificates(home):
            raise _lost(file, "the suppression list, has nobody, whom certificates name")
        return None
    if not key_file.exists():
        raise _lost(key_file, f"{_KEY}, is missing")
    listed = Erased(kept_key(key_file, _KEY), streams, persons, values, pending)
    if check != listed._check:
        raise _lost(key_file, f"is not {_KEY}")
    return listed


def begin(home: Settings) -> Erased:
    """The suppression list, or one of nobody; its key is made where there is none.

    Raises UserError as `load` does.
    """
    if listed := load(home):
        return listed
    if not home.erased_file.exists():
        # Before the key, which without a list is a list that was lost.
        Erased(b"")._write(home, "")
    return Erased(kept_key(home.erasure_key_file, _KEY))


def _has_certificates(home: Settings) -> bool:
    """Whether somebody was erased here."""
    return any(home.erased_file.with_name("erasures").glob("[0-9]*.json"))


def _lost(file: Path, what: str) -> UserError:
    return UserError(
        f"{file}, {what}: bring it back from a backup; without it the persons whose personal data was erased would"
        " come back (docs/erasure.md)"
    )


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1] or match[2], 16)), text)


def _texts(value: Any) -> Iterator[str]:
    """All texts and numbers within a JSON value."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _fields(text: str) -> list[tuple[str, Any, int, int]] | None:
    """The fields of a JSON object: name, value, and where the value begins and ends; None for what is no object."""
    # Numbers as they are written: 12345678901234567.0 is a number of somebody, 1.2345678901234568e+16 is none.
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    found: list[tuple[str, Any, int, int]] = []

    def skip(at: int) -> int:
        match = _SPACE.match(text, at)
        return match.end() if match else at

    try:
        at = skip(0)
        if text[at : at + 1] != "{":
            return None
        at = skip(at + 1)
        while text[at : at + 1] != "}":
            name, at = decoder.raw_decode(text, at)
            at = skip(at)
            if not isinstance(name, str) or text[at : at + 1] != ":":
                return None
            start = skip(at + 1)
            value, end = decoder.raw_decode(text, start)
            found.append((name, value, start, end))
            at = skip(end)
            if text[at : at + 1] == ",":
                at = skip(at + 1)
            elif text[at : at + 1] != "}":
                return None
    except (ValueError, RecursionError):
        return None
    return found if not text[at + 1 :].strip() else None
