"""Read one file into DuckDB: its records as text, and what is no record into rejects.

A first pass in Python over the decompressed bytes finds out whether DuckDB can be trusted with the file. It is needed:
DuckDB 2.0 reads a truncated zstd file to its last whole block without a word, ignores a wrong gzip checksum, keeps NUL
bytes, takes blanks before a quote away, and reports broken lines with replaced or cut text. A regular file goes to
DuckDB directly, any other through a sift that copies whole records to a clean file and broken ones, byte for byte, to
the rejects.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import json
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import duckdb
import pyarrow as pa

from ingestion.errors import UserError
from ingestion.lake import first_line, identifier, literal, row_hash_sql
from ingestion.taps.file_bytes import Shape, Until, read_to_end, shape_of
from ingestion.taps.file_config import FileStreamConfig

RECORDS = "records"
REJECTS = "rejects"
LINE_NUMBER = "_sdc_line_number"
ROW_HASH = "_sdc_row_hash"

_CHUNK = 1 << 20
_OVERSIZE_PREFIX = 1000
_BUFFER_BYTES = 8 << 20
_FETCH_ROWS = 10_000
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = ",;\t|:"
# A value that DuckDB's JSON would not give back as written: trailing zeros, exponents, many digits, nested values.
_INEXACT_JSON = re.compile(
    rb":[ \t]*(?:[{\[]|-0|-?[0-9.]{15}|-?[0-9]+(?:\.[0-9]*)?[eE]|-?[0-9]+\.(?:0000|[0-9]*0[ \t]*[,}]))"
)
_JSON_NUMBER = re.compile(rb"(:[ \t]*)(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?=[ \t]*[,}])")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


class FileFault(UserError):
    """A file that cannot be taken up at all; nothing of it is loaded."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Oversized:
    """A physical line longer than the limit, of which only the start, the length and the hash are kept."""

    def __init__(self, start: bytes) -> None:
        self.prefix = start[:_OVERSIZE_PREFIX]
        self.length = 0
        self._digest = hashlib.sha256()
        self.add(start)

    def add(self, part: bytes) -> None:
        """Count more of the line; its end does not count."""
        part = part.rstrip(b"\r\n")
        self.length += len(part)
        self._digest.update(part)

    @property
    def sha256(self) -> str:
        """The hash of the whole line."""
        return self._digest.hexdigest()


def sha256_of(path: Path, given_up: threading.Event | None = None) -> str:
    """The content hash of a file as it lies there, compressed or not.

    Raises OSError, and CancelledError soon after `given_up` is set.
    """
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(Until(file, given_up or threading.Event()), "sha256").hexdigest()


def read_file(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    config: FileStreamConfig,
    work: Path,
    *,
    max_line_bytes: int,
    spelling: Mapping[str, str],
    deselected: frozenset[str] = frozenset(),
) -> list[str]:
    """Fill the temporary tables `records` and `rejects` of `con` from one file; return the data columns in their order.

    `spelling` maps names in lower case to those that the stream writes them with; the file's names follow it.
    `records` has the data columns as text, `_sdc_row_hash` and `_sdc_line_number`: the record's number from 1. Rejected
    lines are numbered with the others, blank lines are not. `rejects` has reason, column_name, payload and line_number.
    `work` takes intermediate files. Raises FileFault.
    """
    make_rejects(con)
    with _faults(path, config):
        if config.format == "parquet":
            return _read_parquet(con, path, config, spelling, deselected)
        with _Sift(path, config, work, max_line_bytes) as sift:
            if config.format == "jsonl":
                return _read_jsonl(con, sift, config, spelling, deselected)
            return _read_csv(con, sift, path, config, max_line_bytes, spelling, deselected)


def make_rejects(con: duckdb.DuckDBPyConnection) -> None:
    """Make the empty table `rejects`, for all cursors of `con`."""
    con.execute(
        f"create or replace table {REJECTS} (reason varchar, column_name varchar, payload varchar, line_number bigint)"
    )


@dataclass(frozen=True)
class FileView:
    """A query for a file's records, to be read once; `is_exact` tells in the end if it gives what the file holds."""

    columns: list[str]
    query: str
    is_exact: Future[bool]
    is_numbered: bool = False
    """Whether the query has the records' numbers too, and some records may be in `rejects`."""


@contextlib.contextmanager
def view_file(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    config: FileStreamConfig,
    work: Path,
    *,
    max_line_bytes: int,
    spelling: Mapping[str, str],
    deselected: frozenset[str] = frozenset(),
) -> Iterator[FileView | None]:
    """The records of a file as DuckDB finds them, in their order, while a thread finds out if they are exact.

    None where DuckDB does not read the file directly. Otherwise as `read_file`, which is to be asked when the view was
    not exact, or its reading failed.
    """
    make_rejects(con)
    given_up = threading.Event()
    with (
        _faults(path, config),
        ThreadPoolExecutor(1, "tap-files") as pool,
        _Sift(path, config, work, max_line_bytes) as sift,
    ):
        is_numbered = config.format == "jsonl"
        if config.format == "csv" and codecs.lookup(config.encoding).name == "utf-8":
            with _open(path, config.encoding) as file:
                header = _checked_columns(_header(_CsvRecords(file, config, max_line_bytes)), config, spelling)
            columns = [name for name in header if name not in deselected]
            # A short file has no parts that threads could begin in.
            in_parts = path.suffix in _COMPRESSIONS or path.stat().st_size > _BUFFER_BYTES
            query = _csv_sql(path, header, columns, config, max_line_bytes, in_parts=in_parts)
            exact = (Shape.LINES,) if in_parts else (Shape.LINES, Shape.MULTILINE)
            is_exact = pool.submit(lambda: _shape(path, config, max_line_bytes, given_up) in exact)
        elif config.format == "parquet":
            columns, query = _parquet_sql(con, path, config, spelling, deselected)
            is_exact = pool.submit(lambda: True)
        elif is_numbered:
            columns, query = _jsonl_sql(con, sift, config, spelling, deselected)
            is_exact = pool.submit(lambda: True)
        else:
            yield None
            return
        try:
            yield FileView(columns, query, is_exact, is_numbered)
        finally:
            given_up.set()


@contextlib.contextmanager
def _faults(path: Path, config: FileStreamConfig) -> Iterator[None]:
    """Say what is wrong with a file that cannot be read."""
    try:
        if path.stat().st_size == 0:
            raise FileFault("the file is empty (0 bytes): its export probably failed; export it again")
        yield
    except FileNotFoundError as error:
        raise FileFault("the file vanished while it was being read; put it back or leave it away") from error
    except (OSError, EOFError) as error:
        raise FileFault(f"truncated or damaged: {first_line(error)}; copy or export it again") from error
    except duckdb.Error as error:
        raise FileFault(f"not readable as {config.format}: {first_line(error)}") from error


def header_columns(
    path: Path, config: FileStreamConfig, *, max_line_bytes: int, spelling: Mapping[str, str], whole: bool
) -> list[str]:
    """The columns that a file shows, for a catalog: of JSONL files of the first lines only, unless `whole`.

    Raises FileFault for columns with which the file will not be taken up.
    """
    try:
        if config.format == "parquet":
            with duckdb.connect() as con:
                found = [row[0] for row in con.execute(_describe_parquet(path)).fetchall()]
            return _checked_columns(found, config, spelling)
        with _open(path, config.encoding) as file:
            if config.format == "csv":
                return _checked_columns(_header(_CsvRecords(file, config, max_line_bytes)), config, spelling)
            names: dict[str, None] = {}
            complete = True
            for number, line in enumerate(_lines(file, max_line_bytes)):
                if not whole and number >= 1000:
                    complete = False
                    break
                with contextlib.suppress(ValueError):  # Reading the file will quarantine the line.
                    fields = _json_fields(line.decode()) if isinstance(line, bytes) else {}
                    names.update((name, None) for name in fields if "\0" not in name and _encodable(name))
            return _checked_columns(list(names), config, spelling, complete=complete) if names else []
    except (OSError, EOFError, duckdb.Error) as error:
        raise FileFault(f"not readable: {first_line(error)}") from error


# Columns


def _checked_columns(
    found: Sequence[str], config: FileStreamConfig, spelling: Mapping[str, str], *, complete: bool = True
) -> list[str]:
    """A file's columns, spelled as the stream knows them: to SQL names that differ only by case are one.

    `complete` is whether these are all columns of the file. Raises FileFault.
    """
    lower = [name.lower() for name in found]
    if doubled := sorted({name for name in found if lower.count(name.lower()) > 1}):
        raise FileFault(f"column {', '.join(doubled)} occurs twice (upper and lower case count as equal); rename one")
    if unnamed := [number for number, name in enumerate(found, start=1) if not name.strip()]:
        raise FileFault(
            f"a column has no name: number {', '.join(map(str, unnamed))} of {len(found)}; name it, or take away the"
            f" delimiter that makes it; {_seen(found, config)}"
        )
    if reserved := [name for name in found if name.lower().startswith("_sdc_")]:
        raise FileFault(f"column {', '.join(reserved)}: names that begin with _sdc_ are the warehouse's own; rename it")
    if complete and (missing := [name for name in config.required_columns if name.lower() not in lower]):
        raise FileFault(f"column {', '.join(missing)} is missing; {_seen(found, config)}")
    return [spelling.get(name.lower(), name) for name in found]


def _header(records: _CsvRecords) -> list[str]:
    header = records.header()
    if header is None:
        raise FileFault("the file has no header line; export it again, or check its encoding and delimiter")
    return header


def _seen(header: Sequence[str], config: FileStreamConfig) -> str:
    """What a header looks like, for a message: with the delimiter it seems to have."""
    text = config.delimiter.join(header)
    message = f"found {', '.join(map(repr, header[:20]))}"
    if config.format != "csv":
        return message
    others = {
        mark: len(set(text.split(mark)) & set(config.required_columns)) or text.count(mark)
        for mark in _DELIMITERS
        if mark != config.delimiter and mark in text
    }
    if len(header) == 1 and others:
        likely = max(others, key=lambda mark: others[mark])
        message += f"; it looks delimited by {likely!r}, not {config.delimiter!r}: set the stream's delimiter"
    return message


# CSV


def _read_csv(
    con: duckdb.DuckDBPyConnection,
    sift: _Sift,
    path: Path,
    config: FileStreamConfig,
    max_line_bytes: int,
    spelling: Mapping[str, str],
    deselected: frozenset[str],
) -> list[str]:
    with _open(path, config.encoding) as file:
        header = _checked_columns(_header(_CsvRecords(file, config, max_line_bytes)), config, spelling)
    columns = [name for name in header if name not in deselected]
    shape = _shape(path, config, max_line_bytes)
    if shape is not Shape.IRREGULAR:
        try:
            query = _csv_sql(path, header, columns, config, max_line_bytes, in_parts=shape is Shape.LINES)
            _load_csv(con, query, columns, "row_number() over ()")
            return columns
        except duckdb.Error:
            # A record with too few fields somewhere, or too many; the sift finds out which, and keeps its text.
            pass
    clean, read = [LINE_NUMBER, *header], [*columns, LINE_NUMBER]
    query = _csv_sql(sift.csv(header), clean, read, config, max_line_bytes, in_parts=False)
    _load_csv(con, query, columns, f"cast({LINE_NUMBER} as bigint)")
    sift.load_rejects(con)
    return columns


def _load_csv(con: duckdb.DuckDBPyConnection, query: str, columns: Sequence[str], line_number: str) -> None:
    """Fill `records` from a query for `columns`, of which `line_number` is SQL of the records' numbers."""
    con.execute(
        f"create or replace temp table {RECORDS} as"
        f" select {_select(columns)} {line_number} as {LINE_NUMBER}, {row_hash_sql(columns)} as {ROW_HASH}"
        f" from ({query})"
    )


def _csv_sql(
    path: Path,
    header: Sequence[str],
    columns: Sequence[str],
    config: FileStreamConfig,
    max_line_bytes: int,
    *,
    in_parts: bool,
) -> str:
    """A query for columns of a CSV file, which has the columns `header`, with a header line or as the sift wrote it.

    `in_parts` is whether DuckDB's threads each read parts of it. They guess where a record begins in theirs; where
    quoted texts hold line ends, they may be wrong, and the query fails or gives other records than there are.
    """
    numbered = header[0] == LINE_NUMBER
    types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in header)
    # In a file of one column DuckDB makes a null of a blank line, which is no record.
    # The sift ends records with \n; left to itself, DuckDB may take a \r inside quotes for the line end.
    new_line = ", new_line = '\\n'" if numbered else ""
    parallel = "" if in_parts else ", parallel = false"
    where = f" where {identifier(header[0])} is not null" if len(header) == 1 else ""
    # Room for the record's number that the sift puts before it.
    line_size = max_line_bytes + 32
    # DuckDB takes sixteen lines, of the greatest length, for each of the buffers that it has in flight.
    buffer_size = max(_BUFFER_BYTES, 2 * line_size)
    # allow_quoted_nulls = false: an empty field is null, a quoted empty one is the empty text.
    return (
        f"select {', '.join(map(identifier, columns)) or 'null as nothing'}"
        f" from read_csv({literal(str(path))}, columns = {{{types}}}, auto_detect = false, header = {not numbered},"
        f" delim = {literal(config.delimiter)}, quote = '\"', escape = '\"', allow_quoted_nulls = false,"
        f" max_line_size = {line_size}, buffer_size = {buffer_size}, strict_mode = true{new_line}{parallel}){where}"
    )


def _select(columns: Sequence[str]) -> str:
    return "".join(f"{identifier(name)}, " for name in columns)


def _shape(path: Path, config: FileStreamConfig, max_line_bytes: int, given_up: threading.Event | None = None) -> Shape:
    """Read the whole file once: what does DuckDB make of it?

    Raises OSError for damaged compression, and CancelledError soon after `given_up` is set.
    """
    with _decompressed(path) as decompressed:
        file = Until(decompressed, given_up or threading.Event())
        if codecs.lookup(config.encoding).name == "utf-8":
            return shape_of(file, config.delimiter.encode(), max_line_bytes)
        read_to_end(file)
        return Shape.IRREGULAR


class _CsvRecords:
    """Splits the bytes of a CSV file into records, and says what is wrong with those that are none."""

    def __init__(self, file: _Readable, config: FileStreamConfig, max_line_bytes: int) -> None:
        self._lines = _lines(file, max_line_bytes)
        self._again: deque[bytes | _Oversized] = deque()
        self._delimiter = config.delimiter
        self._limit = max_line_bytes
        csv.field_size_limit(max(csv.field_size_limit(), max_line_bytes))

    def header(self) -> list[str] | None:
        """The fields of the first record, or None when there is none."""
        for line in self._next_lines():
            if isinstance(line, _Oversized):
                raise FileFault(f"the header line is longer than max_line_bytes ({self._limit}); is this a CSV file?")
            if line.strip(b"\r\n"):
                try:
                    fields, _ = self._parse(line)
                except (csv.Error, ValueError) as error:
                    raise FileFault(f"the header line is not CSV: {error}") from error
                if any("\0" in name or not _encodable(name) for name in fields):
                    raise FileFault("the header line holds NUL bytes or text in another encoding; is this a CSV file?")
                return fields
        return None

    def records(self, width: int) -> Iterator[tuple[bytes | _Oversized, str | None]]:
        """Each record after the header: its bytes without line end, and what is wrong with it or None."""
        mark = self._delimiter.encode()
        for line in self._next_lines():
            if isinstance(line, _Oversized):
                yield line, None
                continue
            text = line.rstrip(b"\r\n")
            if not text:
                continue
            if b'"' not in text:
                found = text.count(mark) + 1
            else:
                try:
                    fields, text = self._parse(line)
                except (csv.Error, ValueError) as error:
                    yield text, f"not CSV: {error}"
                    continue
                found = len(fields)
                if found == width and any(field.startswith(" ") and field.lstrip(" ")[:1] == '"' for field in fields):
                    # DuckDB would take those blanks away; quote the record anew. Empty texts become null.
                    text = mark.join(_quoted(field) for field in fields)
            if found != width:
                yield text, f"{found} fields instead of {width}"
            else:
                yield text, _text_fault(text)

    def _next_lines(self) -> Iterator[bytes | _Oversized]:
        while True:
            if self._again:
                yield self._again.popleft()
                continue
            line = next(self._lines, None)
            if line is None:
                return
            yield line

    def _parse(self, line: bytes) -> tuple[list[str], bytes]:
        """Parse the record that begins with `line`, reading on while a quote is open.

        Raises csv.Error or ValueError, and then only `line` is used up: one stray quote must not swallow what follows.
        """
        taken = [line]

        def pull() -> Iterator[str]:
            yield line.decode(errors="surrogateescape")
            size = len(line)
            for more in self._next_lines():
                size += more.length if isinstance(more, _Oversized) else len(more)
                if isinstance(more, _Oversized) or size > self._limit:
                    self._again.appendleft(more)
                    raise ValueError("a quote is opened and never closed")
                taken.append(more)
                yield more.decode(errors="surrogateescape")

        try:
            fields = next(csv.reader(pull(), delimiter=self._delimiter, strict=True))
        except (csv.Error, ValueError) as error:
            self._again.extendleft(reversed(taken[1:]))
            if "unexpected end of data" in str(error):
                raise ValueError("a quote is opened and never closed") from error
            raise
        return fields, b"".join(taken).rstrip(b"\r\n")


def _quoted(field: str) -> bytes:
    return b'"' + field.replace('"', '""').encode(errors="surrogateescape") + b'"' if field else b""


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_fault(text: bytes) -> str | None:
    if b"\0" in text:
        return f"NUL byte at byte {text.index(0) + 1}"
    if text.isascii():
        return None
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"byte 0x{text[error.start]:02x} at byte {error.start + 1} is not in the stream's encoding"
    return None


# JSONL


def _read_jsonl(
    con: duckdb.DuckDBPyConnection,
    sift: _Sift,
    config: FileStreamConfig,
    spelling: Mapping[str, str],
    deselected: frozenset[str],
) -> list[str]:
    columns, query = _jsonl_sql(con, sift, config, spelling, deselected)
    con.execute(
        f"create or replace temp table {RECORDS} as select *, {row_hash_sql(columns)} as {ROW_HASH} from ({query})"
    )
    return columns


def _jsonl_sql(
    con: duckdb.DuckDBPyConnection,
    sift: _Sift,
    config: FileStreamConfig,
    spelling: Mapping[str, str],
    deselected: frozenset[str],
) -> tuple[list[str], str]:
    """The columns of a JSONL file, and a query for them as text and the line's number; adds to `rejects`."""
    clean = sift.jsonl()
    sift.load_rejects(con)
    lines = (
        f"read_csv({literal(str(clean))}, columns = {{{LINE_NUMBER}: 'BIGINT', line: 'VARCHAR'}},"
        " auto_detect = false, header = false, delim = '\x01', quote = '', escape = '',"
        f" max_line_size = {2 * sift.max_line_bytes + 64})"
    )
    keys = "case when json_valid(line) and starts_with(line, '{') then json_keys(line) end"
    shapes = con.execute(f"select distinct {keys} from {lines} order by all").fetchall()
    sound = [
        names
        for (names,) in shapes
        if names is not None and len(set(names)) == len(names) and "\0" not in "".join(names)
    ]
    where = ""
    if len(sound) < len(shapes):
        faulty = con.execute(
            f"select {LINE_NUMBER}, fault"
            " from (select *, case when not json_valid(line) then 'not JSON'"
            " when not starts_with(line, '{') then 'not a JSON object'"
            " when len(json_keys(line)) <> len(list_distinct(json_keys(line))) then 'a key occurs twice in the object'"
            " when contains(array_to_string(json_keys(line), ''), chr(0)) then 'NUL character in a key' end as fault"
            f" from {lines})"
            f" where fault is not null order by {LINE_NUMBER}"
        )
        # The clean file may have their numbers as texts.
        sift.reject_jsonl(row for rows in iter(lambda: faulty.fetchmany(_FETCH_ROWS), []) for row in rows)
        sift.load_rejects(con)
        where = f" where {LINE_NUMBER} not in (select line_number from {REJECTS})"
    found = list(dict.fromkeys(name for names in sound for name in names))
    spelled = _checked_columns(found, config, spelling) if sound else found
    chosen = {column: name for name, column in zip(found, spelled, strict=True) if column not in deselected}
    columns = list(chosen)
    paths = ", ".join(literal("/" + name.replace("~", "~0").replace("/", "~1")) for name in chosen.values())
    values = "".join(f"v[{number}] as {identifier(name)}, " for number, name in enumerate(columns, start=1))
    extracted = f"json_extract_string(line, [{paths}])" if columns else "null"
    return columns, (f"select {values} {LINE_NUMBER} from (select {LINE_NUMBER}, {extracted} as v from {lines}{where})")


def _with_texts(line: bytes) -> bytes:
    r"""A JSON object without \x01, with its numbers as texts, and its nested values too.

    Raises ValueError when the line is no JSON object, or has a key twice; else what is wrong stays wrong.
    """
    parts = line.split(b'"')
    outside = b'"'.join(parts[::2])
    if b"\\" in line or not outside.startswith(b"{") or b"{" in outside[1:] or b"[" in outside:
        return json.dumps(_json_fields(line.decode()), ensure_ascii=False).encode()
    # Most objects have no escape and nothing nested: what is outside of quotes is every other part between them.
    parts[::2] = _JSON_NUMBER.sub(b"\\1\x01\\2\x01", outside).split(b'"')
    return b'"'.join(parts).replace(b"\x01", b'"')


def _json_fields(line: str) -> dict[str, str | None]:
    """The fields of a JSON object as text: strings unescaped, all else exactly as written, null as None.

    Raises ValueError when the line is no JSON object, or has a key twice.
    """
    decoder = json.JSONDecoder()
    fields: dict[str, str | None] = {}
    at = _skip(line, 0)
    if line[at : at + 1] != "{":
        raise ValueError("not a JSON object")
    at = _skip(line, at + 1)
    while line[at : at + 1] != "}":
        key, at = decoder.raw_decode(line, at)
        at = _skip(line, at)
        if not isinstance(key, str) or line[at : at + 1] != ":":
            raise ValueError("not JSON")
        if key in fields:
            raise ValueError("a key occurs twice in the object")
        start = _skip(line, at + 1)
        value, end = decoder.raw_decode(line, start)
        fields[key] = value if isinstance(value, str) or value is None else line[start:end]
        at = _skip(line, end)
        if line[at : at + 1] == ",":
            at = _skip(line, at + 1)
            if line[at : at + 1] == "}":
                raise ValueError("not JSON")
        elif line[at : at + 1] != "}":
            raise ValueError("not JSON")
    if line[at + 1 :].strip():
        raise ValueError("not JSON")
    return fields


def _skip(line: str, at: int) -> int:
    match = _JSON_SPACE.match(line, at)
    return match.end() if match else at


# Parquet


def _describe_parquet(path: Path) -> str:
    return f"describe select * from read_parquet({literal(str(path))})"


def _read_parquet(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    config: FileStreamConfig,
    spelling: Mapping[str, str],
    deselected: frozenset[str],
) -> list[str]:
    columns, source = _parquet_sql(con, path, config, spelling, deselected)
    con.execute(
        f"create or replace temp table {RECORDS} as select {_select(columns)} row_number() over () as {LINE_NUMBER},"
        f" {row_hash_sql(columns)} as {ROW_HASH} from ({source})"
    )
    return columns


def _parquet_sql(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    config: FileStreamConfig,
    spelling: Mapping[str, str],
    deselected: frozenset[str],
) -> tuple[list[str], str]:
    """The columns of a Parquet file that count, and a query for them as text."""
    types = {row[0]: row[1] for row in con.execute(_describe_parquet(path)).fetchall()}
    spelled = _checked_columns(list(types), config, spelling)
    chosen = {column: name for name, column in zip(types, spelled, strict=True) if column not in deselected}
    values = ", ".join(f"{_parquet_text(name, types[name])} as {identifier(column)}" for column, name in chosen.items())
    return list(chosen), f"select {values or 'null as nothing'} from read_parquet({literal(str(path))})"


def _parquet_text(name: str, kind: str) -> str:
    column = identifier(name)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    if kind.startswith("TIMESTAMP") and not kind.endswith(("[]", ")")):
        return f"strftime(cast({column} as timestamp), '%Y-%m-%dT%H:%M:%S.%f')"
    if kind.endswith(("[]", "]")) or kind.startswith(("STRUCT", "MAP", "UNION")):
        return f"cast(to_json({column}) as varchar)"
    return f"cast({column} as varchar)"


# Bytes


class _Sift:
    """Copies the whole records of a file into a clean one, and the others with their fault into rejects."""

    def __init__(self, path: Path, config: FileStreamConfig, work: Path, max_line_bytes: int) -> None:
        self._path = path
        self._config = config
        self._clean = work / "clean"
        self._rejects = work / "rejects.jsonl"
        self.max_line_bytes = max_line_bytes

    def __enter__(self) -> _Sift:
        return self

    def __exit__(self, *_: object) -> None:
        self._clean.unlink(missing_ok=True)
        self._rejects.unlink(missing_ok=True)

    def csv(self, header: Sequence[str]) -> Path:
        """Write the clean file: the record's number before each record, no header."""
        mark = self._config.delimiter.encode()
        number = 0
        with _open(self._path, self._config.encoding) as file, self._outputs() as (clean, rejects):
            source = _CsvRecords(file, self._config, self.max_line_bytes)
            source.header()
            for number, (record, fault) in enumerate(source.records(len(header)), start=1):
                if isinstance(record, _Oversized) or fault:
                    _reject(rejects, number, record, fault, self.max_line_bytes)
                else:
                    clean.write(b"%d%b%b\n" % (number, mark, record))
        return self._clean

    def jsonl(self) -> Path:
        r"""Write the clean file: the record's number, \x01 and the object.

        Where DuckDB would not give a value back as written, all values of the object are turned into text.
        """
        with _open(self._path, self._config.encoding) as file, self._outputs() as (clean, rejects):
            for number, line in self._json_lines(file):
                if isinstance(line, _Oversized):
                    _reject(rejects, number, line, None, self.max_line_bytes)
                    continue
                fault = _text_fault(line)
                # DuckDB would take a comma before the end.
                if not fault and (b"\x01" in line or line.removesuffix(b"}").rstrip(b" \t").endswith(b",")):
                    fault = "not JSON"
                record = line
                if not fault and _INEXACT_JSON.search(line):
                    try:
                        record = _with_texts(line)
                    except UnicodeEncodeError:
                        fault = "half of a surrogate pair is no text"
                    except (ValueError, RecursionError) as error:
                        known = {"not a JSON object", "a key occurs twice in the object"}
                        fault = str(error) if str(error) in known else "not JSON"
                if fault:
                    _reject(rejects, number, line, fault, self.max_line_bytes)
                else:
                    clean.write(b"%d\x01%b\n" % (number, record))
        return self._clean

    def reject_jsonl(self, faults: Iterable[tuple[int, str]]) -> None:
        """Begin the rejects anew, with lines of the file as they are: number and fault of each, by number."""
        with _open(self._path, self._config.encoding) as file, self._rejects.open("w", encoding="utf-8") as rejects:
            lines = self._json_lines(file)
            for faulty, fault in faults:
                line = next(line for number, line in lines if number == faulty)
                _reject(rejects, faulty, line, fault, self.max_line_bytes)

    def _json_lines(self, file: _Readable) -> Iterator[tuple[int, bytes | _Oversized]]:
        """The lines that are not blank, without the blanks around them, numbered from 1."""
        number = 0
        for line in _lines(file, self.max_line_bytes):
            if isinstance(line, bytes):
                line = line.strip(b" \t\r\n")
                if not line:
                    continue
            number += 1
            yield number, line

    def load_rejects(self, con: duckdb.DuckDBPyConnection) -> None:
        """Add what was rejected to the table `rejects`."""
        if self._rejects.stat().st_size:
            con.execute(
                f"insert into {REJECTS} select * from read_json({literal(str(self._rejects))},"
                " columns = {reason: 'VARCHAR', column_name: 'VARCHAR', payload: 'VARCHAR', line_number: 'BIGINT'},"
                " format = 'newline_delimited',"
                f" maximum_object_size = {16 * self.max_line_bytes + (1 << 20)})"
            )

    @contextlib.contextmanager
    def _outputs(self) -> Iterator[tuple[BinaryIO, io.TextIOBase]]:
        with self._clean.open("wb", buffering=_CHUNK) as clean, self._rejects.open("w", encoding="utf-8") as rejects:
            yield clean, rejects


def _reject(
    rejects: io.TextIOBase, number: int, record: bytes | _Oversized, fault: str | None, max_line_bytes: int
) -> None:
    if isinstance(record, _Oversized):
        fault = f"line of {record.length} bytes is longer than max_line_bytes ({max_line_bytes})"
        payload: dict[str, object] = {
            "line": record.prefix.decode(errors="backslashreplace"),
            "truncated_from_bytes": record.length,
            "sha256": record.sha256,
        }
    else:
        payload = {"line": record.decode(errors="backslashreplace")}
    # Compact, as DuckDB writes JSON: the same line has the same payload, whoever finds its fault.
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
    entry = {"reason": fault, "column_name": None, "payload": text, "line_number": number}
    rejects.write(json.dumps(entry) + "\n")


class _Recoded:
    """A byte stream in another encoding, read as UTF-8. What the encoding does not know stays invalid.

    Reading raises OSError where that cannot be: UTF-16 that is cut off, or without its mark.
    """

    def __init__(self, file: _Readable, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")

    def read(self, size: int, /) -> bytes:
        try:
            while chunk := self._file.read(size):
                if text := self._decoder.decode(chunk):
                    return text.encode(errors="surrogateescape")
            return self._decoder.decode(b"", final=True).encode(errors="surrogateescape")
        except UnicodeError as error:
            raise OSError(str(error)) from error


def _decompressed(path: Path) -> pa.NativeFile | io.FileIO:
    """The decompressed bytes of a file. Reading raises OSError where compression is damaged or cut off."""
    compression = _COMPRESSIONS.get(path.suffix)
    # Arrow's reader, because it checks frames and checksums to the end.
    return pa.input_stream(str(path), compression=compression) if compression else io.FileIO(path)


@contextlib.contextmanager
def _open(path: Path, encoding: str) -> Iterator[_Readable]:
    """The decompressed bytes of a file, as UTF-8. Reading raises OSError where compression is damaged or cut off."""
    with _decompressed(path) as file:
        yield file if codecs.lookup(encoding).name == "utf-8" else _Recoded(file, encoding)


def _lines(file: _Readable, limit: int) -> Iterator[bytes | _Oversized]:
    r"""The physical lines with their ends (\n, \r\n or \r), without a byte order mark; in bounded memory."""
    pending = b""
    oversized: _Oversized | None = None
    chunk = file.read(_CHUNK).removeprefix(codecs.BOM_UTF8)
    while chunk:
        if oversized:
            line = chunk.splitlines(keepends=True)[0]
            oversized.add(line)
            chunk = chunk[len(line) :]
            if line.endswith((b"\n", b"\r")):
                yield oversized
                oversized = None
        lines = (pending + chunk).splitlines(keepends=True)
        # A last \r may be the first half of \r\n.
        pending = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        for line in lines:
            yield line if len(line) <= limit + 2 else _Oversized(line)
        if len(pending) > limit + 2:
            oversized = _Oversized(pending)
            pending = b""
        chunk = file.read(_CHUNK)
    if oversized or pending:
        yield oversized or pending
