"""Random histories of Singer messages: whatever a tap sends, raw is what docs/contracts.md says, row for row.

A history is a list of runs, a run a list of steps: records (new, changed, equal, deleted, of a wrong type), columns
that appear, vanish or change their type, keys that change, batch files that come again. A run may be repeated whole,
as a tap does whose state was lost. `Model` says what raw and quarantine must hold after it.
"""

from __future__ import annotations

import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.integration.conftest import TargetHome

NAMES = ("a", "b", "c")
DELETED_AT = "2026-01-01T00:00:00+00:00"
VALUES = {
    "integer": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1]),
    "number": st.decimals(-1000, 1000, places=3) | st.integers(-5, 5),
    "string": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
    | st.sampled_from(["", "1", "true"]),
    "boolean": st.booleans(),
}
value = st.none() | st.sampled_from([1, 2, "x"]) | st.sampled_from(list(VALUES)).flatmap(VALUES.__getitem__)


def record_of(each: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Few ids, so that versions of one key follow each other."""
    keys = {"id": st.integers(1, 3), "region": st.sampled_from(["eu", "us"])}
    deleted = {"is_deleted": st.sampled_from([False, False, False, True])}
    return st.fixed_dictionaries(keys | deleted | dict.fromkeys(NAMES, each))


# Half of the records are nearly empty, so that equal and returning versions are common.
record = record_of(st.none()) | record_of(value)
step = st.one_of(
    st.tuples(st.just("records"), st.lists(record, min_size=1, max_size=6)),
    st.tuples(st.just("column"), st.tuples(st.sampled_from(NAMES), st.sampled_from([*VALUES, None]))),
    st.tuples(st.just("keys"), st.sampled_from([("id",), ("id", "region"), ()])),
    st.tuples(st.just("file"), st.lists(record, min_size=1, max_size=4)),
    st.tuples(st.just("file again"), st.integers(0, 9)),
)
run = st.tuples(st.lists(step, min_size=1, max_size=6), st.booleans())


def canonical(item: Any) -> str | None:
    """A value as text, the same for equal JSON values."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, Decimal):
        return format(item.normalize() + 0, "f")
    return None if item is None else str(item)


class Model:
    """What raw and quarantine should hold, one received record at a time."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, str]]] = []
        self.quarantined = 0
        self.types: dict[str, str] = {}
        self.has_table = False
        self.files: set[str] = set()

    def declare(self, columns: dict[str, str]) -> None:
        """A SCHEMA message: new columns take their type, integers widen to numbers."""
        self.columns = columns

    def end_run(self) -> None:
        """A stream that has no rows yet has its table, of the columns that it had last."""
        if not self.has_table:
            self.has_table, self.types = True, dict(self.columns)

    def receive(self, item: dict[str, Any], keys: tuple[str, ...]) -> None:
        data = {name: item[name] for name in ("id", "region", *self.columns)}
        for name, declared in self.columns.items():
            if data[name] is not None and not self._fits(name, declared, data[name]):
                self.quarantined += 1
                return
        operation = "delete" if item["is_deleted"] else "upsert"
        content = {name: text for name, each in data.items() if (text := canonical(each)) is not None}
        if keys:
            of_key = [row for row in self.rows if all(row[1][key] == content[key] for key in keys)]
            if of_key and of_key[-1] == (operation, content):
                return
        self.rows.append((operation, content))
        self.has_table = True
        for name, declared in self.columns.items():
            raw = self.types.setdefault(name, declared)
            if {raw, declared} == {"integer", "number"}:
                self.types[name] = "number"

    def _fits(self, name: str, declared: str, item: Any) -> bool:
        kind = {bool: "boolean", int: "integer", Decimal: "number", str: "string"}[type(item)]
        if kind != declared and (kind, declared) != ("integer", "number"):
            return False
        raw = self.types.get(name, declared)
        return raw in (declared, "string") or {raw, declared} == {"integer", "number"}


def dumped(message: dict[str, Any]) -> str:
    """A message as a line; decimals as JSON numbers, as written."""
    marked = json.dumps(message, default=lambda number: f"\0{number}\0")
    return marked.replace('"\\u0000', "").replace('\\u0000"', "") + "\n"


class Sender:
    """Turns steps into lines of messages, and tells the model."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.folder = folder
        self.model = model
        self.keys: tuple[str, ...] = ("id",)
        self.columns: dict[str, str] = {"a": "integer", "b": "string"}
        self.sent: list[tuple[Path, list[dict[str, Any]]]] = []

    def schema(self) -> str:
        self.model.declare(dict(self.columns))
        properties: dict[str, Any] = {"id": {"type": "integer"}, "region": {"type": "string"}}
        properties |= {name: {"type": [kind, "null"]} for name, kind in self.columns.items()}
        return dumped(
            {
                "type": "SCHEMA",
                "stream": "shop-things",
                "key_properties": list(self.keys),
                "schema": {"type": "object", "properties": properties},
            }
        )

    def fields(self, item: dict[str, Any]) -> dict[str, Any]:
        deleted = {"_sdc_deleted_at": DELETED_AT} if item["is_deleted"] else {}
        return {name: item[name] for name in ("id", "region", *self.columns)} | deleted

    def lines(self, kind: str, argument: Any) -> str:
        if kind == "column":
            name, declared = argument
            self.columns.pop(name, None)
            if declared:
                self.columns[name] = declared
            return self.schema()
        if kind == "keys":
            self.keys = argument
            return self.schema()
        if kind == "records":
            for item in argument:
                self.model.receive(item, self.keys)
            return "".join(
                dumped({"type": "RECORD", "stream": "shop-things", "record": self.fields(item)}) for item in argument
            )
        if kind == "file":
            path = self.folder / f"{len(self.sent)}.jsonl"
            path.write_text("".join(dumped(self.fields(item)) for item in argument))
            self.sent.append((path, argument))
        elif not self.sent:
            return ""
        path, items = self.sent[-1] if kind == "file" else self.sent[argument % len(self.sent)]
        return self.batch(path, items)

    def batch(self, path: Path, items: list[dict[str, Any]]) -> str:
        if path.name not in self.model.files:
            self.model.files.add(path.name)
            for item in items:
                self.model.receive(item, self.keys)
        encoding = {"format": "jsonl", "compression": "none"}
        return dumped({"type": "BATCH", "stream": "shop-things", "encoding": encoding, "manifest": [path.as_uri()]})


def play(history: list[tuple[list[tuple[str, Any]], bool]], home: TargetHome) -> Model:
    """Send a history, run by run; returns the model of it."""
    model = Model()
    sender = Sender(home.home.parent, model)
    for steps, is_repeated in history:
        keys, columns, files = sender.keys, dict(sender.columns), list(sender.sent)
        home.load_lines(sender.schema() + "".join(sender.lines(*each) for each in steps), max_quarantine_share=1)
        model.end_run()
        if is_repeated:
            # Lost state: the tap, as it was before, sends the same again; its files have the names they had.
            sender.keys, sender.columns, sender.sent = keys, columns, files
            home.load_lines(sender.schema() + "".join(sender.lines(*each) for each in steps), max_quarantine_share=1)
    return model


#: The table of the first run has no rows, and yet a type that the second one's value does not fit.
EMPTY_AT_FIRST = [
    ([("column", ("a", "integer"))], False),
    (
        [
            ("column", ("a", "string")),
            ("records", [{"id": 1, "region": "eu", "is_deleted": False, "a": "x", "b": None, "c": None}]),
        ],
        False,
    ),
]


@pytest.fixture(scope="module")
def size(full: bool) -> int:
    return 500 if full else 40


def test_raw_equals_the_model_of_any_history(size, monkeypatch):
    @settings(max_examples=size, deadline=None, derandomize=True, database=None)
    @given(st.lists(run, min_size=1, max_size=4))
    @example(EMPTY_AT_FIRST)
    def check(history):
        with tempfile.TemporaryDirectory() as folder:
            home = TargetHome(Path(folder) / "home")
            monkeypatch.setenv("WAREHOUSE_HOME", str(home.home))
            model = play(history, home)
            names = ["id", "region", *NAMES]
            existing = {
                row[0] for row in home.query("select column_name from duckdb_columns() where table_name = 'things'")
            }
            columns = ", ".join(name if name in existing else f"null as {name}" for name in names)
            found = home.query(
                f"select _sdc_operation, {columns} from raw_shop.things order by _sdc_load_id, _sdc_sequence"
            )
            rows = [
                (
                    each[0],
                    {
                        name: text
                        for name, item in zip(names, each[1:], strict=True)
                        if (text := canonical(item)) is not None
                    },
                )
                for each in found
            ]
            assert rows == model.rows
            assert home.query("select count(*) from ops.quarantine") == [(model.quarantined,)]
            if model.rows or model.quarantined:
                home.check_identities()

    check()
