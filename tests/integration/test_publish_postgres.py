"""Publishing on a real PostgreSQL server, from tables shaped as dbt and the target leave them there."""

from __future__ import annotations

import hmac
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from ingestion import postgres_service
from ingestion.errors import UserError
from ingestion.settings import Settings
from orchestration import nothing_new, publish_postgres
from orchestration.publish_postgres import bring_back, publish
from tests.integration.reading import QUERY, readers
from tests.postgres import Database, warehouse_in

LOAD = 1_000


class Warehouse:
    """A database with one load and its complete, passed build of 1000 rows a 10.00."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        database.execute(
            "create schema ops",
            "create schema build",
            "create table ops.loads (load_id bigint)",
            f"insert into ops.loads values ({LOAD})",
            "create table ops.builds (invocation_id text, command text, is_complete boolean, status text,"
            " load_bound bigint, shop text, started_at timestamptz, failures bigint, loads bigint,"
            " build_number bigint, inputs_hash text)",
            "create table ops.watermarks (invocation_id text)",
            "create table ops.runs (status text, finished_at timestamptz)",
            "insert into ops.runs values ('ok', now()), ('failed', now() - interval '1 hour')",
            "create table ops.test_results (invocation_id text, status text)",
            "insert into ops.test_results values ('first', 'pass'), ('before', 'warn')",
            "create table ops.publishes (version bigint, invocation_id text, action text, noted_at timestamptz,"
            " load_bound bigint, reason text, run_id text)",
            "create table ops.models (model text)",
            "insert into ops.models values ('fact_orders'), ('dim_customers')",
            "create table ops.personal_columns (model text, column_name text, kind text)",
            "insert into ops.personal_columns values ('dim_customers', 'name', 'name'),"
            " ('dim_customers', 'Email', 'email'), ('dim_customers', 'age', 'age'), ('dim_users', 'email', 'email'),"
            " ('dim_customers', 'street', 'address')",
        )
        self.build("first", price=10)

    def build(
        self,
        invocation: str,
        *,
        price: int = 10,
        rows: int = 1000,
        status: str = "passed",
        is_complete: bool = True,
        more: str = "",
        inputs_hash: str = "",
    ) -> None:
        """What dbt leaves: a row of ops.builds, and the marts in `build`, each made anew."""
        self.database.execute(
            f"insert into ops.builds select '{invocation}', 'build', {is_complete}, '{status}', {LOAD}, 'demo_shop',"
            f" now(), 0, (select count(*) from ops.loads), (select count(*) from ops.builds), '{inputs_hash}'",
            f"insert into ops.watermarks values ('{invocation}')",
            "drop table if exists build.fact_orders, build.dim_customers, build.dim_users cascade",
            "create table build.fact_orders as select n as order_line_id, md5(n::text) as noise,"
            f" {price}::numeric(18, 4) as amount{more} from generate_series(0, {rows - 1}) as n",
            "alter table build.fact_orders alter column order_line_id set not null",
            "create unique index on build.fact_orders (order_line_id)",
            "create table build.dim_customers as select n as user_id, 'Ann Lee'::text as name,"
            " 'ann' || n % 7 || '@example.com' as email, case when n > 0 then 30 + n end as age,"
            f" 'Elm Street'::varchar(40) as street, {price} as price from generate_series(0, 19) as n",
            "create table build.dim_users as select 1 as user_id, 'x@example.com' as email",
        )

    def prices(self) -> set[int]:
        return {int(price) for (price,) in self.database.query("select distinct amount from marts.fact_orders")}

    def noted(self) -> list[tuple[Any, ...]]:
        return self.database.query("select action, version, reason from ops.publishes order by noted_at")


@pytest.fixture
def warehouse(postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    yield Warehouse(postgres, warehouse_in(postgres, tmp_path, monkeypatch))


def test_publishes_the_marts_with_personal_data_hidden_and_nothing_else(warehouse: Warehouse) -> None:
    version, is_new = publish(warehouse.settings)
    assert (version.version, is_new, version.load_bound) == (1, True, LOAD)
    assert warehouse.database.query(
        "select table_name from information_schema.views where table_schema = 'marts' order by 1"
    ) == [("dim_customers",), ("fact_orders",)]
    key = warehouse.settings.personal_data_key_file.read_bytes()
    before = warehouse.database.query("select user_id, email, age from build.dim_customers order by 1")
    after = warehouse.database.query("select user_id, name, email, age, street from marts.dim_customers order by 1")
    assert len(before) == 20
    for (user_id, email, age), hidden in zip(before, after, strict=True):
        assert hidden == (
            user_id,
            hmac.new(key, b"name:Ann Lee", "sha256").hexdigest()[:32],
            hmac.new(key, f"email:{email}".encode(), "sha256").hexdigest()[:32],
            None if age is None else age // 10 * 10,
            None,
        )
    types = "select table_name, column_name, data_type from information_schema.columns where table_schema = '{}'"
    built = set(warehouse.database.query(types.format("build"))) - {
        ("dim_users", "user_id", "integer"),
        ("dim_users", "email", "text"),
    }
    assert set(warehouse.database.query(types.format("marts"))) == built
    assert warehouse.database.query("select version, invocation_id, shop from meta.publish_info") == [
        (1, "first", "demo_shop")
    ]
    assert publish(warehouse.settings) == (version, False)
    assert [row[:2] for row in warehouse.noted()] == [("publish", 1)]


def test_what_is_published_is_indexed_as_it_was_built(warehouse: Warehouse) -> None:
    publish(warehouse.settings)
    found = warehouse.database.query(
        "select count(*) from pg_indexes where schemaname = 'published' and indexdef like '%(order_line_id)%'"
    )
    assert found == [(4,)], "of the table and of its slots"


def test_versions_are_kept_and_brought_back(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE_VERSIONS_KEPT", "3")
    publish(warehouse.settings)
    for number in range(2, 6):
        warehouse.build(f"build {number}", price=10 * number)
        assert publish(warehouse.settings)[0].version == number
    assert [bring_back(warehouse.settings).version for _ in range(2)] == [4, 3]
    assert warehouse.prices() == {30}
    with pytest.raises(UserError, match=r"no previous version .*Kept .* 4, 5"):
        bring_back(warehouse.settings)
    assert bring_back(warehouse.settings, 5).version == 5
    bring_back(warehouse.settings, 4)
    warehouse.build("build 6", price=60)
    assert publish(warehouse.settings)[0].version == 6
    assert warehouse.prices() == {60}
    with pytest.raises(UserError, match="no version 5"):
        bring_back(warehouse.settings, 5)
    assert bring_back(warehouse.settings).version == 4
    assert warehouse.prices() == {40}
    assert [row[0] for row in warehouse.noted()].count("previous") == 5


def test_marts_with_other_columns_are_published_and_the_version_before_can_be_brought_back(
    warehouse: Warehouse,
) -> None:
    publish(warehouse.settings)
    warehouse.build("second", price=20, more=", 'x' as channel")
    assert publish(warehouse.settings)[0].version == 2
    assert warehouse.database.query("select distinct amount, channel from marts.fact_orders") == [(20, "x")]
    assert bring_back(warehouse.settings).version == 1
    assert warehouse.prices() == {10}
    with pytest.raises(psycopg2.errors.UndefinedColumn):
        warehouse.database.query("select channel from marts.fact_orders")
    assert bring_back(warehouse.settings, 2).version == 2
    assert warehouse.database.query("select distinct amount, channel from marts.fact_orders") == [(20, "x")]
    warehouse.build("third", price=30, more=", 'x' as channel, 1 as n")
    assert publish(warehouse.settings)[0].version == 3
    assert bring_back(warehouse.settings).version == 2


def test_personal_data_is_known_in_any_case_of_letters(warehouse: Warehouse) -> None:
    warehouse.database.execute(
        'alter table build.dim_customers rename column email to "eMail"',
        'alter table build.dim_customers rename to "Dim_Customers"',
    )
    publish(warehouse.settings)
    found = warehouse.database.query('select "eMail", name from marts."Dim_Customers"')
    assert len(found) == 20 and not any("@" in email or name == "Ann Lee" for email, name in found)


def test_names_that_postgresql_would_cut_are_told_apart(warehouse: Warehouse) -> None:
    mart, column = "m" * 62, "c" * 63
    of_mart = f"build.{mart}a ({column[:-1]}a text, {column[:-1]}b text)"
    warehouse.database.execute(
        f"create table {of_mart}",
        f"insert into build.{mart}a values ('Ann', 'Lee')",
        f"insert into ops.models values ('{mart}a')",
        f"insert into ops.personal_columns select '{mart}a', '{column[:-1]}' || last, 'name'"
        " from unnest(array['a', 'b']) as last",
    )
    publish(warehouse.settings)
    made = "select oid from pg_class where relname = 'fact_orders' and relnamespace = 'published'::regnamespace"
    before = warehouse.database.query(made)
    warehouse.build("second", price=20)
    publish(warehouse.settings)
    assert warehouse.database.query(made) == before, "its columns are as they were"
    key = warehouse.settings.personal_data_key_file.read_bytes()
    assert warehouse.database.query(f"select * from marts.{mart}a") == [
        tuple(hmac.new(key, f"name:{name}".encode(), "sha256").hexdigest()[:32] for name in ("Ann", "Lee"))
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda warehouse: warehouse.build("x", price=20, status="failed"), "failed"),
        (lambda warehouse: warehouse.build("x", price=20, status="running"), "did not end"),
        (lambda warehouse: warehouse.build("x", price=20, is_complete=False), "only a part"),
        (lambda warehouse: warehouse.database.execute("insert into ops.loads values (2)"), "1 loads came after"),
        (lambda warehouse: warehouse.database.execute("drop table ops.builds"), "never built"),
        (lambda warehouse: warehouse.database.execute("drop table ops.models"), "never built"),
    ],
)
def test_refuses_in_one_line_and_leaves_what_is_published(
    warehouse: Warehouse, spoil: Callable[[Warehouse], None], message: str
) -> None:
    publish(warehouse.settings)
    spoil(warehouse)
    with pytest.raises(UserError, match=message) as refusal:
        publish(warehouse.settings)
    assert "\n" not in str(refusal.value)
    assert warehouse.prices() == {10}
    assert [row[0] for row in warehouse.noted()] == ["publish", "refused"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"password": "pass-wrong"}, "password authentication failed"),
        ({"port": "1"}, "Connection refused"),
        ({"dbname": "nowhere"}, "does not exist"),
    ],
)
def test_a_server_that_refuses_is_one_line_without_the_password(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, str], message: str
) -> None:
    warehouse_in(warehouse.database, tmp_path, monkeypatch, **other)
    with pytest.raises(UserError, match=message) as refusal:
        publish(warehouse.settings)
    assert "\n" not in str(refusal.value) and "pass-wrong" not in str(refusal.value)


def test_a_second_publish_at_once_is_refused(warehouse: Warehouse) -> None:
    with closing(warehouse.database.connect()) as other, other.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s, %s)", postgres_service.PUBLISH_LOCK)
        with pytest.raises(UserError, match="Another publish is at work"):
            publish(warehouse.settings)


def test_a_build_that_exchanges_its_tables_meanwhile_is_waited_for_and_not_mixed_in(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(warehouse.settings)
    with closing(warehouse.database.connect()) as other, other.cursor() as cursor:
        cursor.execute("lock table build.fact_orders in access exclusive mode")
        monkeypatch.setattr(publish_postgres, "_WAIT_FOR_BUILD", "200ms")
        with pytest.raises(UserError, match="in use by a build"):
            publish(warehouse.settings)
    assert warehouse.prices() == {10}


def test_the_key_is_in_no_statement_that_the_server_logs(warehouse: Warehouse) -> None:
    warehouse.database.execute(f"alter database {warehouse.database.name} set log_statement = 'all'")
    publish(warehouse.settings)
    log = (warehouse.database.server.folder / "server.log").read_text(errors="replace")
    key = warehouse.settings.personal_data_key_file.read_bytes().strip()
    assert 'insert into "published_next"."dim_customers__0"' in log
    for pad in (0, 0x36, 0x5C):
        padded = bytes(byte ^ pad for byte in key)
        assert padded.hex() not in log and padded.decode(errors="replace") not in log


@pytest.mark.parametrize("form", ["same", "other columns"])
def test_a_killed_publish_leaves_the_old_version_and_the_next_one_goes_on(warehouse: Warehouse, form: str) -> None:
    publish(warehouse.settings)
    warehouse.build("second", price=20, more=", 1 as n" if form == "other columns" else "")
    kill_in_the_middle(warehouse)
    assert warehouse.prices() == {10}
    assert publish(warehouse.settings)[0].version == 2
    assert warehouse.prices() == {20}
    assert bring_back(warehouse.settings).version == 1


def kill_in_the_middle(warehouse: Warehouse) -> None:
    """End a publish that has written the new version, and not yet committed it."""
    script = (
        "import os; from pathlib import Path; from ingestion.settings import Settings;"
        "from orchestration import publish_postgres as module;"
        f"home = Path({str(warehouse.settings.home)!r}); module._Publisher._note = lambda *values: os._exit(9);"
        "module.publish(Settings(shop='demo_shop', home=home, data=home))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9


def test_readers_meet_no_error_no_mixture_and_no_build_that_failed(warehouse: Warehouse, full: bool) -> None:
    """Publishes under readers without pause; one of five builds failed, one publish is killed, columns change twice."""
    publishes, at_work = (100, 8) if full else (16, 3)
    publish(warehouse.settings)
    price_of = {1: 10}
    dsn = warehouse.database.dsn + "?options=-csearch_path%3Dmarts"
    with readers(at_work, "postgres", dsn) as answers:
        for number in range(1, publishes):
            price = 10 * number + 10
            more = ", 1 as n" if publishes // 3 < number <= 2 * publishes // 3 else ""
            if number % 5 == 4:
                warehouse.build(f"failed {number}", price=-1, status="failed", more=more)
                with pytest.raises(UserError, match="failed"):
                    publish(warehouse.settings)
                continue
            warehouse.build(f"build {number}", price=price, more=more)
            if number == publishes // 2 + 1:
                kill_in_the_middle(warehouse)
            version, is_new = publish(warehouse.settings)
            assert is_new
            price_of[version.version] = price
    for of_reader in answers:
        assert [answer.error for answer in of_reader if answer.error] == []
        for answer in of_reader:
            assert (answer.prices, answer.rows) == ({price_of[answer.version]}, 1000)
        versions = [answer.version for answer in of_reader]
        assert versions == sorted(versions) and len(set(versions)) > 4, "it saw new versions while it read"


def test_a_reader_who_leaves_a_transaction_open_stops_other_columns_only(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(warehouse.settings)
    monkeypatch.setattr(publish_postgres, "_ATTEMPTS", 2)
    with closing(warehouse.database.connect()) as reader, reader.cursor() as cursor:
        cursor.execute("set search_path = marts; set transaction isolation level repeatable read")
        cursor.execute(QUERY)
        first = cursor.fetchall()
        warehouse.build("second", price=20)
        assert publish(warehouse.settings)[0].version == 2
        cursor.execute(QUERY)
        assert cursor.fetchall() == first, "its snapshot"
        warehouse.build("third", price=30, more=", 1 as n")
        waited = threading.Event()
        with pytest.raises(UserError, match="have other columns than before, and their views cannot be exchanged"):
            publish(warehouse.settings)
        assert not waited.is_set() and warehouse.prices() == {20}
    assert publish(warehouse.settings)[0].version == 3
    assert warehouse.prices() == {30}


def wait_until(warehouse: Warehouse, query: str) -> None:
    """Wait until a query has rows."""
    for _ in range(2000):
        if warehouse.database.query(query):
            return
        time.sleep(0.005)
    raise AssertionError(f"never had rows: {query}")


def test_the_cleaning_of_postgresql_gives_way_to_other_columns(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_postgres, "_ATTEMPTS", 3)
    publish(warehouse.settings)
    slow = "(autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_limit = 1,"
    superuser = closing(warehouse.database.connect())
    with superuser as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("alter system set autovacuum_naptime = '1s'")
        cursor.execute("select pg_reload_conf()")
        try:
            warehouse.build("second", price=20, rows=50_000)
            publish(warehouse.settings)
            cursor.execute(f"alter table published.fact_orders__1 set {slow} autovacuum_vacuum_cost_delay = 100)")
            cursor.execute("update published.fact_orders__1 set noise = noise || '.'")
            wait_until(
                warehouse,
                "select from pg_locks inner join pg_stat_activity using (pid) where backend_type = 'autovacuum worker'"
                " and relation = 'published.fact_orders__1'::regclass and granted",
            )
            warehouse.build("third", price=30, more=", 1 as n")
            assert publish(warehouse.settings)[0].version == 3
        finally:
            cursor.execute("alter system reset autovacuum_naptime")
            cursor.execute("select pg_reload_conf()")


def test_views_that_somebody_made_of_the_marts_are_neither_left_behind_nor_dropped(warehouse: Warehouse) -> None:
    publish(warehouse.settings)
    warehouse.database.execute(
        "create view marts.mine as select max(amount) as most from marts.fact_orders",
        "create schema bi",
        "create view bi.sales as select most from marts.mine",
        "create view bi.people as select count(*) as number from marts.dim_customers",
    )
    warehouse.build("second", price=20)
    assert publish(warehouse.settings)[0].version == 2
    assert warehouse.database.query("select most from bi.sales") == [(20,)]
    warehouse.build("third", price=30, more=", 1 as n")
    with pytest.raises(UserError, match=r"other columns than before, and bi.people, bi.sales, marts.mine would go on"):
        publish(warehouse.settings)
    assert warehouse.database.query("select most from bi.sales") == [(20,)]
    warehouse.database.execute("drop schema bi cascade", "drop view marts.mine")
    assert publish(warehouse.settings)[0].version == 3


def test_readers_may_see_a_version_of_before_they_had_their_role(warehouse: Warehouse) -> None:
    publish(warehouse.settings)
    made = warehouse.database.query("select from pg_roles where rolname = 'warehouse_reporter'")
    warehouse.database.execute(*([] if made else ["create role warehouse_reporter"]))
    warehouse.build("second", price=20, more=", 1 as n")
    publish(warehouse.settings)
    bring_back(warehouse.settings)
    with closing(warehouse.database.connect()) as reader, reader.cursor() as cursor:
        cursor.execute(
            "set role warehouse_reporter; select max(amount), max(version) from marts.fact_orders, meta.publish_info"
        )
        assert cursor.fetchall() == [(10, 1)]


def test_a_cleaning_that_fails_is_said_and_the_version_is_published(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.database.execute(f"alter database {warehouse.database.name} set lock_timeout = '100ms'")
    publisher = publish_postgres._Publisher
    clean = publisher._clean
    with closing(warehouse.database.connect()) as other, other.cursor() as cursor:

        def clean_what_is_locked(self: Any) -> None:
            cursor.execute("lock table published.fact_orders__2 in share update exclusive mode")
            clean(self)

        monkeypatch.setattr(publisher, "_clean", clean_what_is_locked)
        assert publish(warehouse.settings)[0].version == 1
    assert "not cleaned yet, the next publish does: canceling statement due to lock timeout" in capsys.readouterr().err
    assert warehouse.prices() == {10}


def test_what_postgresql_refuses_is_noted(warehouse: Warehouse) -> None:
    warehouse.database.execute("alter table build.dim_customers alter column email type integer using 1")
    with pytest.raises(UserError, match="of type integer"):
        publish(warehouse.settings)
    [(action, version, reason)] = warehouse.noted()
    assert (action, version) == ("refused", None) and "of type integer" in reason


def test_a_column_that_becomes_personal_while_publish_begins_is_not_published_plain(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = publish_postgres._Publisher
    hold = publisher._hold

    def build_and_hold(self: Any, built: Any) -> None:
        warehouse.build("second", price=20)
        warehouse.database.execute("insert into ops.personal_columns values ('fact_orders', 'noise', 'name')")
        hold(self, built)

    monkeypatch.setattr(publisher, "_hold", build_and_hold)
    with pytest.raises(UserError, match="in use by a build"):
        publish(warehouse.settings)


def test_what_was_published_plain_is_gone_when_it_is_hidden(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    publish(warehouse.settings)
    assert ("Ann Lee",) in warehouse.database.query("select name from marts.dim_customers")
    monkeypatch.delenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA")
    assert publish(warehouse.settings)[0].version == 2
    assert plain_rows(warehouse) == 0
    with pytest.raises(UserError, match="no previous version"):
        bring_back(warehouse.settings)


def plain_rows(warehouse: Warehouse) -> int:
    """Rows of all kept versions that show a name."""
    return warehouse.database.query("select count(*) from published.dim_customers where _hidden_name = 'Ann Lee'")[0][0]


def test_a_version_comes_back_in_the_form_that_is_asked_for_or_not_at_all(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_VERSIONS_KEPT", "4")
    publish(warehouse.settings)
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    for number in (2, 3):
        warehouse.build(f"build {number}", price=10 * number)
        publish(warehouse.settings)
    monkeypatch.delenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA")
    with pytest.raises(
        UserError, match=r"Version 2 has personal data plain, not hidden.*WAREHOUSE_PUBLISHED_PERSONAL_DATA=plain"
    ):
        bring_back(warehouse.settings)
    assert warehouse.prices() == {30} and plain_rows(warehouse) == 40
    assert bring_back(warehouse.settings, 1).version == 1
    assert plain_rows(warehouse) == 0
    warehouse.build("build 4", price=40)
    assert publish(warehouse.settings)[0].version == 4, "a number that BI has seen is not used again"


def test_a_column_that_is_said_to_be_personal_is_in_no_version_that_is_kept(warehouse: Warehouse) -> None:
    warehouse.database.execute("update ops.personal_columns set kind = 'x', column_name = 'x' where kind = 'name'")
    publish(warehouse.settings)
    assert ("Ann Lee",) in warehouse.database.query("select name from marts.dim_customers")
    warehouse.database.execute("update ops.personal_columns set kind = 'name', column_name = 'name' where kind = 'x'")
    warehouse.build("second", price=20)
    publish(warehouse.settings)
    assert ("Ann Lee",) not in warehouse.database.query("select name from marts.dim_customers")
    with pytest.raises(UserError, match="no previous version"):
        bring_back(warehouse.settings)


def test_what_is_published_has_statistics_for_the_plans_of_queries(warehouse: Warehouse) -> None:
    publish(warehouse.settings)
    found = warehouse.database.query(
        "select reltuples from pg_class where relname in ('fact_orders', 'fact_orders__0')"
        " and relnamespace = 'published'::regnamespace"
    )
    assert found == [(1000,), (1000,)]


def test_what_is_published_need_not_be_built_again(warehouse: Warehouse) -> None:
    warehouse.build("second", inputs_hash="abc")
    version, _ = publish(warehouse.settings)
    found = nothing_new.published_as_it_is(warehouse.settings, "abc")
    assert found and found[0] == version


@pytest.mark.parametrize(
    "change",
    [
        lambda warehouse: warehouse.database.execute("insert into ops.loads values (2)"),
        lambda warehouse: warehouse.build("third", inputs_hash="abc"),  # not published
        lambda warehouse: warehouse.build("third", inputs_hash="abc", status="failed"),
        lambda warehouse: (warehouse.build("third", inputs_hash="other"), publish(warehouse.settings)),
        lambda warehouse: bring_back(warehouse.settings),
        lambda warehouse: warehouse.database.execute("insert into ops.runs values ('failed', now())"),
        lambda warehouse: warehouse.database.execute("insert into ops.test_results values ('second', 'warn')"),
        lambda warehouse: warehouse.database.execute("delete from ops.watermarks"),
        lambda warehouse: warehouse.database.execute("drop schema published cascade"),
    ],
)
def test_anything_else_is_built(warehouse: Warehouse, change: Callable[[Warehouse], object]) -> None:
    publish(warehouse.settings)
    warehouse.build("second", inputs_hash="abc")
    publish(warehouse.settings)
    change(warehouse)
    assert nothing_new.published_as_it_is(warehouse.settings, "abc") is None


def test_the_command_publishes_where_the_engine_says(warehouse: Warehouse) -> None:
    settings = warehouse.settings
    command = [sys.executable, "-m", "orchestration.publish"]
    environment = os.environ | {
        "WAREHOUSE_ENGINE": "postgres",
        "WAREHOUSE_HOME": str(settings.home),
        "WAREHOUSE_SHOP": settings.shop,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"published version 1 .*the schema marts of the database test_\d+ on 127.0.0.1", done.stdout)
    done = subprocess.run([*command, "--previous"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"warehouse-publish: There is no previous version.*\n", done.stderr)
