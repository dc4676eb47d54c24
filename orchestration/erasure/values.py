"""What tells who somebody is, in all the forms in which it may stand in a text or a file."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.erased import LEAST_DIGITS, is_long_enough, normalised_value

MARK = "[erased]"
NAME = "name"
IDENTIFYING = (NAME, "email", "phone")
"""The kinds of personal data (`meta.pii`) that are looked for by value. An age is that of thousands."""
# What the marts say of everybody without an address.
_OF_NOBODY = ("unknown", "unknown@example.com")
# Of more words at once the regular expressions of RE2 leave their fast path.
_AT_ONCE = 40
_MOST_LETTERS = 500
# Scripts that put no blanks between words, or put what belongs to a name right behind it: Thai and Lao, Burmese, Khmer,
# Hangul, and all from the radicals of Chinese to Yi.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff"
    "\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b2ff\U00020000-\U0003ffff"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# What may stand around a word, as groups of a regular expression. A text in JSON, or in an address, has its line's ends
# and blanks as letters and digits: `\nPeter`, `%20Peter`; so has a log its colours: `[35mPeter`.
_BEFORE = rf"(^|[^\pL\pM\pN]|[{_UNSPACED}]|\\[bfnrt]|\\u[0-9a-f]{{4}}|\\x[0-9a-f]{{2}}|%[0-9a-f]{{2}}|\[[0-9;]*m)"
_BEHIND = rf"([^\pL\pM\pN]|[{_UNSPACED}]|$)"
# RE2 takes no bytes that are no UTF-8 as text: they are letters of private use meanwhile.
_TO_PRIVATE = {0xDC00 + byte: 0x10FE00 + byte for byte in range(0x80, 0x100)}
_FROM_PRIVATE = {there: here for here, there in _TO_PRIVATE.items()}


@dataclass(frozen=True, order=True)
class Value:
    """A value of a person.

    `is_shared`: others have it too. `is_projects`: it is a word of the dbt project, which stands in its files whoever
    has that name. `is_within`: it is a part of another's value or of the project's words, and so stands in bytes that
    are not the person's.
    """

    text: str
    kind: str
    is_shared: bool = False
    is_projects: bool = False
    is_within: bool = False

    @property
    def is_word(self) -> bool:
        """Whether it is looked for in texts as a whole word: Peter is not in Petersen."""
        return self.kind == NAME and len(self.text) <= _MOST_LETTERS

    @property
    def bounds(self) -> tuple[bool, bool]:
        """Whether a word ends before its first letter, and behind its last one."""
        text = self.text.strip()
        first, last = (_is_of_word(each) and not _IS_UNSPACED.match(each) for each in (text[0], text[-1]))
        return first, last

    def forms(self) -> set[str]:
        """As it came, as staging cleans it, and both as JSON, SQL, addresses, HTML, CSV and Python write them."""
        plain = {self.text.strip(), self.text.strip().lower()}
        if self.kind == "phone":
            plain.add(digits(self.text))
        plain |= {unicodedata.normalize(form, text) for text in plain for form in ("NFC", "NFD")}
        written = set(plain)
        # Escapes are of the letter's own case.
        cases = {text.upper() for text in plain if not text.isascii()}
        for text in plain | cases:
            for is_ascii in (True, False):
                as_json = text
                # A text in a text: dbt's and Meltano's logs are JSON that quotes JSON, which may be a record's.
                for _ in range(3):
                    as_json = json.dumps(as_json, ensure_ascii=is_ascii)[1:-1]
                    written.add(as_json)
            as_bytes = "".join(chr(byte) if byte < 0x80 else f"\\x{byte:02x}" for byte in text.encode())
            written |= {as_bytes, text.replace("'", "\\'"), text.replace("'", "''"), text.replace('"', '""')}
            written |= {html.escape(text), html.escape(text).replace("&#x27;", "&#39;")}
            written |= {quote(text), quote(text, safe=""), quote_plus(text)}
        # Over bytes RE2 knows the cases of ASCII alone.
        written |= {
            spelled for form in written if not form.isascii() for spelled in (form.lower(), form.upper(), form.title())
        }
        written = {form.lower() if form.isascii() else form for form in written}
        return {form for form in written if is_long_enough(form, within_words=not self.is_word)}

    def stands_in(self, texts: Collection[str]) -> bool:
        """Whether it is in texts in lower case: a name as a whole word, others within words too."""
        return Search([self]).is_in_texts(texts) if self.is_word else self.is_part_of(texts)

    def is_part_of(self, texts: Iterable[str]) -> bool:
        """Whether it is in texts in lower case, within words too."""
        forms = self.forms()
        return any(form in text for text in texts for form in forms)


def digits(text: str) -> str:
    """The digits of a telephone number, as staging keeps them."""
    return re.sub("[^0-9]", "", text)


def is_of_somebody(text: str | None) -> bool:
    """Whether this is anybody's, and not what stands for nobody."""
    return text is not None and text.strip().lower() not in ("", *_OF_NOBODY)


def is_identifying(text: str | None, kind: str) -> bool:
    """Whether a value tells a person from others, and so is looked for."""
    if text is None or kind not in IDENTIFYING or text.strip().lower() in _OF_NOBODY:
        return False
    if kind == NAME:
        return is_long_enough(normalised_value(text))
    return is_long_enough(text.strip().lower(), within_words=True)


class Search:
    """Regular expressions that find any of some values: RE2's, which are pyarrow's and DuckDB's.

    They are to be matched without regard to case. All but `byte_patterns` have three groups: what stands before, the
    value, and what stands behind. In texts a name is a whole word, and may be short; what is no text has no words, and
    is searched for what is long enough to be nothing else.
    """

    def __init__(self, values: Iterable[Value]) -> None:
        self.values = frozenset(values)
        words: dict[tuple[bool, bool], set[str]] = defaultdict(set)
        anywhere: set[str] = set()
        for value in self.values:
            forms = value.forms()
            # What is cut into parts has no bounds.
            as_word = {form for form in forms if not form.isdecimal() and len(form) <= _MOST_LETTERS}
            if value.is_word and as_word:
                words[value.bounds] |= as_word
                forms -= as_word
            anywhere |= forms
        decimals = {form for form in anywhere if form.isdecimal()}
        self.numbers = sorted(form for form in decimals if len(form) >= LEAST_DIGITS)
        """Telephone numbers, as a column of numbers would have them but for zeros before them."""
        texts = anywhere - decimals
        as_words = [pattern for bounds, forms in sorted(words.items()) for pattern in _in_text(forms, *bounds)]
        self.text_patterns = [*as_words, *_in_text({*texts, *self.numbers})]
        """For texts, and for what is to be replaced in them: fewer digits are a number of something else."""
        self.own_patterns = [*as_words, *_in_text(texts)]
        self.own_patterns += [f"(^|[^[:alnum:]]){each}([^[:alnum:]]|$)" for each in _patterns(decimals)]
        """For columns that hold persons, where a short number stands alone."""
        self.loose_patterns = [*as_words, *_in_text(anywhere)]
        """For texts in which short numbers may stand within others."""
        of_bytes = {form for form in set().union(*words.values()) if is_long_enough(form, within_words=True)}
        self.byte_patterns = _patterns({*texts, *self.numbers, *of_bytes})
        """For any bytes, and for parts of words."""
        self.most_bytes = max((len(form.encode()) for form in (*of_bytes, *anywhere)), default=0)

    def is_in(self, content: bytes) -> bool:
        """Whether any of the values is in these bytes, whatever they are."""
        return _matches(pa.array([content], pa.large_binary()), self.byte_patterns)

    def is_in_text(self, content: bytes) -> bool:
        """Whether any of the values is in these bytes of a text."""
        return self.is_in_texts([_decoded(content)])

    def patterns_of(self, is_personal: bool, is_free_text: bool) -> list[str]:
        """The expressions for a column, by what it holds."""
        return self.own_patterns if is_personal and not is_free_text else self.text_patterns

    def is_in_texts(self, texts: Iterable[str | None], patterns: Sequence[str] | None = None) -> bool:
        """Whether any of the values is in texts of a column, by the expressions for it."""
        array = pa.array(["\n".join(text for text in texts if text)], pa.large_string())
        return _matches(array, self.text_patterns if patterns is None else patterns)

    def each_is_in(self, texts: Iterable[str | None], patterns: Sequence[str] | None = None) -> list[bool]:
        """For each of the texts, whether any of the values is in it; what costs is to make an expression: here once."""
        array = pa.array([text or "" for text in texts], pa.large_string())
        patterns = self.text_patterns if patterns is None else patterns
        found = (pc.match_substring_regex(array, pattern=f"(?i){pattern}") for pattern in patterns)
        return reduce(pc.or_, found, pa.repeat(False, len(array))).to_pylist()

    def of_texts(self, texts: Iterable[str | None]) -> set[Value]:
        """Which of the values are in texts."""
        texts = list(texts)
        return {value for value in self.values if Search([value]).is_in_texts(texts)}

    def of_bytes(self, texts: Iterable[str | None]) -> set[Value]:
        """Which of the values are in the bytes of texts, within words too."""
        texts = list(texts)
        return {value for value in self.values if (each := Search([value])).is_in_texts(texts, each.byte_patterns)}

    def without(self, values: Collection[Value]) -> Search:
        """A search for the others."""
        return Search(self.values - set(values)) if values else self

    def without_parts(self) -> Search:
        """A search for those that are no part of what is somebody else's: for bytes."""
        return self.without({value for value in self.values if value.is_within})

    def replaced(self, content: bytes) -> bytes:
        """A text with a mark for each of the values in it."""
        text = _decoded(content)
        array = pa.array([text], pa.large_string())
        for pattern in self.text_patterns:
            # Twice: of two words next to each other the second one begins with what stands behind the first.
            for _ in range(2):
                array = pc.replace_substring_regex(array, pattern=f"(?i){pattern}", replacement=REPLACEMENT)
        new = array[0].as_py()
        return content if new == text else new.translate(_FROM_PRIVATE).encode(errors="surrogateescape")


REPLACEMENT = rf"\1{MARK}\3"
"""What stands in the place of a match, with what was around it."""


def _matches(array: pa.Array, patterns: Iterable[str]) -> bool:
    return any(pc.match_substring_regex(array, pattern=f"(?i){pattern}")[0].as_py() for pattern in patterns)


def _is_of_word(letter: str) -> bool:
    """A letter or digit, or a mark on one: an accent of its own, a vowel's sign of Hindi."""
    return unicodedata.category(letter)[0] in "LMN"


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode(errors="surrogateescape").translate(_TO_PRIVATE)


def _in_text(forms: Collection[str], has_begin: bool = False, has_end: bool = False) -> list[str]:
    """Expressions of three groups, for words or, without bounds, for parts of words too."""
    return [f"{_BEFORE if has_begin else '()'}{each}{_BEHIND if has_end else '()'}" for each in _patterns(forms)]


def _patterns(forms: Collection[str]) -> list[str]:
    # A form that is very long is no expression that RE2 takes: each of its parts is.
    forms = {
        form[start : start + _MOST_LETTERS]
        for form in forms
        for start in range(0, len(form), _MOST_LETTERS)
        if start == 0 or is_long_enough(form[start:], within_words=True)
    }
    # The longest first, so that nothing of a longer one is left when it is replaced.
    ordered = [re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form))]
    return [f"({'|'.join(ordered[start : start + _AT_ONCE])})" for start in range(0, len(ordered), _AT_ONCE)]
