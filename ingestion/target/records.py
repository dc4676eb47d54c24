"""Records of RECORD messages and foreign batch files: checked against their stream's schema, made ready for raw."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import jsonschema
from singer_sdk.exceptions import InvalidJSONSchema
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR

from ingestion.errors import UserError
from ingestion.lake import METADATA_COLUMNS, Stream, row_hash
from ingestion.lake.column_types import TEXT, TIME, WAREHOUSE_TYPE, as_text, column_type, needed_type, widened

# What may stand beside `type` in a property that is checked by its type alone, without the JSON schema validator.
_PLAIN_KEYWORDS = {"type", "format", "title", "description", "default", "examples", WAREHOUSE_TYPE}
_PYTHON_TYPES: dict[str, set[type]] = {
    "null": {type(None)},
    "string": {str},
    "boolean": {bool},
    "integer": {int},
    "number": {int, float, Decimal},
    "object": {dict},
    "array": {list},
}


class BadRecord(Exception):
    """A record that breaks its stream's schema."""

    def __init__(self, reason: str, column: str | None, *, missing_key: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = column
        self.missing_key = missing_key


@dataclass(frozen=True)
class Limits:
    """What an engine cannot hold, though a record may have it; records that do are bad ones.

    `name_bytes` is the longest name of a column in UTF-8; None: any. `nul` is whether text may have NUL characters.
    `names` are those that no column can have.
    """

    engine: str = "DuckDB"
    nul: bool = True
    name_bytes: int | None = None
    names: frozenset[str] = frozenset()

    def name_fault(self, name: str) -> str | None:
        """Why no column can have this name."""
        if not name:
            return "a field has no name"
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            return "a field's name has half a surrogate pair, which is not Unicode"
        if not self.nul and "\0" in name:
            return f"a field's name has a NUL character, which {self.engine} cannot hold"
        if self.name_bytes is not None and len(name.encode(errors="replace")) > self.name_bytes:
            return f"column {name} has a name of more than {self.name_bytes} bytes, which {self.engine} cannot hold"
        if name in self.names:
            return f"column {name} has a name that {self.engine} needs for itself"
        return None


@dataclass(frozen=True)
class Row:
    """A record that passed: values as text that casts to the column's type; the hash of its content, if it has one."""

    values: dict[str, str | None]
    key: tuple[str, ...]
    operation: str
    deleted_at: str | None
    extracted_at: str | None
    version: int | None
    hash: str | None


class RecordSchema:
    """A stream's SCHEMA message beside the columns that raw has already.

    `types` holds the type of each column as the next batch must have it; it widens as values need it.
    """

    def __init__(
        self,
        stream: Stream,
        schema: dict[str, Any],
        keys: list[str],
        raw_types: dict[str, str],
        limits: Limits = Limits(),
    ) -> None:
        try:
            DEFAULT_JSONSCHEMA_VALIDATOR.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise InvalidJSONSchema(f"stream {stream.id}: its schema is no JSON schema: {error.message}") from error
        self.stream = stream
        self.schema = schema
        self.keys = keys
        self._limits = limits
        self.properties = {name: kind for name, kind in schema["properties"].items() if name not in METADATA_COLUMNS}
        missing = [key for key in keys if key not in self.properties]
        if missing:
            raise UserError(
                f"stream {stream.id}: key {', '.join(missing)} is not in its schema; correct the tap's keys"
            )
        self._raw = {name.lower(): kind for name, kind in raw_types.items()}
        self._lower: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.conflicts: dict[str, str] = {}
        try:
            for name, kind in self.properties.items():
                self._add(name, column_type(kind))
        except BadRecord as error:
            raise UserError(f"stream {stream.id}: {error}; rename it with a stream map") from error
        self._plain = _plain_types(schema)
        others = {name: kind for name, kind in schema["properties"].items() if name not in self._plain}
        self._validator = DEFAULT_JSONSCHEMA_VALIDATOR(schema | {"properties": others})

    def _add(self, name: str, wanted: str | None) -> None:
        """Take up a column, as raw has it, or as text, where its type is not known.

        Names that differ only by case are one column to a warehouse.
        """
        if fault := self._limits.name_fault(name):
            raise BadRecord(fault, name if name.isprintable() and name else None)
        lower = name.lower()
        if lower in METADATA_COLUMNS or self._lower.setdefault(lower, name) != name:
            raise BadRecord(f"column {name} differs from {self._lower.get(lower, lower)} only by case", name)
        existing = self._raw.get(lower) or wanted or TEXT
        kind = widened(existing, wanted or existing)
        if kind is None:
            self.conflicts[name] = f"type changed: {wanted} now, {existing} in raw"
        self.types[name] = kind or existing

    def key(self, record: dict[str, Any]) -> tuple[str, ...]:
        """The key of a record as its row has it, whatever the rest of the record is; raises BadRecord."""
        self._check_key(record)
        return tuple(self._text(key, record[key]) or "" for key in self.keys)

    def row(self, record: dict[str, Any]) -> Row:
        """Check and convert a record, which may carry `_sdc_` fields; raises BadRecord."""
        metadata = {name: record.get(name) for name in ("_sdc_deleted_at", "_sdc_extracted_at", "_sdc_table_version")}
        data = {name: value for name, value in record.items() if name not in METADATA_COLUMNS}
        self._check_key(data)
        self._validate(data)
        values: dict[str, str | None] = {}
        for name, value in data.items():
            allowed = self._plain.get(name)
            if allowed and type(value) not in allowed:
                raise BadRecord(f"breaks the schema's type: {self.properties[name]['type']}", name)
            if name not in self.types:
                # A field that the schema does not name is kept: nothing is lost.
                self._add(name, None)
            values[name] = self._text(name, value)
        deleted_at = self._metadata_text("_sdc_deleted_at", metadata["_sdc_deleted_at"])
        return Row(
            values=values,
            key=tuple(values[key] or "" for key in self.keys),
            operation="delete" if deleted_at else "upsert",
            deleted_at=deleted_at,
            extracted_at=self._metadata_text("_sdc_extracted_at", metadata["_sdc_extracted_at"]),
            version=metadata["_sdc_table_version"],
            hash=row_hash(values),
        )

    def _check_key(self, data: dict[str, Any]) -> None:
        for key in self.keys:
            if data.get(key) is None:
                raise BadRecord("key is missing or null", key, missing_key=True)

    def _validate(self, data: dict[str, Any]) -> None:
        try:
            error = next(self._validator.iter_errors(data), None)
        except (TypeError, InvalidOperation, OverflowError) as fault:
            # The validator's arithmetic (multipleOf) stumbles over NaN and numbers beyond a float's range.
            raise BadRecord("a number that cannot be checked", None) from fault
        if error is None:
            return
        if error.validator == "required":
            column = next(name for name in error.validator_value if name not in error.instance)
        else:
            column = str(error.absolute_path[0]) if error.absolute_path else None
        # Not the message: it repeats the value, which belongs in the payload alone.
        raise BadRecord(f"breaks the schema's {error.validator}: {str(error.validator_value)[:200]}", column)

    def _text(self, name: str, value: Any) -> str | None:
        if value is None:
            return None
        if name in self.conflicts:
            raise BadRecord(self.conflicts[name], name)
        try:
            kind = self.types[name]
            if isinstance(value, int | Decimal) and not isinstance(value, bool) and Decimal(value).is_finite():
                kind = needed_type(kind, value)
            text = as_text(kind, value)
        except ValueError as error:
            raise BadRecord(str(error), name) from error
        if text is not None and "\0" in text and not self._limits.nul:
            raise BadRecord(f"text with a NUL character, which {self._limits.engine} cannot hold", name)
        self.types[name] = kind
        return text

    @staticmethod
    def _metadata_text(name: str, value: Any) -> str | None:
        try:
            return as_text(TIME, value)
        except ValueError as error:
            raise BadRecord(str(error), name) from error


def _plain_types(schema: dict[str, Any]) -> dict[str, set[type]]:
    """The Python types of each property that needs no more than a look at its type; most of them, and far quicker."""
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return {}  # The validator must know all properties.
    plain = {}
    for name, kind in schema["properties"].items():
        declared = kind.get("type")
        if declared and _PLAIN_KEYWORDS.issuperset(kind) and name not in METADATA_COLUMNS:
            names = [declared] if isinstance(declared, str) else declared
            plain[name] = set().union(*(_PYTHON_TYPES[each] for each in names))
    return plain
