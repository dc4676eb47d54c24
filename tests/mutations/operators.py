"""The faults that are planted: each operator yields every place of a model's source where it applies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "=": "<>", "<>": "="}
_AGGREGATES = {"sum(": "max(", "max(": "min(", "min(": "max(", "count(distinct ": "count(", "row_number()": "rank()"}
_JOINS = {"left join": "inner join", "inner join": "left join"}
_SIGNS = {" + ": " - ", " - ": " + "}
_TESTS = {"is null": "is not null", "is not null": "is null", " not in (": " in (", " in (": " not in ("}
# What Jinja does is no SQL of the model; but the strings that it hands to macros are, these calls' aside.
_NO_SQL = re.compile(r"\b(config|ref|source|var|doc|staging|env_var|shop_setting|has_entity|unknown_id|id_type)\(")


@dataclass(frozen=True)
class Mutant:
    """One fault: `old`, at an offset of the source, replaced by `new`."""

    operator: str
    start: int
    old: str
    new: str

    def applied_to(self, source: str) -> str:
        """The source with the fault."""
        assert source[self.start : self.start + len(self.old)] == self.old
        return source[: self.start] + self.new + source[self.start + len(self.old) :]

    def context_in(self, source: str) -> str:
        """The line where the fault begins, without indentation."""
        return source[source.rfind("\n", 0, self.start) + 1 :].partition("\n")[0].strip()

    def line_of(self, source: str) -> int:
        """The line, from 1, where the fault begins."""
        return source.count("\n", 0, self.start) + 1


def mutants(source: str) -> list[Mutant]:
    """Every fault of every operator, in the order of the source."""
    visible = _visible(source)
    found = [mutant for operator in _OPERATORS for mutant in operator(visible, source)]
    return sorted(set(found), key=lambda mutant: (mutant.start, mutant.operator, mutant.new))


def _visible(source: str) -> str:
    """The source with all that is no SQL blanked: comments, SQL strings, and Jinja but for the SQL in its strings."""
    text = list(source)

    def blank(start: int, end: int) -> None:
        for place in range(start, end):
            if text[place] != "\n":
                text[place] = "\0"

    for match in re.finditer(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|--[^\n]*|'(?:[^']|'')*'", source, re.DOTALL):
        part = match.group()
        if not part.startswith("{{") or _NO_SQL.search(part.split("(")[0] + "("):
            blank(match.start(), match.end())
            continue
        end = match.start()
        for string in re.finditer(r"'[^']*'|\"[^\"]*\"", part):
            start = match.start() + string.start()
            blank(end, start + 1)
            end = match.start() + string.end() - 1
        blank(end, match.end())
    return "".join(text)


def _swaps(operator: str, pattern: str, replacements: dict[str, str]) -> Callable[[str, str], Iterator[Mutant]]:
    compiled = re.compile(pattern)

    def find(visible: str, source: str) -> Iterator[Mutant]:
        for match in compiled.finditer(visible):
            old = match.group(1)
            yield Mutant(operator, match.start(1), old, replacements[old])

    return find


def _any_of(words: dict[str, str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _numbers(visible: str, source: str) -> Iterator[Mutant]:
    """A whole number is one more; one that looks like a unit is ten times as large."""
    for match in re.finditer(r"(?<![\w.(])(\d+)(?![\w.])", visible):
        if re.search(r"(decimal|varchar)\([\d, ]*$", visible[: match.start()]):
            continue
        old = match.group(1)
        yield Mutant("boundary", match.start(1), old, str(int(old) + 1))
        if int(old) >= 10:
            yield Mutant("unit", match.start(1), old, str(int(old) * 10))


def _coalesces(visible: str, source: str) -> Iterator[Mutant]:
    """`coalesce(a, b)` becomes `a`."""
    for match in re.finditer(r"\bcoalesce\(", visible):
        parts, end = _arguments(source, match.end())
        if end:
            yield Mutant("coalesce", match.start(), source[match.start() : end], parts[0].strip())


def _arguments(source: str, start: int) -> tuple[list[str], int]:
    """The arguments of a call whose first begins at `start`, and where the call ends; 0 where it does not."""
    parts, depth, begin = [], 0, start
    for place in range(start, len(source)):
        character = source[place]
        if character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif character == ")":
            return [*parts, source[begin:place]], place + 1
        elif character == "," and not depth:
            parts.append(source[begin:place])
            begin = place + 1
    return [], 0


def _windows(visible: str, source: str) -> Iterator[Mutant]:
    """A window loses a column of its partition or of its order, or is ordered the other way."""
    for match in re.finditer(r"(partition by|order by) ([^()\n]+?)(?= order by| rows| range|\)|\n)", visible):
        columns = source[match.start(2) : match.end(2)]
        names = columns.split(", ")
        if len(names) == 1:
            if match.group(1) == "partition by":
                yield Mutant("window", match.start(), source[match.start() : match.end()], "")
        else:
            for number in range(len(names)):
                kept = ", ".join(names[:number] + names[number + 1 :])
                yield Mutant("window", match.start(2), columns, kept)
    for match in re.finditer(r" (desc|asc)\b", visible):
        yield Mutant("window", match.start(1), match.group(1), {"desc": "asc", "asc": "desc"}[match.group(1)])


def _predicates(visible: str, source: str) -> Iterator[Mutant]:
    """A condition is dropped: a line that begins with `and` or `or`, or what follows a lone `where`.

    Not what only saves work on an incremental run: without it a model reads more and says the same.
    """
    for match in re.finditer(r"^[ ]*((?:and|or) [^\n]+)$", visible, re.MULTILINE):
        line = source[match.start(1) : match.end(1)]
        if _is_whole(line):
            yield Mutant("predicate", match.start(1), line, "")
    for match in re.finditer(r"\bwhere ([^\n]+)$", visible, re.MULTILINE):
        line = source[match.start(1) : match.end(1)]
        if _is_whole(line):
            yield Mutant("predicate", match.start(1), line, "true")


def _is_whole(condition: str) -> bool:
    return condition.count("(") == condition.count(")") and not re.search(r"\{\{ is_(news|touched)\(", condition)


_OPERATORS: tuple[Callable[[str, str], Iterator[Mutant]], ...] = (
    _swaps("comparison", rf"(?<= )({_any_of(_COMPARISONS)})(?= )", _COMPARISONS),
    _swaps("comparison", f"({_any_of(_TESTS)})", _TESTS),
    _swaps("aggregate", rf"(?<![\w.])({_any_of(_AGGREGATES)})", _AGGREGATES),
    _swaps("join", f"({_any_of(_JOINS)})", _JOINS),
    _swaps("sign", f"({_any_of(_SIGNS)})", _SIGNS),
    _numbers,
    _coalesces,
    _windows,
    _predicates,
)
