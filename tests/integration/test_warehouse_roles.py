"""What each role of a warehouse in PostgreSQL may do, with the roles that `scripts/services` makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from ingestion.errors import UserError
from ingestion.postgres_service import read_services
from ingestion.settings import Settings
from orchestration.publish_postgres import publish
from orchestration.services import warehouse_database
from tests.integration.test_publish_postgres import Warehouse
from tests.postgres import Database

SECRET = "ann0@example.com"


class Roles:
    """The connections of each role to one database."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.services = read_services(file)

    def connect(self, role: str) -> Any:
        """A connection of psycopg2; the caller closes it."""
        return psycopg2.connect(**self.services[role])

    def execute(self, role: str, *statements: str) -> None:
        with closing(self.connect(role)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def query(self, role: str, statement: str) -> list[tuple[Any, ...]]:
        with closing(self.connect(role)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()


class OwnedWarehouse(Database):
    """A database whose statements are those of the role that they belong to: raw the loader's, all else dbt's."""

    roles: Roles

    def execute(self, *statements: str) -> None:
        for statement in statements:
            mine = statement.startswith(("create schema ops", "create table ops.loads", "insert into ops.loads"))
            if statement != "create schema ops":
                self.roles.execute("warehouse_loader" if mine else "warehouse_transformer", statement)


@pytest.fixture
def roles(postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Roles]:
    """A warehouse with a published version, as its roles made it."""
    file = tmp_path / "pg_service.conf"
    warehouse_database.prepare(parse_dsn(postgres.server.dsn()), file, postgres.name)
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    found = Roles(file)
    database = OwnedWarehouse(postgres.server, postgres.name)
    object.__setattr__(database, "roles", found)
    found.execute(
        "warehouse_loader",
        "create schema raw_crm",
        f"create table raw_crm.users as select 1 as user_id, '{SECRET}' as email",
        f"create table ops.quarantine as select 1 as load_id, '{SECRET}' as payload",
    )
    settings = Settings(shop="demo_shop", home=tmp_path, data=tmp_path, engine="postgres")
    Warehouse(database, settings)
    found.execute(
        "warehouse_transformer",
        "create schema staging",
        "create view staging.stg_demo_shop__users as select * from raw_crm.users",
        "create schema intermediate",
        f"create table intermediate.int_users__current as select 1 as user_id, '{SECRET}' as email",
        f"create table ops.failing_rows as select '{SECRET}' as failing_row",
    )
    publish(settings)
    yield found


def test_reporter_reads_what_is_published_by_its_plain_names(roles: Roles) -> None:
    assert roles.query("warehouse_reporter", "select count(*), max(amount) from fact_orders") == [(1000, 10)]
    assert roles.query("warehouse_reporter", "select version from meta.publish_info") == [(1,)]
    names = roles.query("warehouse_reporter", "select distinct name from marts.dim_customers")
    assert len(names) == 1 and len(names[0][0]) == 32


def test_personal_reporter_reads_it_as_it_is_in_the_same_version(roles: Roles) -> None:
    role = "warehouse_personal_reporter"
    assert roles.query(role, "select distinct name from dim_customers") == [("Ann Lee",)]
    assert (SECRET,) in roles.query(role, "select email from dim_customers")
    assert roles.query(role, "select count(*), max(amount) from fact_orders") == [(1000, 10)]
    for statement in ("select * from build.dim_customers", "select * from published.dim_customers", REFUSED[0]):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            roles.query(role, statement)


REFUSED = [
    "select * from raw_crm.users",
    "select count(*) from raw_crm.users",
    "table ops.quarantine",
    "select payload from ops.quarantine",
    "select * from ops.failing_rows",
    "select * from ops.builds",
    "select * from staging.stg_demo_shop__users",
    "select * from intermediate.int_users__current",
    "select email from build.dim_customers",
    "select * from build.dim_users",
    "select email from published.dim_customers",
    "select email from published.dim_customers__0",
    "select email from marts_personal.dim_customers",
    "select * from published.current_slot",
    "update published.current_slot set slot = 1",
    "delete from marts.fact_orders",
    "insert into marts.dim_customers (user_id) values (99)",
    "drop view marts.fact_orders",
    "create or replace view marts.fact_orders as select 1 as order_line_id",
    "create table marts.mine (n integer)",
    "create schema mine",
    "create table public.mine (n integer)",
    "create temporary table mine (n integer)",
    "create function public.mine() returns integer language sql as 'select 1'",
    "set role warehouse_transformer",
    "set session authorization warehouse_loader",
    "grant warehouse_transformer to warehouse_reporter",
    "alter role warehouse_reporter superuser",
    "select query_to_xml('select * from raw_crm.users', true, false, '')",
    "select table_to_xml('ops.quarantine'::regclass, true, false, '')",
    "select schema_to_xml('raw_crm', true, false, '')",
    "select ts_stat('select to_tsvector(email) from raw_crm.users')",
    "copy raw_crm.users to stdout",
    "copy (select * from marts.dim_customers) to '/tmp/customers'",
    "copy (select 1) to program 'cat'",
    "select pg_read_file('postgresql.conf')",
    "select pg_read_binary_file('global/pg_control')",
    "select pg_ls_dir('base')",
    "select lo_import('/etc/hostname')",
    "select rolpassword from pg_authid",
    "select * from pg_shadow",
    "select stavalues1 from pg_statistic",
    "select * from pg_largeobject",
    "select * from pg_hba_file_rules",
    "lock table marts.fact_orders in access exclusive mode",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'",
    "explain select * from raw_crm.users",
]


def test_reporter_is_refused_whatever_else_it_tries(roles: Roles) -> None:
    answered = {}
    for statement in REFUSED:
        try:
            answered[statement] = roles.query("warehouse_reporter", statement)
        except psycopg2.errors.InsufficientPrivilege:
            continue
    assert answered == {}


ALLOWED = [
    "select most_common_vals::text from pg_stats where schemaname <> 'pg_catalog'",
    "select query from pg_stat_activity where usename <> current_user",
    "select row_to_json(found)::text from marts.dim_customers as found",
    "select definition from pg_views where schemaname = 'staging'",
]


def test_reporter_finds_no_plain_value_in_what_it_may_ask(roles: Roles) -> None:
    told = [statement for statement in ALLOWED if SECRET in str(roles.query("warehouse_reporter", statement))]
    assert told == []


def test_an_administrator_who_is_no_superuser_gives_again_what_was_taken_away(roles: Roles, postgres: Database) -> None:
    """Also where dbt made tables in the loader's schema, of which it alone may say who reads them."""
    everyone = ", ".join(warehouse_database.ROLES)
    superuser = Database(postgres.server, postgres.name)
    superuser.execute(
        "create role no_superuser login createrole createdb password 'of no_superuser'",
        f"alter database {postgres.name} owner to no_superuser",
    )
    if postgres.server.version >= 16:
        # Who made a role is its administrator, as here; before 16 whoever may make roles is everybody's.
        superuser.execute(f"grant {everyone} to no_superuser with admin true, inherit false, set false")
    roles.execute("warehouse_loader", "revoke select on ops.quarantine, raw_crm.users from warehouse_transformer")
    administrator = parse_dsn(postgres.server.dsn()) | {"user": "no_superuser", "password": "of no_superuser"}
    warehouse_database.prepare(administrator, roles.file, postgres.name)
    assert roles.query("warehouse_transformer", "select count(*) from ops.quarantine, raw_crm.users") == [(1,)]
    # As databases are made by PostgreSQL 14.
    superuser.execute("alter schema public owner to postgres", "grant create on schema public to public")
    with pytest.raises(UserError, match="let one type `revoke create on schema public from public`"):
        warehouse_database.prepare(administrator, roles.file, postgres.name)


def test_the_models_text_and_dates_do_not_depend_on_the_database_s_settings(roles: Roles, postgres: Database) -> None:
    for setting in ("standard_conforming_strings = off", "datestyle = 'German'"):
        postgres.execute(f'alter database "{postgres.name}" set {setting}')
    asked = "select current_setting('standard_conforming_strings'), current_setting('datestyle')"
    assert roles.query("warehouse_transformer", asked) == [("on", "ISO, YMD")]
