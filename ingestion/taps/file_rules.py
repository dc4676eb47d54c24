"""What a record must satisfy to enter raw: nothing obligatory is missing, and declared columns read as their type.

The checks are SQL over columns of text. They decide only whether a record is taken up; raw keeps the text as it came.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ingestion.lake import identifier, literal
from ingestion.taps.file_config import FileStreamConfig

_ISO = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})?)?"
_LOCAL_FORMATS = (
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%b %d, %Y %H:%M",
    "%b %d, %Y %H:%M:%S",
)


def timestamp_sql(text: str) -> str:
    """An SQL expression (timestamptz) for a text expression; null when it is in none of the contract's formats.

    A time without an offset counts as UTC. The session's time zone must be UTC, as `ingestion.lake.connect` sets it.
    """
    formats = ", ".join(literal(each) for each in _LOCAL_FORMATS)
    return (
        f"case when regexp_full_match({text}, '{_ISO}') then try_cast({text} as timestamptz)"
        rf" when regexp_full_match({text}, '\d{{10}}') then to_timestamp(try_cast({text} as bigint))"
        rf" when regexp_full_match({text}, '\d{{13}}') then to_timestamp(try_cast({text} as bigint) / 1000.0)"
        # All of these have a colon; strptime would also take the word infinity.
        f" when contains({text}, ':') then cast(try_strptime({text}, [{formats}]) as timestamptz) end"
    )


# What the warehouse's types hold: staging reads what passes here without rounding, overflow or another century.
_LIMITS = {
    "integer": "does not fit a 32-bit integer; declare it bigint",
    "bigint": "does not fit a 64-bit integer",
    "decimal": "is not exact as decimal(18,4): more than 4 decimals, or more than 14 digits before the point",
    "timestamp": "is not between 1970-01-01 and 2100-01-01",
}
# As written out, and as numbers of other systems come: 1e3, 2.5e-05. More digits would not be exact anyway.
_PLAIN = r"[+-]?(\d+\.?\d*|\.\d+)"
_PLAIN_EXACT = r"[+-]?(\d+\.?\d{0,4}0*|\.\d{1,4}0*)"
_EXPONENT = r"[+-]?\d{1,10}(\.\d{0,10})?[eE]([+-]?0?\d|\+?1[0-3])"
_NUMBER = _PLAIN + r"([eE][+-]?\d+)?"


BOOLEANS = ("true", "false", "t", "f", "yes", "no", "y", "n", "1", "0")


def _looks_like_sql(text: str, kind: str) -> str:
    """Whether a text is written as the type is, whatever its size."""
    if kind in {"integer", "bigint"}:
        return rf"regexp_full_match({text}, '[+-]?\d+')"
    if kind == "decimal":
        return f"regexp_full_match({text}, '{_NUMBER}')"
    if kind == "timestamp":
        return f"({timestamp_sql(text)}) is not null"
    return _is_type_sql(text, kind)


def _is_type_sql(text: str, kind: str) -> str:
    if kind in {"integer", "bigint"}:
        return f"({_looks_like_sql(text, kind)} and try_cast({text} as {kind}) is not null)"
    if kind == "decimal":
        money = f"try_cast({text} as decimal(18, 4))"
        return (
            f"({money} is not null and (regexp_full_match({text}, '{_PLAIN_EXACT}')"
            f" or (regexp_full_match({text}, '{_EXPONENT}') and try_cast({text} as decimal(38, 20)) = {money})))"
        )
    if kind == "boolean":
        return f"lower({text}) in ({', '.join(map(literal, BOOLEANS))})"
    if kind == "date":
        return rf"(regexp_full_match({text}, '\d{{4}}-\d{{2}}-\d{{2}}') and try_cast({text} as date) is not null)"
    return f"({timestamp_sql(text)}) between timestamptz '1970-01-01 00:00:00Z' and timestamptz '2100-01-01 00:00:00Z'"


# Texts that surely pass, as most do: one regular expression over all columns together tells them from the few that the
# exact checks have to look at. What it leaves out, such as 29 February, is only looked at again.
_DAY = r"(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])|\d{4}-(0[13-9]|1[0-2])-(29|30)|\d{4}-(0[13578]|1[02])-31)"
_YEAR = r"(19[78][1-9]|199\d|20[0-8]\d)"
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_SURE = {
    "integer": r"-?\d{1,9}",
    "bigint": r"-?\d{1,18}",
    "decimal": r"-?\d{1,14}(\.\d{1,4})?",
    "boolean": "|".join(BOOLEANS),
    "date": _DAY.replace(r"\d{4}", _YEAR),
    "timestamp": _DAY.replace(r"\d{4}", _YEAR)
    + rf"([ T]{_CLOCK}:[0-5]\d(\.\d{{1,6}})?(Z|[+-](0\d|1[01]):[0-5]\d)?)?"
    + rf"|(0[1-9]|1\d|2[0-8])/(0[1-9]|1[0-2])/{_YEAR} {_CLOCK}(:[0-5]\d)?"
    + rf"|{_YEAR}/(0[1-9]|1[0-2])/(0[1-9]|1\d|2[0-8]) {_CLOCK}(:[0-5]\d)?"
    + rf"|(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (0[1-9]|1\d|2[0-8]), {_YEAR} {_CLOCK}(:[0-5]\d)?"
    + r"|1\d{9}|1\d{12}",
}
_ANY = r"[^\x00]*"
# Beyond ASCII there are more blanks that trim takes away.
_NOT_BLANK = r" *[\x01-\x1f!-\x7f][^\x00]*"


@dataclass(frozen=True)
class _Rule:
    """A check of one column, in SQL: `breaks` is the condition, `reason` the text that says why."""

    column: str
    reason: str
    breaks: str


def kinds(config: FileStreamConfig, columns: Sequence[str]) -> dict[str, str]:
    """The declared types of a file's columns. A file without records may show no columns."""
    declared = dict(config.columns)
    if config.deleted_at:
        declared[config.deleted_at] = "timestamp"
    return {name: kind for name, kind in declared.items() if name in columns}


def obligatory(config: FileStreamConfig, columns: Sequence[str]) -> list[str]:
    """The columns of a file in which no value may be missing."""
    return [name for name in dict.fromkeys((*config.keys, *config.not_empty)) if name in columns]


def _rules(config: FileStreamConfig, columns: Sequence[str]) -> list[_Rule]:
    rules = []
    if config.format != "csv":
        # In CSV files they are found as bytes; here they may be written as an escape.
        for name in columns:
            rules.append(_Rule(name, literal(f"NUL character in {name}"), f"contains({identifier(name)}, chr(0))"))
    for name in obligatory(config, columns):
        reason = f"key {name} is missing" if name in config.keys else f"{name} is empty"
        rules.append(_Rule(name, literal(reason), f"coalesce(trim({identifier(name)}), '') = ''"))
    for name, kind in kinds(config, columns).items():
        # An empty field is a missing value, which only `keys` and `not_empty` forbid.
        text = f"trim({identifier(name)})"
        breaks = f"({text} <> '' and not coalesce({_is_type_sql(text, kind)}, false))"
        reason = literal(f"{name} is not {_article(kind)}")
        if kind in _LIMITS:
            beyond = literal(f"{name} {_LIMITS[kind]}")
            reason = f"case when {_looks_like_sql(text, kind)} then {beyond} else {reason} end"
        rules.append(_Rule(name, reason, breaks))
    return rules


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _suspect_sql(config: FileStreamConfig, columns: Sequence[str]) -> str:
    """A cheap condition that all records fulfil which break a rule."""
    types, needed = kinds(config, columns), obligatory(config, columns)
    sure = {}
    for name in columns:
        if name in types:
            sure[name] = f"({_SURE[types[name]]})" + ("" if name in needed else "?")
        elif name in needed:
            sure[name] = _NOT_BLANK
        elif config.format != "csv":
            sure[name] = _ANY
    if not sure:
        return "false"
    # Nothing that is sure holds a NUL, so the texts between them are the columns'.
    texts = ", chr(0), ".join(identifier(name) for name in sure)
    pattern = r"\x00".join(sure.values())
    return f"not regexp_full_match(concat({texts}), {literal(pattern)})"


def broken_sql(
    config: FileStreamConfig, columns: Sequence[str], records: str, unsure: Collection[str] | None = None
) -> str | None:
    """A query for the records of relation `records` that break a rule; None when there is nothing to check.

    Columns: reason, column_name, payload (the record as a JSON object), line_number. `unsure` are the columns whose
    rules are still to be checked, where not all.
    """
    looked_at = [name for name in columns if unsure is None or name in unsure]
    rules = _rules(config, looked_at)
    if not rules:
        return None
    choice = " ".join(
        f"when {rule.breaks} then {{'column_name': {literal(rule.column)}, 'reason': {rule.reason}}}" for rule in rules
    )
    fields = ", ".join(f"{literal(name)}: {identifier(name)}" for name in columns)
    return (
        "select fault.reason as reason, fault.column_name as column_name,"
        f" cast(to_json({{{fields}}}) as varchar) as payload, line_number"
        f" from (select *, _sdc_line_number as line_number, case {choice} end as fault"
        f" from {identifier(records)} where {_suspect_sql(config, looked_at)}) where fault is not null"
    )
