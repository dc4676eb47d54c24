"""What is personal of a person goes from the lake's files, and all else stays as it was."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion.erased import Erased, Persons
from ingestion.errors import UserError
from ingestion.lake import Stream, connect
from ingestion.lake import erasure as lake_erasure
from ingestion.lake.checking import check_stream
from ingestion.lake.compaction import compact
from ingestion.lake.erasure import Found, find, redact
from tests.integration.tap_files_runs import Shop, content_of, data_of
from tests.integration.test_lake_commands import Warehouse

USERS = Stream("crm", "users")
PERSONAL = ("name", "email", "phone", "age")
PERSONS = Persons("user_id", PERSONAL, is_integer=True)
FORMATS = ("csv", "jsonl")


class Crm(Shop):
    """Users in files of either format, with soft deletes, and the list of whom to erase."""

    def __init__(self, root: Path, kind: str = "csv") -> None:
        super().__init__(
            root,
            name="crm-users",
            path=f"users/*.{kind}",
            format=kind,
            keys=["user_id"],
            columns={"user_id": "integer", "age": "integer", "updated_at": "timestamp"},
            not_empty=["updated_at"],
            deleted_at="deleted_at",
        )
        self.kind = kind
        self.state = None

    def ingest(self, **files: list[dict | str]) -> None:
        """Write files of users, then run the tap; a text is a line as it is."""
        for name, users in files.items():
            self.put(f"users/{name}.{self.kind}", self.written(users))
        run = self.run(self.state)
        assert run.faults == []
        self.state = run.state

    def written(self, users: list[dict | str]) -> str | bytes:
        if self.kind == "parquet":
            output = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(users), output)
            return output.getvalue()
        if self.kind == "jsonl":
            return "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in users)
        lines = [",".join(user(0))]
        for each in users:
            lines.append(
                each if isinstance(each, str) else ",".join("" if v is None else str(v) for v in each.values())
            )
        return "".join(f"{line}\n" for line in lines)

    def connect(self) -> duckdb.DuckDBPyConnection:
        return connect(self.lake.root / "_spill")

    def find(self, whom: Erased) -> Found:
        with self.connect() as con:
            return find(self.lake, con, USERS, whom)

    def redact(self, whom: Erased) -> Found:
        with self.connect() as con:
            return redact(self.lake, con, USERS, whom)

    def check(self) -> list[str]:
        with self.connect() as con:
            return list(check_stream(self.lake, con, USERS, None))

    def texts(self) -> str:
        """Everything that the lake's Parquet files hold, read column by column, and their own bytes."""
        parts = []
        for path in sorted(self.lake.root.rglob("*")):
            if path.suffix == ".parquet":
                parts.append(json.dumps(duckdb.sql(f"from read_parquet('{path}')").fetchall(), default=str))
            if path.is_file():
                parts.append(path.read_bytes().decode(errors="replace"))
        return "\n".join(parts)


def user(number: int, version: int = 1, **changes: object) -> dict:
    letters = "abcdefghij"
    name = "".join(letters[int(digit)] for digit in f"{number:03d}")
    return {
        "user_id": number,
        "name": f"{name.title()} v{version} Person",
        "email": f"{name}.v{version}@shop.example",
        "phone": f"+49 {number:05d} {version}",
        "age": 20 + number % 50,
        "country": "DE",
        "updated_at": f"2026-01-{version:02d} 10:00:00",
        "deleted_at": None,
    } | changes


def of(*numbers: int) -> Erased:
    """A list with these persons, and every value that any version of them has."""
    values = [user(n, v)[name] for n in numbers for v in range(1, 6) for name in ("name", "email", "phone")]
    return Erased(b"k" * 64, {"crm-users": PERSONS}).with_persons(map(str, numbers)).with_values(values)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WAREHOUSE_HOME", str(tmp_path))


def fill(crm: Crm) -> None:
    """Versions, withdrawn and deleted rows, a corrected record, broken lines and an unfit record."""
    people = [user(n) for n in range(1, 40)]
    crm.ingest(a=people, b=[user(50), user(17, updated_at="soon"), user(51)])
    crm.ingest(a=[user(n, 2) if n % 3 == 2 else each for n, each in enumerate(people, 1)])
    broken = "17,Bad Line,new@shop.example" if crm.kind == "csv" else '{"user_id": 17, "name": "Bad Line"'
    crm.ingest(c=[user(17, 3), broken, user(18, 3), user(17, 4, deleted_at="2026-02-01 00:00:00")])
    crm.ingest(b=[user(50), user(17, 5), user(51)])


def personal_free(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in (*PERSONAL, "_sdc_row_hash")}


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_all_versions_of_a_person_go_and_all_else_stays(kind, compacted, tmp_path):
    crm = Crm(tmp_path, kind)
    fill(crm)
    if compacted:
        with crm.connect() as con:
            compact(crm.lake, con, USERS, {batch.batch_id for batch in crm.batches[:3]}, file_bytes=10**8)
    rows, quarantine, batches = crm.rows(), crm.quarantine(), crm.batches
    files = {path: path.stat() for path in crm.lake.root.rglob("*.parquet")}
    person = of(17)
    expected = crm.find(person)
    ours = [row for row in rows if row["user_id"] == "17"]
    assert expected.held == sum(expected.rows.values()) == len(ours) == 6
    assert sum(expected.quarantined.values()) == 2
    assert user(17, 4)["email"] in expected.values["email"]
    assert set(expected.values) == set(PERSONAL)
    assert all(user(17, v)["email"] in crm.texts() for v in (1, 2, 3, 4, 5))

    assert crm.redact(person) == expected

    after = crm.rows()
    assert [personal_free(row) for row in after] == [personal_free(row) for row in rows]
    for row, before in zip(after, rows, strict=True):
        if row["user_id"] == "17":
            assert [row[name] for name in PERSONAL] == [None] * 4
        else:
            assert row == before
    texts = crm.texts()
    for version in (1, 2, 3, 4, 5):
        assert not [user(17, version)[name] for name in PERSONAL[:3] if user(17, version)[name] in texts]
    assert "new@shop.example" not in texts
    assert "Bad Line" not in texts
    assert len(crm.quarantine()) == len(quarantine)
    assert Counter(row["quarantine_id"] for row in crm.quarantine()) == Counter(r["quarantine_id"] for r in quarantine)
    for batch, before in zip(crm.batches, batches, strict=True):
        assert replace(batch, file=before.file) == before
    touched = {path for path in files if not path.exists()}
    assert touched == set(expected.rows)
    assert crm.check() == []
    crm.assert_counted()
    # Once more there is nothing to do.
    stamps = {path: path.stat().st_mtime_ns for path in crm.lake.root.rglob("*.parquet")}
    again = crm.redact(person)
    assert (again.rows, again.quarantined, dict(again.values), again.held) == ({}, {}, {}, len(ours))
    assert {path: path.stat().st_mtime_ns for path in crm.lake.root.rglob("*.parquet")} == stamps


def test_files_that_nobody_else_may_read_stay_so(tmp_path):
    crm = Crm(tmp_path)
    fill(crm)
    folder = crm.lake.root / USERS.folder

    def close() -> None:
        for path in folder.iterdir():
            path.chmod(0o600)

    def modes() -> set[int]:
        return {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.suffix in (".parquet", ".jsonl")}

    close()
    assert crm.redact(of(17)).quarantined
    assert modes() == {0o600}
    with crm.connect() as con:
        assert compact(crm.lake, con, USERS, {batch.batch_id for batch in crm.batches}, file_bytes=10**8)[1] == 1
    assert modes() == {0o600}


def test_a_crash_before_the_manifest_changes_nothing_and_the_same_again_ends_it(tmp_path, monkeypatch):
    crm = Crm(tmp_path)
    fill(crm)
    rows = crm.rows()

    def crash(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(lake_erasure, "replace_manifest", crash)
        with pytest.raises(OSError, match="full"):
            crm.redact(of(17))
    assert crm.rows() == rows
    found = crm.redact(of(17))
    assert found.rows
    assert crm.check() == []
    assert not [row for row in crm.rows() if row["user_id"] == "17" and row["name"]]
    assert {path.name for path in (crm.lake.root / USERS.folder).glob("*.parquet")} == {
        path.name for batch in crm.batches for path in (batch.file, batch.quarantine_file) if path
    }


def test_rows_that_differ_by_what_is_personal_alone_stay_apart(tmp_path):
    crm = Crm(tmp_path)
    same = {"updated_at": "2026-01-01 10:00:00"}
    crm.ingest(a=[user(17, 1), user(17, 2, **same), user(17, 2, **same), user(18)])
    crm.ingest(a=[user(17, 2, **same), user(17, 3, **same), user(18)])
    assert crm.current("users/a.csv").total() == 3
    crm.redact(of(17))
    assert crm.check() == []
    current = crm.current("users/a.csv")
    nobody = content_of(data_of({**user(17), **dict.fromkeys(PERSONAL), "user_id": "17"}))
    assert current == Counter({nobody: 2, content_of({**user(18), "user_id": "18", "age": "38"}): 1})
    identities = Counter(
        (row["_sdc_load_id"], row["_sdc_row_hash"], row["_sdc_occurrence"], row["_sdc_operation"]) for row in crm.rows()
    )
    assert set(identities.values()) == {1}


def test_somebody_else_of_the_same_name_is_left_alone(tmp_path):
    crm = Crm(tmp_path)
    twin = {name: user(17)[name] for name in PERSONAL}
    crm.ingest(a=[user(17), user(18, **twin), user(19, updated_at="never", **twin)])
    crm.redact(of(17))
    assert [row["name"] for row in crm.rows()] == [None, twin["name"]]
    assert json.loads(crm.quarantine()[0]["payload"])["email"] == twin["email"]


def test_a_file_that_is_missing_is_said(tmp_path):
    crm = Crm(tmp_path)
    fill(crm)
    crm.batches[0].file.unlink()
    with pytest.raises(UserError, match=r"is missing; `warehouse-lake check` names what the lake lacks"):
        crm.redact(of(17))


def test_rows_of_other_taps_have_the_hash_of_what_the_tap_would_send_now(tmp_path, monkeypatch):
    """Their columns have types, and the hash is of the text that each value was when it came."""
    types = {
        "id": {"type": "integer"},
        "name": {"type": ["string", "null"]},
        "worth": {"type": ["number", "null"]},
        "since": {"type": ["string", "null"], "format": "date-time"},
        "born": {"type": ["string", "null"], "format": "date"},
        "tags": {"type": ["array", "null"]},
        "is_new": {"type": ["boolean", "null"]},
    }
    whole = {
        "worth": 1.50,
        "since": "2026-01-01T10:00:00+02:00",
        "born": "2000-02-29",
        "tags": [1, "b"],
        "is_new": True,
    }
    people = [
        {"id": 17, "name": "Anna Meyer", **whole},
        {"id": 18, "name": "Ben Ode", **whole},
        {"id": 17, "name": "A"},
    ]
    stream = Stream.parse("shop-orders")  # As `record` names it.
    hashes = {}
    for home, sent in (("one", people), ("other", [{**each, "name": None} for each in people])):
        warehouse = Warehouse(tmp_path / home, monkeypatch)
        warehouse.send(types, *sent)
        with connect(tmp_path / "spill") as con:
            if home == "one":
                whom = Erased(b"k" * 64, {stream.id: Persons("ID", ("NAME",))}).with_persons(["17", "18"])
                found = redact(warehouse.lake, con, stream, whom)
                assert found.values["name"] == {"Anna Meyer", "Ben Ode", "A"}
                assert list(check_stream(warehouse.lake, con, stream, None)) == []
            (batch,) = warehouse.lake.manifest(stream)
            rows = con.execute(f"select id, name, _sdc_row_hash from '{batch.file}' order by _sdc_sequence").fetchall()
            hashes[home] = rows
    assert hashes["one"] == hashes["other"]
