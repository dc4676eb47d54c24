"""PostgreSQL's types in lake and raw, and rows on their way there (docs/contracts.md, "Database streams").

Rows come in two ways: as Arrow, read by ADBC (`adbc_to_lake`), and as PostgreSQL's own text, from the log
(`text_to_arrow`). Both give the same values for the same row. Both need a session whose settings are SESSION_OPTIONS.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal, InvalidOperation
from functools import cache, cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.lake import identifier

# What makes PostgreSQL write a value in one way only; jit slows short queries.
SESSION_OPTIONS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "jit": "off",
}

TEXT = "VARCHAR"
_WAREHOUSE_TYPES = {
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "double precision": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp without time zone": "TIMESTAMP",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE",
    "bytea": "BLOB",
}
# Types whose text ADBC gives as it is; casting char(n) to text would cut its blanks.
_NATIVE_TEXT = {"text", "character varying", "character", "name"}
# Types whose cast to text is not what the log writes, with the function that is.
_OUTPUT_FUNCTIONS = {"inet": "inet_out", "xml": "xml_out", '"char"': "charout"}
_NUMBERS = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
# Element types whose arrays the server writes as `array_json` does, only faster.
_SERVER_ARRAYS = _NUMBERS | {"boolean", "text", "character varying", "character", "uuid", "json", "jsonb"}

_MODIFIER = re.compile(r"\(\d+(?:,-?\d+)?\)")
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_EXACT = Context(prec=200_000)

_UNIX_TO_POSTGRES_DAYS = 10_957
_UNIX_TO_POSTGRES_MICROSECONDS = _UNIX_TO_POSTGRES_DAYS * 86_400_000_000
# No date or time of PostgreSQL is before 4713 BC. ADBC adds the days between the two epochs without looking, so
# infinity and times after 294247-01-10 wrap around to values before this.
_FIRST_DAY = -2_500_000
_FIRST_MICROSECOND = _FIRST_DAY * 86_400_000_000


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `type` is what `format_type` says of it, without its domains: that of the type below them. `held` is set where the
    lake keeps another type than the column's own: that of the column before its type was changed, or a wider one.
    """

    name: str
    type: str
    oid: int = 0
    nullable: bool = True
    key: bool = False
    held: str | None = None

    @cached_property
    def base(self) -> str:
        """The type without its modifier: `numeric` of `numeric(12,2)`."""
        return _MODIFIER.sub("", self.type)

    @property
    def is_array(self) -> bool:
        """Whether it is an array; its lake value is JSON text."""
        return self.base.endswith("[]")

    @property
    def element(self) -> str:
        """The type of an array's elements, without modifier."""
        return self.base.removesuffix("[]")

    @cached_property
    def own_type(self) -> str:
        """DuckDB's name of the type that this column has by itself in lake and raw."""
        if match := _NUMERIC.fullmatch(self.type):
            precision, scale = int(match[1]), int(match[2])
            # A scale below 0 or above the precision is PostgreSQL's alone.
            return f"DECIMAL({precision},{scale})" if precision <= 38 and 0 <= scale <= precision else TEXT
        return _WAREHOUSE_TYPES.get(self.base, TEXT)

    @property
    def warehouse_type(self) -> str:
        """DuckDB's name of the type in lake and raw."""
        return self.held or self.own_type

    @property
    def arrow_type(self) -> pa.DataType:
        """The type in the lake."""
        return arrow_type(self.warehouse_type)

    def holding(self, warehouse_type: str) -> Column:
        """This column, kept as another type in the lake."""
        return replace(self, held=None if warehouse_type == self.own_type else warehouse_type)

    @property
    def _is_native(self) -> bool:
        """Whether ADBC reads it as it is; numbers of any size are read as text, which costs less."""
        return self.held is None and (self.base in _WAREHOUSE_TYPES or self.base in _NATIVE_TEXT)

    @property
    def _is_server_json(self) -> bool:
        return self.is_array and self.element in _SERVER_ARRAYS

    @property
    def select_sql(self) -> str:
        """The expression by which ADBC reads it, without alias."""
        name = identifier(self.name)
        if self._is_native:
            return name
        if self._is_server_json:
            return f"array_to_json({name})::text"
        return self.text_sql

    @property
    def text_sql(self) -> str:
        """The expression for the text that the log has for it, without alias."""
        name = identifier(self.name)
        if self.base in _NATIVE_TEXT:
            return name
        function = _OUTPUT_FUNCTIONS.get(self.base, "boolout" if self.base == "boolean" else None)
        return f"textin({function}({name}))" if function else f"{name}::text"

    def value_of(self, text: str) -> Any:
        """PostgreSQL's text of a value as one that compares in its order. Raises ValueError."""
        return text if self.warehouse_type == TEXT else _reader(self.warehouse_type)(text)

    @property
    def json_schema(self) -> dict[str, Any]:
        """The property of a SCHEMA message beside BATCH messages: the lake's type."""
        return {**_nullable(_json_type(self.warehouse_type), self.nullable), "x-warehouse-type": self.warehouse_type}

    def record_schema(self, *, json_as_object: bool, dates_as_string: bool) -> dict[str, Any]:
        """The property of a SCHEMA message beside RECORD messages; `record_value` gives the values."""
        if self.is_array:
            return _nullable({"type": ["array"]}, self.nullable)
        if self.base in {"json", "jsonb"} and json_as_object:
            kinds = ["object", "array", "string", "number", "integer", "boolean", "null"]
            return {"type": kinds, "additionalProperties": True}
        schema = _json_type(self.own_type)
        if dates_as_string:
            schema = {name: value for name, value in schema.items() if name != "format"}
        return _nullable(schema, self.nullable)


@cache
def _arrow_types() -> dict[str, pa.DataType]:
    return {
        "SMALLINT": pa.int16(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us"),
        "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
        "BLOB": pa.binary(),
        TEXT: pa.string(),
    }


def arrow_type(warehouse_type: str) -> pa.DataType:
    """Arrow's type for DuckDB's name of one that lake and raw know."""
    match = _DECIMAL.fullmatch(warehouse_type)
    return pa.decimal128(int(match[1]), int(match[2])) if match else _arrow_types()[warehouse_type]


def _json_type(warehouse_type: str) -> dict[str, Any]:
    if warehouse_type in {"SMALLINT", "INTEGER", "BIGINT"}:
        return {"type": ["integer"]}
    if warehouse_type in {"FLOAT", "DOUBLE"} or warehouse_type.startswith("DECIMAL"):
        return {"type": ["number"]}
    if warehouse_type == "BOOLEAN":
        return {"type": ["boolean"]}
    if warehouse_type == "DATE":
        return {"type": ["string"], "format": "date"}
    if warehouse_type.startswith("TIMESTAMP"):
        return {"type": ["string"], "format": "date-time"}
    return {"type": ["string"]}


def _nullable(schema: dict[str, Any], nullable: bool) -> dict[str, Any]:
    return {**schema, "type": [*schema["type"], "null"]} if nullable else schema


# Rows


@dataclass(frozen=True)
class Unfit:
    """A row that its columns' types in the lake cannot hold.

    `row` is its place among the rows given, `column` the first that does not fit, `payload` the row as a JSON object as
    a RECORD message would have it, with PostgreSQL's text for what does not fit.
    """

    row: int
    column: str
    reason: str
    payload: str


@dataclass(frozen=True)
class Converted:
    """Rows in the lake's types. `kept` are the places of `rows` among the rows given; None: all of them."""

    rows: pa.RecordBatch
    unfit: list[Unfit]
    kept: pa.Array | None = None


@dataclass(frozen=True)
class _Bad:
    reason: str
    text: str


def text_to_arrow(columns: Sequence[Column], values: Sequence[Sequence[str | None] | pa.Array]) -> Converted:
    """Rows as the log has them: the texts of each column, all of one length, null as None."""
    arrays, bad = [], []
    for column, texts in zip(columns, values, strict=True):
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        if column.is_array:
            array = _array_texts(array, column.element)
        array, wrong = _parse(array, column.warehouse_type)
        arrays.append(array)
        bad.append(wrong)
    return _converted(columns, arrays, bad)


def adbc_to_lake(columns: Sequence[Column], batch: pa.RecordBatch) -> Converted:
    """Rows as ADBC reads each column's `select_sql`, in the columns' order."""
    arrays, bad = [], []
    for column, array in zip(columns, batch.columns, strict=True):
        wrong: dict[int, _Bad] = {}
        if not column._is_native:
            if column.is_array and not column._is_server_json:
                array = _array_texts(array, column.element)
            array, wrong = _parse(array, column.warehouse_type)
        elif pa.types.is_temporal(array.type):
            array, wrong = _unwrapped(array, column.warehouse_type)
        arrays.append(array)
        bad.append(wrong)
    return _converted(columns, arrays, bad)


def _converted(columns: Sequence[Column], arrays: list[pa.Array], bad: list[dict[int, _Bad]]) -> Converted:
    schema = pa.schema([pa.field(column.name, column.arrow_type) for column in columns])
    rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
    wrong = sorted({row for each in bad for row in each})
    if not wrong:
        return Converted(rows, [])
    unfit = []
    for row in wrong:
        texts = {column.name: each[row].text for column, each in zip(columns, bad, strict=True) if row in each}
        first = next(iter(texts))
        reason = next(each[row].reason for each in bad if row in each)
        unfit.append(Unfit(row, first, reason, payload(columns, rows, row, texts)))
    gone = set(wrong)
    kept = pa.array([row for row in range(rows.num_rows) if row not in gone], pa.int64())
    return Converted(rows.take(kept), unfit, kept)


def payload(columns: Sequence[Column], rows: pa.RecordBatch, row: int, texts: Mapping[str, str]) -> str:
    """A row in the lake's types as the JSON object of a RECORD message; `texts`, by column, replaces values."""
    fields = []
    for column, array in zip(columns, rows.columns, strict=True):
        text = texts.get(column.name)
        token = _quoted(text) if text is not None else json_token(array[row])
        fields.append(f"{_quoted(column.name)}: {token}")
    return "{" + ", ".join(fields) + "}"


def json_token(value: pa.Scalar) -> str:
    """A value of the lake as JSON; numbers exactly, dates and times as PostgreSQL writes them."""
    kind = value.type
    if not value.is_valid:
        return "null"
    if pa.types.is_boolean(kind):
        return "true" if value.as_py() else "false"
    if pa.types.is_integer(kind):
        return str(value.as_py())
    if pa.types.is_decimal(kind):
        return format(value.as_py(), "f")
    if pa.types.is_floating(kind):
        text = pc.cast(value, pa.string()).as_py()
        return text if _JSON_NUMBER.fullmatch(text) else _quoted(_NOT_FINITE.get(text, text))
    if pa.types.is_date(kind):
        return _quoted(date_text(value.cast(pa.int32()).as_py()))
    if pa.types.is_timestamp(kind):
        return _quoted(timestamp_text(value.cast(pa.int64()).as_py(), zone="+00" if kind.tz else ""))
    if pa.types.is_binary(kind):
        return _quoted("\\x" + value.as_py().hex())
    return _quoted(value.as_py())


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# Texts to values


def _parse(texts: pa.Array, warehouse_type: str) -> tuple[pa.Array, dict[int, _Bad]]:
    """Texts of PostgreSQL as values of a type; where one is not of it, null and an entry by its place."""
    kind = arrow_type(warehouse_type)
    if warehouse_type == TEXT:
        return texts, {}
    try:
        return _cast(texts, kind), {}
    except pa.ArrowInvalid:
        pass  # Some are written in a way that only the reader below knows, or do not fit.
    read = _reader(warehouse_type)
    values: list[Any] = []
    bad: dict[int, _Bad] = {}
    for row, text in enumerate(texts.to_pylist()):
        value = None
        if text is not None:
            try:
                value = read(text)
            except (ValueError, InvalidOperation) as error:
                bad[row] = _Bad(str(error), text)
        values.append(value)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).view(kind), bad
    if pa.types.is_date(kind):
        return pa.array(values, pa.int32()).view(kind), bad
    return pa.array(values, kind), bad


def _cast(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts in their usual form as values; raises ArrowInvalid when one is not in it."""
    if pa.types.is_boolean(kind):
        is_true = pc.equal(texts, "t")
        if pc.all(pc.or_(is_true, pc.equal(texts, "f")), min_count=0).as_py():
            return is_true
        raise pa.ArrowInvalid("not a boolean")
    if pa.types.is_binary(kind):
        raise pa.ArrowInvalid("read one by one")
    return pc.cast(texts, kind)


def _reader(warehouse_type: str) -> Callable[[str], Any]:
    """Reads one text of PostgreSQL: days or microseconds for dates and times. It raises ValueError with the reason."""
    kind = arrow_type(warehouse_type)

    def refused(text: str) -> ValueError:
        shown = text if text.lower().lstrip("-") in {"nan", "infinity"} else "this value"
        return ValueError(f"{warehouse_type} cannot hold {shown}")

    def boolean(text: str) -> bool:
        if text not in {"t", "f", "true", "false"}:
            raise refused(text)
        return text.startswith("t")

    def integer(text: str) -> int:
        value = decimal_of(text)
        number = int(value) if value.adjusted() < 20 else None
        if number is None or value != number or not -(1 << kind.bit_width - 1) <= number < 1 << kind.bit_width - 1:
            raise refused(text)
        return number

    def decimal_of(text: str) -> Decimal:
        try:
            value = Decimal(text)
        except InvalidOperation as error:
            raise refused(text) from error
        if not value.is_finite():
            raise refused(text)
        return value

    def decimal(text: str) -> Decimal:
        value = decimal_of(text)
        number = value.normalize(_EXACT)
        exponent = number.as_tuple().exponent
        if not isinstance(exponent, int) or -exponent > kind.scale:
            raise refused(text)
        if number and number.adjusted() >= kind.precision - kind.scale:
            raise refused(text)
        return number.quantize(Decimal(1).scaleb(-kind.scale), context=_EXACT)

    def floating(text: str) -> float:
        try:
            return float(text)
        except ValueError as error:
            raise refused(text) from error

    def date(text: str) -> int:
        match = _DATE.fullmatch(text)
        if not match:
            raise refused(text)
        return _days(match)

    def timestamp(text: str) -> int:
        match = _TIMESTAMP.fullmatch(text)
        if not match or bool(match["zone"]) != (kind.tz is not None):
            raise refused(text)
        seconds = int(match["hour"]) * 3600 + int(match["minute"]) * 60 + int(match["second"])
        fraction = int((match["fraction"] or "").ljust(6, "0"))
        value = _days(match) * 86_400_000_000 + seconds * 1_000_000 + fraction
        if value >= (1 << 63) - 1:  # The greatest is DuckDB's infinity.
            raise refused(text)
        return value

    def binary(text: str) -> bytes:
        if not text.startswith("\\x"):
            raise refused(text)
        return bytes.fromhex(text[2:])

    if pa.types.is_boolean(kind):
        return boolean
    if pa.types.is_integer(kind):
        return integer
    if pa.types.is_decimal(kind):
        return decimal
    if pa.types.is_floating(kind):
        return floating
    if pa.types.is_date(kind):
        return date
    return timestamp if pa.types.is_timestamp(kind) else binary


# Dates and times beyond Python's years


_DATE = re.compile(r"(?P<year>\d{4,7})-(?P<month>\d\d)-(?P<day>\d\d)(?P<era> BC)?")
_TIMESTAMP = re.compile(
    r"(?P<year>\d{4,6})-(?P<month>\d\d)-(?P<day>\d\d) (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
    r"(?:\.(?P<fraction>\d{1,6}))?(?P<zone>\+00)?(?P<era> BC)?"
)
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097


def _days(match: re.Match[str]) -> int:
    """Days since 1970-01-01 of a date of the proleptic Gregorian calendar."""
    year = int(match["year"])
    if match["era"]:
        year = 1 - year  # 1 BC is the year 0.
    cycles, rest = divmod(year - 1, _CYCLE_YEARS)
    within = dt.date(rest + 1, int(match["month"]), int(match["day"]))
    return cycles * _CYCLE_DAYS + within.toordinal() - dt.date(1970, 1, 1).toordinal()


def _year_and_date(days: int) -> tuple[str, str]:
    """Days since 1970-01-01 as `YYYY-MM-DD` and its era."""
    cycles, rest = divmod(days + dt.date(1970, 1, 1).toordinal() - 1, _CYCLE_DAYS)
    within = dt.date.fromordinal(rest + 1)
    year = cycles * _CYCLE_YEARS + within.year
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04d}-{within.month:02d}-{within.day:02d}", era


def date_text(days: int) -> str:
    """Days since 1970-01-01 as PostgreSQL writes the date."""
    return "".join(_year_and_date(days))


def timestamp_text(microseconds: int, *, zone: str = "") -> str:
    """Microseconds since 1970-01-01 as PostgreSQL writes the time; `zone` is `+00` for timestamptz."""
    days, rest = divmod(microseconds, 86_400_000_000)
    date, era = _year_and_date(days)
    seconds, fraction = divmod(rest, 1_000_000)
    decimals = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{date} {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{decimals}{zone}{era}"


def _unwrapped(array: pa.Array, warehouse_type: str) -> tuple[pa.Array, dict[int, _Bad]]:
    """Dates or times as ADBC gives them; those that wrapped around do not fit, and are null."""
    is_date = pa.types.is_date(array.type)
    numbers = array.view(pa.int32() if is_date else pa.int64())
    kind = arrow_type(warehouse_type)
    bounds = pc.min_max(numbers).as_py()
    first, last = (_FIRST_DAY, (1 << 31) - 1) if is_date else (_FIRST_MICROSECOND, (1 << 63) - 1)
    if bounds["min"] is None or (bounds["min"] > first and bounds["max"] < last):
        return numbers.view(kind), {}
    fits = pc.and_(pc.greater(numbers, first), pc.less(numbers, last))
    bad = {}
    for row in pc.indices_nonzero(pc.invert(fits)).to_pylist():
        bits = 32 if is_date else 64
        offset = _UNIX_TO_POSTGRES_DAYS if is_date else _UNIX_TO_POSTGRES_MICROSECONDS
        stored = (numbers[row].as_py() - offset + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
        if stored in (-(1 << bits - 1), (1 << bits - 1) - 1):
            text = "infinity" if stored > 0 else "-infinity"
            bad[row] = _Bad(f"{warehouse_type} cannot hold {text}", text)
        else:
            unwrapped = stored + offset
            text = date_text(unwrapped) if is_date else timestamp_text(unwrapped, zone="+00" if kind.tz else "")
            bad[row] = _Bad(f"{warehouse_type} cannot hold this value", text)
    return pc.if_else(fits, numbers, None).view(kind), bad


# Arrays

_TOKENS: dict[str, re.Pattern[str]] = {
    delimiter: re.compile(rf'[{{}}{delimiter}]|"(?:[^"\\]|\\.)*"|[^{{}}"{delimiter}]+', re.DOTALL) for delimiter in ",;"
}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def array_json(text: str, element: str) -> str:
    """An array as PostgreSQL writes it as JSON: numbers, booleans and JSON as they are, all else strings."""
    if text.startswith("["):
        text = text[text.index("=") + 1 :]  # [2:3]={7,8}: where its numbering starts.
    delimiter = ";" if element == "box" else ","
    parts = []
    for token in _TOKENS[delimiter].findall(text):
        if token == "{":
            parts.append("[")
        elif token == "}":
            parts.append("]")
        elif token == delimiter:
            parts.append(",")
        elif token.startswith('"'):
            parts.append(_element_json(_ESCAPED.sub(r"\1", token[1:-1]), element))
        else:
            parts.append("null" if token.upper() == "NULL" else _element_json(token, element))
    return "".join(parts)


def _element_json(text: str, element: str) -> str:
    if element in _NUMBERS and _JSON_NUMBER.fullmatch(text):
        return text
    if element == "boolean":
        return "true" if text == "t" else "false"
    return text if element in {"json", "jsonb"} else _quoted(text)


def _array_texts(texts: pa.Array, element: str) -> pa.Array:
    return pa.array((None if text is None else array_json(text, element) for text in texts.to_pylist()), pa.string())


def select_list(columns: Iterable[Column]) -> str:
    """The select list by which ADBC reads columns."""
    return ", ".join(f"{column.select_sql} as {identifier(column.name)}" for column in columns)
