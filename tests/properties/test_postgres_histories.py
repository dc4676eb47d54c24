"""Random histories of a PostgreSQL table under tap-postgres and target-warehouse: raw equals the source and its log.

A history is a list of rounds. Each changes the table (rows, columns, types, the key itself), then extracts it; a
round may lose the state, lose the messages on their way (the lake has the batches, the warehouse not), or bring the
same messages twice. An audit trigger in the source writes down every version of every row, which is what raw must hold.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ingestion.taps.postgres import TapPostgres
from tests.integration.conftest import TargetHome
from tests.postgres import Database, create_database, drop_database

TABLE = "shop.things"
AUDIT = """
create schema audit;
create table audit.log (number bigserial primary key, operation text, old jsonb, new jsonb, key text[]);
create function audit.note() returns trigger language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' then
        insert into audit.log (operation) values ('TRUNCATE');
    else
        insert into audit.log (operation, old, new, key) values (
            tg_op,
            case when tg_op <> 'INSERT' then to_jsonb(old) end,
            case when tg_op <> 'DELETE' then to_jsonb(new) end,
            array(select attname from pg_index, pg_attribute where indrelid = tg_relid and indisprimary
                and attrelid = indrelid and attnum = any(indkey))
        );
    end if;
    return null;
end $$;
"""
START = f"""
create schema shop;
create table {TABLE} (
    id integer not null, region text not null, changed bigserial, a integer, b text, c numeric(8, 2), primary key (id)
);
create trigger note after insert or update or delete on {TABLE} for each row execute function audit.note();
create trigger note_truncate after truncate on {TABLE} for each statement execute function audit.note();
insert into {TABLE} (id, region) values (1, 'eu'), (2, 'us');
"""
TOUCH = f"changed = nextval('{TABLE}_changed_seq')"
TYPES = ["integer", "bigint", "text", "numeric(8, 2)", "numeric(12, 3)", "timestamptz", "jsonb", "boolean"]
LITERALS = {
    "integer": ["null", "0", "7", "-2147483648"],
    "bigint": ["null", "9223372036854775807"],
    "text": ["null", "''", "'x'", "'7'", "'ß\U0001f600'"],
    "numeric(8, 2)": ["null", "0.10", "-999999.99"],
    "numeric(12, 3)": ["null", "123456789.125"],
    "timestamptz": ["null", "'2026-03-29 01:30:00.000001+01'", "'1969-12-31 23:59:59Z'"],
    "jsonb": ["null", "'null'", "'{\"k\": [1, 1.50]}'"],
    "boolean": ["null", "true", "false"],
}

UNSEEN = {"delete", "move", "truncate"}
"""Changes that leave no row with a higher replication key."""

row_ids = st.integers(1, 5)
change = st.one_of(
    st.tuples(st.just("insert"), row_ids, st.integers(0, 9)),
    st.tuples(st.just("insert"), row_ids, st.integers(0, 9)),
    st.tuples(st.just("update"), row_ids, st.integers(0, 9)),
    st.tuples(st.just("update"), row_ids, st.integers(0, 9)),
    st.tuples(st.just("touch nothing"), row_ids, st.just(0)),
    st.tuples(st.just("delete"), row_ids, st.just(0)),
    st.tuples(st.just("move"), row_ids, row_ids),
    st.tuples(st.just("truncate"), st.just(0), st.just(0)),
)
drift = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("abcd"), st.sampled_from(TYPES)),
    st.tuples(st.just("drop"), st.sampled_from("abcd"), st.just("")),
    st.tuples(st.just("type"), st.sampled_from("abcd"), st.sampled_from(TYPES)),
    st.tuples(st.just("key"), st.sampled_from(["id", "id, region"]), st.just("")),
)
rounds = st.tuples(
    st.lists(drift, max_size=2),
    st.lists(st.lists(change, min_size=1, max_size=4), max_size=4),
    st.sampled_from(["", "", "", "state lost", "messages lost", "messages twice"]),
)


class Source:
    """The table, and what its history says raw must hold."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.database.execute(AUDIT, START, f"create publication warehouse for table {TABLE}")

    def columns(self) -> dict[str, str]:
        """Column names and types as the database has them now, without those of the test's own."""
        return dict(
            self.database.query(
                "select attname, format_type(atttypid, atttypmod) from pg_attribute"
                f" where attrelid = '{TABLE}'::regclass and attnum > 0 and not attisdropped"
            )
        )

    def rows(self) -> list[dict[str, Any]]:
        """The table's rows as they are now."""
        columns = self.columns()
        names = ", ".join(f'"{name}"::text' if kind == "jsonb" else f'"{name}"' for name, kind in columns.items())
        return [dict(zip(columns, row, strict=True)) for row in self.database.query(f"select {names} from {TABLE}")]

    def keys(self) -> list[str]:
        """The columns of the primary key."""
        query = (
            "select attname from pg_index, pg_attribute where indisprimary and attrelid = indrelid"
            f" and attnum = any(indkey) and indrelid = '{TABLE}'::regclass order by attnum"
        )
        return [row[0] for row in self.database.query(query)]

    def drift(self, kind: str, name: str, type_: str) -> None:
        columns = self.columns()
        if kind == "add" and name not in columns:
            self.database.execute(f"alter table {TABLE} add column {name} {type_}")
        elif kind == "drop" and name in columns:
            self.database.execute(f"alter table {TABLE} drop column {name}")
        elif kind == "type" and name in columns:
            # As a migration does that gives up what does not convert.
            self.database.execute(f"alter table {TABLE} alter column {name} type {type_} using null")
        elif kind == "key":
            self.database.execute(
                f"alter table {TABLE} drop constraint things_pkey, add constraint things_pkey primary key ({name})"
            )
        # What ALTER TABLE does to values is in no log and no replication key; a migration that cares touches the rows.
        self.database.execute(f"update {TABLE} set {TOUCH}")

    def change(self, changes: list[tuple[str, int, int]]) -> None:
        """One transaction."""
        columns = [name for name in self.columns() if name in "abcd"]
        types = self.columns()
        statements = [statement(each, columns, types) for each in changes]
        self.database.execute("begin; " + "; ".join(statements) + "; commit")


def statement(change: tuple[str, int, int], columns: list[str], types: dict[str, str]) -> str:
    kind, row, pick = change
    values = {name: literal(types[name], pick + place) for place, name in enumerate(columns)}
    sets = "".join(f", {name} = {value}" for name, value in values.items())
    if kind == "insert":
        names, items = "".join(f", {name}" for name in values), "".join(f", {value}" for value in values.values())
        return (
            f"insert into {TABLE} (id, region{names}) select {row}, 'eu'{items}"
            f" where not exists (select 1 from {TABLE} where id = {row})"
        )
    if kind == "update":
        return f"update {TABLE} set {TOUCH}, region = '{'us' if pick % 2 else 'eu'}'{sets} where id = {row}"
    if kind == "touch nothing":
        return f"update {TABLE} set id = id where id = {row}"
    if kind == "delete":
        return f"delete from {TABLE} where id = {row}"
    if kind == "move":
        return (
            f"update {TABLE} set {TOUCH}, id = {pick} where id = {row} and not exists"
            f" (select 1 from {TABLE} where id = {pick})"
        )
    return f"truncate {TABLE}"


def literal(kind: str, pick: int) -> str:
    known = {
        "numeric(8,2)": "numeric(8, 2)",
        "numeric(12,3)": "numeric(12, 3)",
        "timestamp with time zone": "timestamptz",
    }
    kind = known.get(kind, kind)
    choices = LITERALS[kind]
    return f"({choices[pick % len(choices)]})::{kind}"


def canonical(value: Any) -> str | None:
    """A value as text, the same in raw and in the source, also where raw keeps an older, wider type."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    value = {"t": "true", "f": "false"}.get(str(value), str(value))
    with contextlib.suppress(ValueError):
        return dt.datetime.fromisoformat(value).astimezone(dt.UTC).isoformat() if ":" in value else value_of(value)
    return value


def value_of(value: str) -> str:
    """Numbers without their trailing zeros."""
    try:
        return format(Decimal(value).normalize() + 0, "f")
    except ArithmeticError:
        return value


class Extraction:
    """Runs of the tap and the target over one source, and what raw says after them."""

    def __init__(self, source: Source, home: TargetHome, method: str) -> None:
        self.source = source
        self.home = home
        self.method = method
        self.state: dict[str, Any] | None = None

    def tap(self, state: dict[str, Any] | None) -> list[dict[str, Any]]:
        config = {
            "sqlalchemy_url": self.source.database.dsn,
            "filter_schemas": ["shop"],
            "default_replication_method": self.method,
            "lake_path": str(self.home.lake.root),
            "replication_slot_name": f"slot_{self.source.database.name}",
            "max_vanished_share": 1,
        }
        catalog = json.loads(json.dumps(TapPostgres(config=config).catalog_dict))
        for stream in catalog["streams"]:
            (root,) = [each["metadata"] for each in stream["metadata"] if not each["breadcrumb"]]
            root["replication-method"] = self.method
            if self.method == "INCREMENTAL":
                root["replication-key"] = "changed"
        tap = TapPostgres(config=config, catalog=catalog, state=json.loads(json.dumps(state)) if state else None)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            tap.sync_all()
        assert tap.faults == []
        return [json.loads(line) for line in output.getvalue().splitlines()]

    def run(self, accident: str) -> None:
        messages = self.tap(None if accident == "state lost" else self.state)
        if accident == "messages lost":
            messages = self.tap(self.state)
        for _ in range(2 if accident == "messages twice" else 1):
            states = self.home.load(messages, max_quarantine_share=1)
            self.state = states[-1] if states else self.state

    def versions(self) -> list[dict[str, Any]]:
        """All rows of raw, in their order."""
        result = self.home.query("describe raw_shop.things")
        names = [row[0] for row in result]
        found = self.home.query("from raw_shop.things order by _sdc_load_id, _sdc_sequence")
        return [dict(zip(names, row, strict=True)) for row in found]

    def quarantined(self) -> set[tuple[str, str]]:
        """Id and number of change of every quarantined version."""
        payloads = [json.loads(row[0]) for row in self.home.query("select payload from ops.quarantine")]
        return {(str(payload["id"]), str(payload["changed"])) for payload in payloads}

    def check_current(self, keys: list[str]) -> None:
        """Every row of the source is current in raw, or in quarantine; and nothing else is current."""
        current: dict[tuple[Any, ...], dict[str, Any]] = {}
        for version in self.versions():
            current[tuple(version[key] for key in keys)] = version
        live = {key: row for key, row in current.items() if row["_sdc_operation"] == "upsert"}
        quarantined = self.quarantined()
        rows = self.source.rows()
        for row in rows:
            if (str(row["id"]), str(row["changed"])) in quarantined:
                continue
            found = live[tuple(row[key] for key in keys)]
            assert {name: canonical(found[name]) for name in row} == {name: canonical(row[name]) for name in row}
        if self.method != "INCREMENTAL":
            assert set(live) <= {tuple(row[key] for key in keys) for row in rows}

    def check_no_version_twice(self) -> None:
        """No version of a row equals the one before it."""
        last: dict[int, Any] = {}
        for version in self.versions():
            content = (
                version["_sdc_operation"],
                {
                    name: canonical(value)
                    for name, value in version.items()
                    if not name.startswith("_sdc") and value is not None
                },
            )
            assert last.get(version["id"]) != content
            last[version["id"]] = content

    def check_log(self, after: int) -> None:
        """Raw has each committed version once, in the order of commits: those of the audit log beyond the snapshot."""
        expected: dict[str, list[tuple[str, str | None]]] = {}
        found: dict[str, list[tuple[str, str | None]]] = {}
        quarantined = self.quarantined()
        snapshot = [row for row in self.versions() if row["_sdc_load_id"] == self.versions()[0]["_sdc_load_id"]]
        live = {str(row["id"]) for row in snapshot}

        def note(operation: str, row: dict[str, Any]) -> None:
            key, changed = str(row["id"]), str(row["changed"])
            if operation == "upsert" and (key, changed) in quarantined:
                return
            expected.setdefault(key, []).append((operation, changed if operation == "upsert" else None))
            (live.add if operation == "upsert" else live.discard)(key)

        keys, key_changes = ("id",), 0
        query = "select operation, old, new, key from audit.log where number > {} order by number"
        for operation, old, new, key in self.source.database.query(query.format(after)):
            key_now = tuple(key) if key else keys
            keys, key_changes = key_now, key_changes + (key_now != keys)
            if operation == "TRUNCATE":
                for each in sorted(live):
                    note("delete", {"id": each, "changed": None})
                continue
            moved = operation == "UPDATE" and any(old[name] != new[name] for name in key)
            if operation == "DELETE" or moved:
                note("delete", old)
            if operation != "DELETE":
                note("upsert", new)
        for row in self.versions()[len(snapshot) :]:
            changed = str(row["changed"]) if row["_sdc_operation"] == "upsert" else None
            found.setdefault(str(row["id"]), []).append((row["_sdc_operation"], changed))
        # What was deleted by the old key is deleted once more by the new one: each region that its id had.
        key_changes += tuple(self.source.keys()) != keys
        regions: dict[str, set[str]] = {}
        for row in self.versions():
            regions.setdefault(str(row["id"]), set()).update({row["region"]} - {None})
        # And what is deleted after its version went to quarantine was deleted before.
        missing = {key for key, _ in quarantined}
        wanted = {key: once(versions) if key in missing else versions for key, versions in expected.items()}
        assert {key: once(versions) for key, versions in found.items()} == wanted
        self.check_deletes(missing)
        for key, versions in found.items():
            assert len(versions) - len(expected[key]) <= key_changes * len(regions[key])

    def check_deletes(self, missing: set[str]) -> None:
        """Each delete is of what raw has, by the key that it names; what is in quarantine raw may lack."""
        held: dict[tuple[Any, ...], bool] = {}
        for row in self.versions():
            by_id, by_both = (row["id"],), (row["id"], row["region"])
            if row["_sdc_operation"] == "upsert":
                held[by_id] = held[by_both] = True
                continue
            named = by_id if row["region"] is None else by_both
            assert held.get(named) or str(row["id"]) in missing, f"{named} is deleted and not there"
            held[by_id] = held[named] = False


def once(versions: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Of deletes that follow each other the first."""
    before = [None, *versions]
    return [each for each, last in zip(versions, before, strict=False) if each[0] != "delete" or each != last]


def play(source: Source, extraction: Extraction, history: list[Any]) -> None:
    extraction.run("")
    snapshot = source.database.query("select coalesce(max(number), 0) from audit.log")[0][0]
    for drifts, transactions, accident in history:
        for each in drifts:
            # A replication key tells nothing of keys that became others.
            if extraction.method != "INCREMENTAL" or each[0] != "key":
                source.drift(*each)
        for transaction in transactions:
            visible = [each for each in transaction if extraction.method != "INCREMENTAL" or each[0] not in UNSEEN]
            if visible:
                source.change(visible)
        extraction.run(accident)
        extraction.check_current(source.keys())
    if extraction.method != "LOG_BASED":
        extraction.check_no_version_twice()
    else:
        extraction.check_log(snapshot)
    extraction.home.check_identities()


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL", "LOG_BASED"])
def test_raw_equals_the_source_after_any_history(method, full, postgres_server, monkeypatch):
    @settings(
        max_examples=170 if full else 8,
        deadline=None,
        derandomize=True,
        database=None,
        # Each run takes a second or more; the history itself is short enough to read.
        phases=[Phase.generate],
    )
    @given(st.lists(rounds, min_size=1, max_size=4))
    def check(history):
        database = create_database(postgres_server)
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            stack.callback(drop_database, database)
            home = TargetHome(Path(folder) / "home")
            monkeypatch.setenv("WAREHOUSE_HOME", str(home.home))
            source = Source(database)
            play(source, Extraction(source, home, method), history)

    check()
