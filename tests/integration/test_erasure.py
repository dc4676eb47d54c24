"""`scripts/erase-user`: afterwards nobody finds the persons, all else is as it was, and they do not come back."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pandas as pd
import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from ingestion.erased import Erased, Persons
from ingestion.lake import Lake, Stream
from ingestion.postgres_service import RAW_LOCK, TRANSFORMER
from orchestration.erasure import administrator, values
from orchestration.erasure.declaration import Wanted, declared
from orchestration.erasure.postgres_warehouse import PostgresWarehouse, _clean
from orchestration.erasure.values import Search, Value
from orchestration.services import warehouse_database
from orchestration.services.postgres import PostgresServer
from tests import erasure
from tests.erasure import User, erase, found_in_files
from tests.pipeline import MART_KEYS, ROOT, WALL_CLOCK_COLUMNS, Pipeline, differences
from tests.postgres import Database, warehouse_in

SEED = 20
STEPS = ("suppress", "clean_files", "redact_lake", "rebuild")
"""After each the erasure is killed; the later ones only with `--full`: each of them costs a build."""
LATER_STEPS = ("build", "publish", "verify")


LOADS = (
    "select source, stream, count(*), sum(rows_loaded), sum(rows_quarantined) from ops.loads group by 1, 2 order by 2"
)


class Shop:
    """A copy of the small demo shop, some of whose users are to be erased."""

    def __init__(self, built: Pipeline, folder: Path, count: int) -> None:
        shutil.copytree(
            built.home, folder / "home", ignore=shutil.ignore_patterns("source", "truth"), dirs_exist_ok=True
        )
        shutil.copytree(built.home / "source", folder / "source")
        self.pipeline = Pipeline(folder / "home", data=folder / "source")
        # Other tests write the project's own logs meanwhile.
        self.pipeline.extra_env |= {
            "DBT_LOG_PATH": str(folder / "logs"),
            "MELTANO_SYS_DIR_ROOT": str(folder / "meltano"),
        }
        self.everybody = erasure.users(folder / "source")
        self.erased = erasure.chosen(self.everybody, count, SEED)
        self.ids = [str(user.id) for user in self.erased]
        self.values = erasure.own_values(self.erased, self.everybody)

    @property
    def home(self) -> Path:
        return self.pipeline.home

    def send(self, day: str, *rows: dict | str) -> None:
        """Have the shop's system write another file of users, and load it."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.pipeline.data / "users" / f"{day}.jsonl").write_text("\n".join(lines) + "\n")
        self.pipeline.ingest()

    def row(self, user: User, **changes: object) -> dict:
        """A record of a user, as the shop's system writes it."""
        [email] = [value for value in user.values if "@" in value][:1] or ["nobody@example.com"]
        return {
            "user_id": user.id,
            "name": next(iter(user.values)),
            "email": email,
            "phone": "+49 171 555 0199",
            "age": 44,
            "country": "DE",
            "registered_at": "2024-01-01T00:00:00Z",
            "updated_at": "2030-01-01T00:00:00Z",
            "deleted_at": None,
        } | changes

    def query(self, sql: str) -> list[tuple]:
        """The rows of a query of the warehouse."""
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as connection:
            return connection.execute(sql).fetchall()

    def marts(self) -> dict[str, pd.DataFrame]:
        """All marts as built, as text."""
        return self.pipeline.marts()

    def found(self) -> list[str]:
        """Where any of the values still is."""
        return found_in_files(self.home, self.values)

    def leave_traces(self) -> None:
        """The persons in whatever place they can get to, beside those that the shop's files bring."""
        # A version with plain values, and before it one with hidden ones.
        self.pipeline.extra_env["WAREHOUSE_PUBLISHED_PERSONAL_DATA"] = "plain"
        self.pipeline.run("warehouse-publish")
        person = self.erased[0]
        broken = self.row(person, registered_at="never", email="broken.record@post.example.net")
        self.send("2031-01-01", broken, json.dumps(self.row(person))[:-9], self.row(person, phone="0800 1234 98765"))
        self.values |= {"broken.record@post.example.net", "0800 1234 98765", "0800123498765"}
        value = max(self.values)
        quoted = value.replace("'", "''")
        for row in (
            {"name": value.upper()},
            {"user_id": person.id, "age": 44},
            {"x": 1, "user_id": str(person.id)},
            {"user_id": int(f"{person.id}0")},
        ):
            text = json.dumps(row).replace("'", "''")
            values = f"'x', 'a test', 'dim_users', 'error', '{text}', now()"
            self.query(f"insert into ops.failing_rows values ({values}) returning 1")
        self.query(f"update ops.model_runs set message = 'Conversion Error: {quoted}!' returning 1")
        self.query(f"update ops.publishes set reason = '{quoted}' returning 1")
        logs = self.home / "logs"
        logs.mkdir(exist_ok=True)
        told = [f"{each.title()} {json.dumps(each)} {json.dumps(json.dumps(each))}" for each in sorted(self.values)]
        (logs / "run.log").write_text("\n".join(["begin", *told, "end", ""]))
        (self.home / "dbt" / "cache.msgpack").write_bytes(b"\0" + value.encode())
        (self.home / "tmp").mkdir(exist_ok=True)
        (self.home / "tmp" / "spilled.tmp").write_text(value)


class ShopInPostgres(Shop):
    """The same in a database of PostgreSQL, on a server as `scripts/services` starts it."""

    def __init__(self, built: Pipeline, folder: Path, count: int, server: PostgresServer) -> None:
        super().__init__(built, folder, count)
        self.server = server
        for file in self.home.glob("*.duckdb"):
            file.unlink()
        shutil.rmtree(self.home / "published")
        warehouse_database.prepare(parse_dsn(server.dsn()), self.home / "services" / "pg_service.conf")
        self.pipeline.extra_env["WAREHOUSE_ENGINE"] = "postgres"
        self.pipeline.run("warehouse-lake", "rebuild")
        self.build()
        self.pipeline.run("warehouse-publish")

    def build(self) -> None:
        folder = str(ROOT / "dbt_project")
        command = [ROOT / "scripts" / "dbt", "build", "--project-dir", folder, "--profiles-dir", folder]
        subprocess.run(command, env=self.pipeline.env, check=True, capture_output=True)

    def query(self, sql: str) -> list[tuple]:
        connected = closing(psycopg2.connect(self.server.dsn("warehouse")))
        with connected as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def marts(self) -> dict[str, pd.DataFrame]:
        found = {}
        for name, keys in MART_KEYS.items():
            columns = self.query(
                "select column_name from information_schema.columns"
                f" where table_schema = 'build' and table_name = '{name}' order by ordinal_position"
            )
            names = [column for (column,) in columns if column not in WALL_CLOCK_COLUMNS.get(name, [])]
            shown = ", ".join(f"{column}::text" for column in names)
            found[name] = pd.DataFrame(
                self.query(f"select {shown} from build.{name} order by {', '.join(keys)}"), columns=names
            )
        return found

    def found(self) -> list[str]:
        tables = self.query(
            "select format('%I.%I', nspname, relname) from pg_class"
            " join pg_namespace on relnamespace = pg_namespace.oid"
            " where relkind in ('r', 'm', 'v') and nspname <> 'information_schema'"
            " and (nspname !~ '^pg_' or relname in ('pg_statistic', 'pg_stats'))"
        )
        found = []
        for (table,) in tables:
            text = "\n".join(row for (row,) in self.query(f"select lower(rows::text) from {table} as rows"))
            found += [f"{table}: {value}" for value in self.values if value in text]
        with closing(psycopg2.connect(self.server.dsn("warehouse"))) as connection:
            connection.autocommit = True
            connection.cursor().execute("checkpoint")
        [(number,)] = self.query("select oid from pg_database where datname = 'warehouse'")
        data = self.server.folder / "data"
        for path in (*(data / "base" / str(number)).iterdir(), *(data / "pg_wal").iterdir()):
            content = path.read_bytes().lower() if path.is_file() else b""
            found += [f"{path}: {value}" for value in self.values if value.encode() in content]
        return found + super().found()


@pytest.fixture(params=["duckdb", "postgres"])
def shop(request: pytest.FixtureRequest, built: Pipeline, tmp_path: Path, full: bool) -> Iterator[Shop]:
    count = 50 if full else 3
    if request.param == "duckdb":
        yield Shop(built, tmp_path, count)
        return
    folder = tmp_path / "home" / "services" / "postgres"
    with PostgresServer.start(folder, durable=False, temporary=True) as server:
        yield ShopInPostgres(built, tmp_path, count, server)
    shutil.rmtree(server.folder)


def test_nothing_of_erased_users_is_found_and_all_else_stays(shop: Shop, full: bool) -> None:
    shop.leave_traces()
    before = shop.marts()
    counts = shop.query(LOADS)
    history = shop.query("select invocation_id, unique_id, seconds from ops.model_runs")
    assert len(shop.found()) > 3 * len(shop.values), "the search must find them before"

    steps = (*STEPS, *LATER_STEPS) if full else STEPS if type(shop) is Shop else STEPS[-1:]
    for seconds in (2, 5, 9, 14) if full else ():
        erasure.erase_and_kill(shop.pipeline, seconds, *shop.ids, "--apply")
    for step in steps:
        assert erase(shop.pipeline, *shop.ids, "--apply", crash_after=step).returncode == 9
    done = erase(shop.pipeline, *shop.ids, "--apply")
    assert done.returncode == 0, done.stdout + done.stderr

    assert shop.found() == []
    assert not any(value in (done.stdout + done.stderr).lower() for value in shop.values)
    check_that_all_else_stays(shop, before)
    assert shop.query(LOADS) == counts
    assert set(history) < set(shop.query("select invocation_id, unique_id, seconds from ops.model_runs"))
    assert shop.query("select distinct message from ops.model_runs where message like 'Conversion%'") == [
        ("Conversion Error: [erased]!",)
    ]
    assert shop.query("select count(*) from ops.failing_rows") == [(1,)], "that of somebody else"
    assert "the lake is whole" in shop.pipeline.run("warehouse-lake", "check").stdout
    assert (shop.home / "logs" / "run.log").read_text().startswith("begin\n[erased] ")
    check_certificate(shop, done.stdout)
    check_that_nobody_comes_back(shop)
    if isinstance(shop, ShopInPostgres):
        check_that_a_load_at_work_is_not_disturbed(shop)
    if type(shop) is Shop:
        again = erase(shop.pipeline, *shop.ids, "--apply")
        assert again.returncode == 0 and "only their numbers" in again.stdout, again.stdout + again.stderr
        assert len(list((shop.home / "erasures").iterdir())) == 1, "nothing was to be done"


def check_that_nobody_comes_back(shop: Shop) -> None:
    """The source goes on to send the persons: as they were, changed, and in records and lines that are broken."""
    person, other = shop.erased[0], next(user for user in shop.everybody.values() if user.id not in shop.ids)
    rows = f"select count(*), count(email) from raw_crm.users where user_id = '{person.id}'"
    [(count, _)] = shop.query(rows)
    old, new = (
        shop.row(person),
        shop.row(person, email="back.again@post.example.net", updated_at="2031-01-01T00:00:00Z"),
    )
    shop.send(
        "2031-02-01",
        old,
        new,
        shop.row(person, registered_at="never"),
        json.dumps(old)[:-9],
        shop.row(other, email="somebody.else@post.example.net", updated_at="2031-01-01T00:00:00Z"),
    )
    shop.values.add("back.again@post.example.net")
    assert shop.found() == []
    assert shop.query(rows) == [(count + 2, 0)], "they come, without what is personal"
    assert shop.query("select count(*) from raw_crm.users where email = 'somebody.else@post.example.net'") == [(1,)]


def check_that_a_load_at_work_is_not_disturbed(shop: ShopInPostgres) -> None:
    with closing(psycopg2.connect(shop.server.dsn("warehouse"))) as load, load.cursor() as cursor:
        cursor.execute("select pg_advisory_lock_shared(%s, %s)", RAW_LOCK)
        refused = erase(shop.pipeline, *shop.ids, "--apply")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "the database warehouse of 127.0.0.1 is in use by another process" in refused.stderr


def check_that_all_else_stays(shop: Shop, before: dict) -> None:
    after = shop.marts()
    for marts in (before, after):
        for name in ("dim_users", "dim_users_history"):
            marts[name] = marts[name].drop(columns=["age", "is_age_imputed", "age_group"], errors="ignore")
    for name in ("dim_users", "dim_users_history"):
        is_erased = after[name]["user_id"].isin(shop.ids)
        gone = after[name][is_erased]
        assert set(gone["user_id"]) == set(shop.ids)
        assert gone[["name", "phone"]].isna().all(axis=None) and set(gone["email"]) == {"unknown@example.com"}
        after[name] = after[name][~is_erased].reset_index(drop=True)
        before[name] = before[name][~before[name]["user_id"].isin(shop.ids)].reset_index(drop=True)
    assert set(before) == set(MART_KEYS)
    assert differences(before, after) == []


def check_certificate(shop: Shop, output: str) -> None:
    [file] = (shop.home / "erasures").glob("*.json")
    certificate = json.loads(file.read_text())
    assert file.read_text() in output
    assert [person["id"] for person in certificate["persons"]] == shop.ids
    assert certificate["searched"]["found"] == [] and certificate["searched"]["columns"] > 500
    touched = certificate["touched"]
    assert touched["lake: rows"] >= len(shop.ids) and touched["lake: quarantined records"] == 2
    assert touched["published versions removed"] == 2 and touched["ops.failing_rows"] == 3
    listed = json.loads((shop.home / "erased.json").read_text())
    assert listed["pending"] == [] and len(listed["persons"]) == len(shop.ids)
    assert {each["hash"] for each in certificate["persons"]} == set(listed["persons"])


def files_of(home: Path) -> dict[str, str]:
    """All files, with a hash of what is in them, but for locks."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        if path.is_file() and "lock" not in path.name
    }


def test_without_apply_nothing_is_changed_and_nobody_shown(built: Pipeline, tmp_path: Path) -> None:
    shop = Shop(built, tmp_path, 2)
    before = files_of(shop.home)
    done = erase(shop.pipeline, *shop.ids)
    assert done.returncode == 0 and "Nothing was changed" in done.stdout
    rows = next(line.split() for line in done.stdout.splitlines() if "lake: rows" in line)
    assert int(rows[-1]) >= len(shop.ids)
    assert not any(value in (done.stdout + done.stderr).lower() for value in shop.values)
    assert files_of(shop.home) == before


def test_a_user_of_whom_nothing_is_held_is_kept_out_all_the_same(built: Pipeline, tmp_path: Path) -> None:
    shop = Shop(built, tmp_path, 1)
    before = files_of(shop.home)
    done = erase(shop.pipeline, "987654321", "--apply")
    assert done.returncode == 0 and "nothing of user 987654321 is held" in done.stdout
    after = files_of(shop.home)
    assert {Path(name).name for name in after.keys() - before.keys()} == {"erased.json", "erasure.key"}
    assert {name: after[name] for name in before} == before
    listed = json.loads((shop.home / "erased.json").read_text())
    assert len(listed["persons"]) == 1 and listed["pending"] == []


def test_nothing_begins_while_another_process_is_at_work(built: Pipeline, tmp_path: Path) -> None:
    shop = Shop(built, tmp_path, 1)
    before = files_of(shop.home)
    with duckdb.connect(str(shop.home / "marts.duckdb")):
        in_use = erase(shop.pipeline, *shop.ids, "--apply")
    with Lake(shop.home / "lake").lock(Stream("web", "events")):
        being_written = erase(shop.pipeline, *shop.ids, "--apply")
    assert (in_use.returncode, being_written.returncode) == (1, 1)
    assert "marts.duckdb is in use by another process" in in_use.stderr and in_use.stderr.count("\n") == 1
    assert "stream web-events: another process is writing" in being_written.stderr
    assert files_of(shop.home) == before


def test_an_administrator_has_the_server_forget_its_statistics(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = warehouse_in(postgres, tmp_path, monkeypatch)
    value = "ann.lee@post.example.net"
    postgres.execute(
        f"create table gone as select '{value}' as email from generate_series(1, 9)",
        "analyze gone",
        "drop table gone",
        "checkpoint",
    )
    [(number,)] = postgres.query("select oid from pg_database where datname = current_database()")
    folder = postgres.server.folder / "data" / "base" / str(number)

    def is_in_a_file() -> bool:
        return any(value.encode() in path.read_bytes() for path in folder.iterdir())

    assert is_in_a_file()
    [statistics, _] = administrator.forget(home, None)
    assert "vacuum (full) pg_catalog.pg_statistic" in statistics and is_in_a_file()
    [of_the_log] = administrator.forget(home, parse_dsn(postgres.dsn))
    assert "WAL" in of_the_log and not is_in_a_file()


def test_a_database_says_by_number_what_it_has_of_a_person(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = PostgresWarehouse(warehouse_in(postgres, tmp_path, monkeypatch))
    assert not warehouse.is_built
    postgres.execute(
        "create schema raw_crm",
        "create schema build",
        "create table raw_crm.users (user_id text, name text, email text, phone text, age text)",
        "insert into raw_crm.users values ('07', null, 'old7@post.example.net', null, '44'), ('8', 'B', 'b@c', '', ''),"
        " ('-00.', null, 'nought@post.example.net', null, null)",
        "create table build.dim_users (user_id bigint, name text, email text, phone text)",
        "insert into build.dim_users values (7, 'Ann Lee', 'unknown@example.com', null), (8, 'B', 'b@c', '1')",
    )
    persons = Persons("user_id", ("name", "email", "phone", "age"), is_integer=True)
    listed = Erased(b"k" * 32).with_streams({"crm-users": persons}).with_persons(["7", "0"])
    held = warehouse.held_of(Wanted(declared("demo_shop"), ["7", "0"], listed, Search([])))
    assert held.rows == {"raw: crm-users": 2, "models": 1}
    emails = {("old7@post.example.net", "email"), ("nought@post.example.net", "email")}
    assert held.values == {*emails, ("44", "age"), ("Ann Lee", "name")}
    assert warehouse.is_built


def test_many_rows_of_a_database_are_searched_and_cleaned_at_once(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = PostgresWarehouse(warehouse_in(postgres, tmp_path, monkeypatch))
    listed = Erased(b"k" * 32).with_streams({"crm-users": Persons("user_id", ("name",))}).with_persons(["7"])
    names = [Value("Peter", "name"), *(Value(f"Maria{number} Nowak", "name") for number in range(100))]
    wanted = Wanted(declared("demo_shop"), ["7"], listed, Search(names))
    postgres.execute(
        "create schema ops",
        "create schema team",
        "create table team.notes as select case n when 7 then 'of Peter' when 8 then 'Petersen' else 'row ' || n end"
        " as note from generate_series(1, 6000) as n",
        "create table ops.model_runs as select note as message, 'Peter' as model from team.notes",
        """create table ops.failing_rows as select '{"note": "' || note || '"}' as failing_row from team.notes""",
        """insert into ops.failing_rows values ('{"user_id": 7}'), ('{"user_id": 77}'), (null)""",
    )
    # To make an expression is what costs: not one for each of the rows.
    searches, match = [], values.pc.match_substring_regex
    monkeypatch.setattr(values.pc, "match_substring_regex", lambda *a, **kw: searches.append(1) or match(*a, **kw))
    assert warehouse.count(wanted) == {"ops.model_runs": 1, "ops.failing_rows": 2}
    looked = warehouse.search(wanted)
    assert looked.found == ["ops.failing_rows.failing_row: 1 rows", "ops.model_runs.message: 1 rows"]
    assert looked.elsewhere == ["ops.model_runs.model: 6000 rows", "team.notes.note: 1 rows"]
    with warehouse._connected(TRANSFORMER) as cursor:
        for table, column in {"model_runs": "message", "failing_rows": "failing_row"}.items():
            _clean(cursor, table, [column], wanted)
    assert warehouse.count(wanted) == {"ops.model_runs": 0, "ops.failing_rows": 0}
    assert 0 < len(searches) < 6_000
    messages = {text for (text,) in postgres.query("select message from ops.model_runs")}
    assert {"of [erased]", "Petersen", "row 9"} <= messages and len(messages) == 6_000
    failing = {text for (text,) in postgres.query("select failing_row from ops.failing_rows")}
    assert {None, '{"user_id": 77}', '{"note": "Petersen"}'} <= failing and len(failing) == 6_001


def test_tables_of_somebody_else_are_said_and_no_failure(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"limited_{secrets.token_hex(4)}"
    home = warehouse_in(postgres, tmp_path, monkeypatch, user=role)
    password = parse_dsn(postgres.dsn)["password"]
    listed = Erased(b"k" * 32).with_streams({"crm-users": Persons("user_id", ("name",))}).with_persons(["7"])
    wanted = Wanted(declared("demo_shop"), ["7"], listed, Search([Value("Mozartkugel", "name")]))
    postgres.execute(
        f"create role {role} login password '{password}'",
        "create schema team",
        "create schema open",
        "create schema build",
        "create table team.shut as select 'Mozartkugel' as name",
        "create table open.shop as select 7 as user_id, 'Mozartkugel' as name",
        "create table build.dim_users as select 7 as user_id, 'Mozartkugel' as name",
        f"grant usage on schema open, build to {role}",
        # Of a schema that is shut even what may be read cannot be.
        f"grant select on open.shop, team.shut to {role}",
        f"alter table build.dim_users owner to {role}",
    )
    try:
        looked = PostgresWarehouse(home).search(wanted)
    finally:
        postgres.execute("drop table build.dim_users", f"drop owned by {role}", f"drop role {role}")
    assert looked.found == ["models: 1 rows of the persons", "build.dim_users.name: 1 rows"]
    assert looked.elsewhere == [
        "open.shop.name: 1 rows",
        "team.shut: not to be read by warehouse_transformer, and so not looked at: look there yourself",
    ]
