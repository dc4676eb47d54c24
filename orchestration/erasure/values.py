"""What tells who somebody is, in all the forms in which it may stand in a text or a file."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

MARK = "[erased]"
IDENTIFYING = ("name", "email", "phone")
"""The kinds of personal data (`meta.pii`) that are looked for by value. An age is that of thousands."""
# Less is a word, a number or `n/a`, which stands in many texts and tells nobody.
# In UTF-8: five letters, or two of Chinese. Fewer bytes are in many compressed files by chance.
_LEAST_BYTES = 5
# Digits alone stand in hashes and numbers too: so many, where it is not known what stands around them.
_LEAST_DIGITS = 9
# What the marts say of everybody without an address.
_OF_NOBODY = ("unknown", "unknown@example.com")
# Of more words at once the regular expressions of RE2 leave their fast path.
_AT_ONCE = 40
_MOST_LETTERS = 500


@dataclass(frozen=True, order=True)
class Value:
    """A value of a person.

    `is_shared`: others have it too, or it stands within a value of theirs; `is_projects`: it is a word of the dbt
    project, which stands in its files whoever has that name.
    """

    text: str
    kind: str
    is_shared: bool = False
    is_projects: bool = False

    def forms(self) -> set[str]:
        """As it came, as staging cleans it, and both as JSON, SQL, addresses and HTML write them."""
        plain = {self.text.strip(), self.text.strip().lower()}
        if self.kind == "phone":
            plain.add(digits(self.text))
        plain |= {unicodedata.normalize(form, text) for text in plain for form in ("NFC", "NFD")}
        written = set(plain)
        for text in plain:
            as_json = json.dumps(text)[1:-1]
            # A text in a text: dbt's and Meltano's logs are JSON that quotes JSON.
            written |= {as_json, as_json.replace("\\", "\\\\"), text.replace("'", "''"), html.escape(text)}
            written |= {quote(text), quote(text, safe="")}
        return {text for text in written if len(text.encode()) >= _LEAST_BYTES}


def digits(text: str) -> str:
    """The digits of a telephone number, as staging keeps them."""
    return re.sub("[^0-9]", "", text)


def is_of_somebody(text: str | None) -> bool:
    """Whether this is anybody's, and not what stands for nobody."""
    return text is not None and text.strip().lower() not in ("", *_OF_NOBODY)


def is_identifying(text: str | None, kind: str) -> bool:
    """Whether a value tells a person from others, and so is looked for."""
    if text is None or kind not in IDENTIFYING:
        return False
    stripped = text.strip().lower()
    return len(stripped.encode()) >= _LEAST_BYTES and stripped not in _OF_NOBODY


class Search:
    """Regular expressions that find any of some values: RE2's, which are pyarrow's and DuckDB's.

    They are to be matched without regard to case.
    """

    def __init__(self, values: Iterable[Value]) -> None:
        self.values = frozenset(values)
        forms = {form for value in self.values for form in value.forms()}
        # Over bytes RE2 knows the cases of ASCII alone.
        forms |= {
            spelled for form in forms if not form.isascii() for spelled in (form.lower(), form.upper(), form.title())
        }
        forms = {form.lower() if form.isascii() else form for form in forms}
        self.numbers = sorted(form for form in forms if form.isdecimal() and len(form) >= _LEAST_DIGITS)
        """Telephone numbers, as a column of numbers would have them but for zeros before them."""
        texts = {form for form in forms if not form.isdecimal()}
        self.patterns = _patterns({*texts, *self.numbers})
        """For any bytes and texts, and for what is to be replaced."""
        in_columns = [f"(^|[^[:alnum:]]){pattern}([^[:alnum:]]|$)" for pattern in _patterns(forms - texts)]
        self.word_patterns = [f"(^|[^[:alnum:]]){each}([^[:alnum:]]|$)" for each in _patterns(texts)]
        self.word_patterns += _patterns(self.numbers)
        """For what quotes records of all kinds, as messages do: whole words, and no short numbers."""
        self.loose_patterns = _patterns(forms)
        """For texts in which short numbers may stand within others."""
        self.column_patterns = self.patterns
        """For the texts of any column: fewer digits are a number of something else."""
        self.own_patterns = _patterns(texts) + in_columns
        """For columns that hold persons, where a short number stands alone."""
        self.most_bytes = max((len(form.encode()) for form in forms), default=0)

    def is_in(self, content: bytes) -> bool:
        """Whether any of the values is in these bytes."""
        array = pa.array([content], pa.large_binary())
        return any(pc.match_substring_regex(array, pattern=f"(?i){pattern}")[0].as_py() for pattern in self.patterns)

    def patterns_of(self, is_personal: bool, is_free_text: bool) -> list[str]:
        """The expressions for a column, by what it holds."""
        if is_free_text:
            return self.word_patterns
        return self.own_patterns if is_personal else self.column_patterns

    def is_in_texts(self, texts: Iterable[str | None], patterns: Sequence[str] | None = None) -> bool:
        """Whether any of the values is in texts of a column, by the expressions for it."""
        array = pa.array(["\n".join(text for text in texts if text)], pa.large_string())
        patterns = self.column_patterns if patterns is None else patterns
        return any(pc.match_substring_regex(array, pattern=f"(?i){pattern}")[0].as_py() for pattern in patterns)

    def of_texts(self, texts: Iterable[str | None]) -> set[Value]:
        """Which of the values are in texts."""
        texts = list(texts)
        return {value for value in self.values if Search([value]).is_in_texts(texts)}

    def without(self, values: Collection[Value]) -> Search:
        """A search for the others."""
        return Search(self.values - set(values)) if values else self

    def replaced(self, content: bytes) -> bytes:
        """The content with a mark for each of the values in it."""
        array = pa.array([content], pa.large_binary())
        for pattern in self.patterns:
            array = pc.replace_substring_regex(array, pattern=f"(?i){pattern}", replacement=MARK)
        return array[0].as_py()


def _patterns(forms: Collection[str]) -> list[str]:
    # A form that is very long is no expression that RE2 takes: each of its parts is.
    forms = {
        form[start : start + _MOST_LETTERS]
        for form in forms
        for start in range(0, len(form), _MOST_LETTERS)
        if start == 0 or len(form) - start >= _LEAST_BYTES
    }
    # The longest first, so that nothing of a longer one is left when it is replaced.
    ordered = [re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form))]
    return [f"({'|'.join(ordered[start : start + _AT_ONCE])})" for start in range(0, len(ordered), _AT_ONCE)]
