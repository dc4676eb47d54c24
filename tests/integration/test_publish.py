"""Publishing, on real DuckDB files shaped as dbt and the target leave them."""

from __future__ import annotations

import hmac
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from ingestion.errors import UserError
from ingestion.settings import Settings
from orchestration.publish_duckdb import bring_back, publish, published_version
from tests.integration.reading import readers

FIRST_LOAD, SECOND_LOAD = 1_000, 2_000


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return built(tmp_path)


def built(tmp_path: Path) -> Settings:
    """A warehouse with one load and its complete, passed build of 1000 rows a 10.00."""
    settings = Settings(shop="demo_shop", home=tmp_path, data=tmp_path / "source")
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute(
            "create schema ops; create schema raw_shop;"
            "create table ops.loads (load_id bigint, committed_at timestamptz);"
            "create table ops.builds (invocation_id text, command text, is_complete boolean, status text,"
            " load_bound bigint, shop text, started_at timestamptz, finished_at timestamptz, models_built bigint,"
            " tests_passed bigint, failures bigint, inputs_hash text, loads bigint, build_number bigint)"
        )
    load(settings, FIRST_LOAD)
    build(settings, "first", bound=FIRST_LOAD, price=10)
    return settings


def load(settings: Settings, load_id: int) -> None:
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute("insert into ops.loads values (?, make_timestamptz(0))", [load_id])


def build(
    settings: Settings,
    invocation: str,
    *,
    bound: int = FIRST_LOAD,
    price: int = 10,
    rows: int = 1000,
    is_complete: bool = True,
    status: str = "passed",
    shop: str = "demo_shop",
    inputs_hash: str | None = None,
    began: datetime | None = None,
) -> None:
    """What dbt leaves: a row of ops.builds and, in marts.duckdb, marts in `main` and bookkeeping in `ops`."""
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute(
            "insert into ops.builds select ?, 'build', ?, ?, ?, ?, coalesce(?, now()), now(), 2, 10, 0, ?,"
            " (select count(*) from ops.loads), (select count(*) from ops.builds)",
            [invocation, is_complete, status, bound, shop, began, inputs_hash],
        )
        connection.execute(f"attach '{settings.marts_file}' as marts (storage_version 'v1.4.0')")
        connection.execute(
            f"create or replace table marts.main.fact_orders as"
            f" select range as order_line_id, hash(range) as noise, {price}::decimal(18, 4) as amount"
            f" from range({rows});"
            "create or replace table marts.main.dim_users as select 1 as user_id;"
            "create or replace table marts.main.dim_customers as select range as user_id, 'Ann Lee' as name,"
            " 'ann' || range % 7 || '@example.com' as email, case when range > 0 then 30 + range end as age,"
            f" {price} as price from range(20);"
            "create schema if not exists marts.ops;"
            "create or replace table marts.ops.models as select * from (values ('fact_orders'), ('dim_customers'))"
            " as noted (model);"
            "create or replace table marts.main.old_customers as from marts.main.dim_customers;"
            "create or replace table marts.ops.personal_columns as select * from (values ('dim_customers', 'name',"
            " 'name'), ('dim_customers', 'Email', 'email'), ('dim_customers', 'age', 'age'),"
            " ('dim_users', 'email', 'email')) as noted (model, column_name, kind);"
            f"create or replace table marts.ops.watermarks as select '{invocation}' as invocation_id"
        )


def published_files(home: Settings) -> list[Path]:
    """All that readers can reach."""
    return [file for file in home.published_file.parent.rglob("*") if file.is_file()]


def version_file(home: Settings, version: int) -> Path:
    return home.published_file.parent / "versions" / f"{version}.duckdb"


def change(settings: Settings, sql: str) -> None:
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute(sql)


def prices(file: Path) -> set[int]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return {int(row[0]) for row in connection.execute("select distinct amount from fact_orders").fetchall()}


def names(file: Path) -> set[str]:
    with duckdb.connect(str(file), read_only=True) as connection:
        rows = connection.execute("select table_schema || '.' || table_name from information_schema.tables").fetchall()
    return {row[0] for row in rows}


def test_publishes_the_marts_and_the_version_and_nothing_else(home: Settings) -> None:
    version, is_new = publish(home)
    assert (version.version, is_new, version.load_bound) == (1, True, FIRST_LOAD)
    assert names(home.published_file) == {"main.dim_customers", "main.fact_orders", "meta.publish_info"}
    assert prices(home.published_file) == {10}


def test_published_file_keeps_the_storage_version_of_duckdb_1_4(home: Settings) -> None:
    publish(home)
    with duckdb.connect(str(home.published_file), read_only=True) as connection:
        tags = connection.execute("select tags from duckdb_databases() where not internal").fetchone()
    assert tags is not None
    assert tags[0]["storage_version"].startswith("v1.4.0")


def test_a_load_that_committed_late_is_not_published_over(home: Settings) -> None:
    load(home, FIRST_LOAD - 1)
    with pytest.raises(UserError, match="1 loads came after the last build"):
        publish(home)
    assert not home.published_file.exists()


def test_publishes_while_somebody_has_the_file_open_to_write(home: Settings) -> None:
    publish(home)
    build(home, "second", price=20)
    script = (
        f"import duckdb, time; c = duckdb.connect({str(home.published_file)!r}); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        version, is_new = publish(home)
        writer.kill()
    assert (version.version, is_new) == (2, True)
    assert prices(home.published_file) == {20}


@pytest.mark.parametrize("make", [lambda file: file.write_text("not a database"), lambda file: file.mkdir()])
def test_what_is_no_published_version_is_named(home: Settings, make: Callable[[Path], object]) -> None:
    home.published_file.parent.mkdir()
    make(home.published_file)
    with pytest.raises(UserError, match="is not a published version"):
        publish(home)


def test_same_build_is_published_once(home: Settings) -> None:
    publish(home)
    inode = home.published_file.stat().st_ino
    version, is_new = publish(home)
    assert (version.version, is_new) == (1, False)
    assert home.published_file.stat().st_ino == inode


def test_previous_version_is_kept_and_can_be_brought_back(home: Settings) -> None:
    publish(home)
    build(home, "second", price=20)
    assert publish(home)[0].version == 2
    assert prices(version_file(home, 1)) == {10}
    assert bring_back(home).version == 1
    assert prices(home.published_file) == {10}
    assert publish(home)[0].version == 3, "a number that BI has seen is not used again"
    assert prices(home.published_file) == {20}


def versions_on_disk(home: Settings) -> set[int]:
    return {int(file.stem) for file in version_file(home, 1).parent.glob("*.duckdb")}


def test_as_many_versions_are_kept_as_are_asked_for_and_each_can_be_brought_back(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_VERSIONS_KEPT", "4")
    publish(home)
    for number in range(2, 7):
        build(home, f"build {number}", price=10 * number)
        publish(home)
    assert versions_on_disk(home) == {3, 4, 5}
    assert [bring_back(home).version for _ in range(3)] == [5, 4, 3], "each time the one before"
    with pytest.raises(UserError, match=r"no previous version in .*published. Kept .* 4, 5, 6 \(`--version`\)"):
        bring_back(home)
    assert prices(home.published_file) == {30}
    assert bring_back(home, 6).version == 6 and prices(home.published_file) == {60}
    with pytest.raises(UserError, match=r"There is no version 2 in"):
        bring_back(home, 2)
    with pytest.raises(UserError, match=r"There is no version 6 in"):
        bring_back(home, 6)

    # What a version was brought back from is not the version before the next one.
    bring_back(home, 4)
    build(home, "build 7", price=70)
    assert publish(home)[0].version == 7
    assert versions_on_disk(home) == {3, 4}
    assert bring_back(home).version == 4

    monkeypatch.setenv("WAREHOUSE_VERSIONS_KEPT", "1")
    build(home, "build 8", price=80)
    assert publish(home)[0].version == 8
    assert versions_on_disk(home) == set() and prices(home.published_file) == {80}


def test_a_publish_that_was_killed_before_its_swap_leaves_no_undone_version_before_the_published_one(
    home: Settings,
) -> None:
    publish(home)
    build(home, "second", price=20)
    publish(home)
    bring_back(home)
    build(home, "third", price=30)
    kill_in_the_middle(home)
    assert prices(home.published_file) == {10}
    with pytest.raises(UserError, match="no previous version"):
        bring_back(home)
    assert publish(home)[0].version == 3, "a number that BI has seen is not used again"
    assert bring_back(home).version == 1


@pytest.mark.parametrize("number", ["0", "two", "-1", "1.5"])
def test_a_number_of_versions_that_is_none_is_refused(
    home: Settings, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    publish(home)
    build(home, "second", price=20)
    monkeypatch.setenv("WAREHOUSE_VERSIONS_KEPT", number)
    with pytest.raises(UserError, match=f"WAREHOUSE_VERSIONS_KEPT is '{number}', and not how many versions are kept"):
        publish(home)
    assert prices(home.published_file) == {10}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda home: build(home, "x", price=20, is_complete=False), "only a part"),
        (lambda home: build(home, "x", price=20, status="failed"), "failed"),
        (lambda home: build(home, "x", price=20, status="running"), "did not end"),
        (lambda home: build(home, "x", price=20, shop="online_retail"), "of the shop online_retail"),
        (lambda home: load(home, SECOND_LOAD), "1 loads came after the last build"),
        (lambda home: build(home, "x", price=20, status="failed", began=datetime(2020, 1, 1, tzinfo=UTC)), "failed"),
        (lambda home: change(home, "alter table ops.builds drop column loads"), "by an earlier version"),
        (lambda home: change(home, "update ops.builds set loads = null"), "by an earlier version"),
    ],
    ids=[
        "partial build",
        "failed build",
        "killed build",
        "other shop",
        "newer load",
        "clock set back",
        "upgrade",
        "begun upgrade",
    ],
)
def test_refuses_in_one_line_and_leaves_what_is_published(
    home: Settings, spoil: Callable[[Settings], None], message: str
) -> None:
    publish(home)
    spoil(home)
    with pytest.raises(UserError, match=message) as refusal:
        publish(home)
    assert "\n" not in str(refusal.value)
    assert prices(home.published_file) == {10}


def test_warehouse_that_was_never_built_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no marts to publish"):
        publish(Settings(shop="demo_shop", home=tmp_path, data=tmp_path))


def test_command_prints_one_line_and_fails(home: Settings) -> None:
    build(home, "x", status="failed")
    done = command(home)
    assert done.wait() == 1
    assert done.stderr is not None
    assert len(done.stderr.read().splitlines()) == 1


def test_waits_for_no_writer_but_says_who_is_in_the_way(home: Settings) -> None:
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import duckdb; c = duckdb.connect('{home.warehouse_file}'); print(1, flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(UserError, match="in use by a load or a build") as refusal:
        publish(home)
    assert "\n" not in str(refusal.value)
    writer.communicate(b"\n")


def test_second_publish_at_once_is_refused(home: Settings) -> None:
    build(home, "big", rows=8_000_000)
    first = command(home)
    wait_for(home.published_file.parent / ".next.duckdb")
    with pytest.raises(UserError, match="Another publish"):
        publish(home)
    assert first.wait() == 0


def test_commits_in_the_log_of_a_killed_build_are_published(home: Settings) -> None:
    script = (
        f"import duckdb, os; c = duckdb.connect('{home.marts_file}'); c.execute('update fact_orders set amount = 30');"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert home.marts_file.with_name("marts.duckdb.wal").exists()
    publish(home)
    assert prices(home.published_file) == {30}


def test_readers_meet_no_error_no_mixture_and_no_build_that_failed(home: Settings, full: bool) -> None:
    """Publishes under readers without pause; one of five builds failed, and one publish is killed."""
    publishes, at_work = (100, 8) if full else (20, 3)
    publish(home)
    price_of = {1: 10}
    with readers(at_work, "duckdb", home.published_file) as answers:
        for number in range(1, publishes):
            price = 10 * number + 10
            if number % 5 == 4:
                build(home, f"failed {number}", price=-1, status="failed")
                with pytest.raises(UserError, match="failed"):
                    publish(home)
                continue
            build(home, f"build {number}", price=price)
            if number == publishes // 2 + 1:
                kill_in_the_middle(home)
            version, is_new = publish(home)
            assert is_new
            price_of[version.version] = price
    for of_reader in answers:
        assert [answer.error for answer in of_reader if answer.error] == []
        for answer in of_reader:
            assert (answer.prices, answer.rows) == ({price_of[answer.version]}, 1000)
        versions = [answer.version for answer in of_reader]
        assert versions == sorted(versions) and len(set(versions)) > 4, "it saw new versions while it read"


def kill_in_the_middle(home: Settings) -> None:
    """End a publish that has written the new version, and not yet put it in its place."""
    script = (
        "import os; from pathlib import Path; from ingestion.settings import Settings;"
        "from orchestration import publish_duckdb as publish;"
        f"home = Path({str(home.home)!r}); publish._swap = lambda *files: os._exit(9);"
        "publish.publish(Settings(shop='demo_shop', home=home, data=home))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05])
def test_killed_publish_leaves_the_old_version_and_the_next_one_cleans_up(home: Settings, moment: float) -> None:
    publish(home)
    build(home, "big", price=20, rows=8_000_000)
    process = command(home)
    wait_for(home.published_file.parent / ".next.duckdb")
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert prices(home.published_file) == {10}
    publish(home)
    assert prices(home.published_file) == {20}
    folder = home.published_file.parent
    assert {str(file.relative_to(folder)) for file in folder.rglob("*")} == {
        ".lock",
        "versions",
        "versions/1.duckdb",
        "warehouse.duckdb",
    }


def customers(home: Settings, file: Path | None = None) -> list[tuple]:
    with duckdb.connect(str(file or home.published_file), read_only=True) as connection:
        return connection.execute("select user_id, name, email, age from dim_customers order by user_id").fetchall()


def holds_plain_data(file: Path) -> bool:
    """Whether its bytes tell the name or part of an address."""
    content = file.read_bytes()
    return b"Ann Lee" in content or b"@example.com" in content


def test_personal_data_is_published_as_keyed_hashes_and_ranges(home: Settings) -> None:
    plain = customers(home, home.marts_file)
    publish(home)
    hidden = customers(home)
    key = home.personal_data_key_file.read_text().encode()
    assert home.personal_data_key_file.stat().st_mode & 0o777 == 0o600
    for before, after in zip(plain, hidden, strict=True):
        assert after[0] == before[0]
        assert after[1] == hmac.new(key, b"name:Ann Lee", "sha256").hexdigest()[:32]
        assert after[2] == hmac.new(key, f"email:{before[2]}".encode(), "sha256").hexdigest()[:32]
        assert after[3] == (None if before[3] is None else before[3] // 10 * 10)
    # In the bytes of the file too; and what stays the same stays the same, so that joins and counts hold.
    assert holds_plain_data(home.marts_file) and not holds_plain_data(home.published_file)
    assert len({row[2] for row in hidden}) == len({row[2] for row in plain}) == 7
    build(home, "second")
    publish(home)
    assert customers(home) == hidden


def test_personal_data_is_published_plain_where_that_is_wanted_and_forgotten_when_it_is_not(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    assert publish(home)[0].personal_data == "plain"
    assert customers(home) == customers(home, home.marts_file)
    assert not home.personal_data_key_file.exists()
    monkeypatch.delenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA")
    version, is_new = publish(home)
    assert (version.version, is_new) == (2, True)
    # The version before would show it again.
    for file in published_files(home):
        assert not holds_plain_data(file), file
    with pytest.raises(UserError, match="no previous version"):
        bring_back(home)
    assert publish(home) == (version, False)


def test_the_previous_version_comes_back_in_the_form_that_is_asked_for_or_not_at_all(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(home)
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    build(home, "second", price=20)
    publish(home)
    monkeypatch.delenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA")
    # The plain one that it replaces does not become the previous one.
    assert bring_back(home).version == 1
    assert not any(holds_plain_data(file) for file in published_files(home))

    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    build(home, "third", price=30)
    publish(home)
    build(home, "fourth", price=40)
    publish(home)
    monkeypatch.delenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA")
    with pytest.raises(
        UserError, match=r"has personal data plain, not hidden.*set WAREHOUSE_PUBLISHED_PERSONAL_DATA=plain"
    ):
        bring_back(home)
    assert prices(version_file(home, 3)) == {30}
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    bring_back(home)
    assert prices(home.published_file) == {30}


def test_what_a_killed_publish_left_of_the_previous_version_goes_even_if_the_next_is_refused(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    publish(home)
    plain = home.published_file.read_bytes()
    monkeypatch.delenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA")
    publish(home)
    version_file(home, 1).write_bytes(plain)
    build(home, "failed", status="failed")
    with pytest.raises(UserError, match="failed"):
        publish(home)
    assert not any(holds_plain_data(file) for file in published_files(home))


def test_what_a_reader_wrote_into_the_published_file_goes_with_it(home: Settings) -> None:
    publish(home)
    script = (
        f"import duckdb, os; con = duckdb.connect({str(home.published_file)!r});"
        "con.execute('create table mine as from dim_customers'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert home.published_file.with_name("warehouse.duckdb.wal").exists()
    build(home, "second", price=20)
    publish(home)
    assert prices(home.published_file) == {20}
    assert "main.mine" not in names(home.published_file)


def test_a_version_of_before_that_does_not_say_its_form_counts_as_plain(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    publish(home)
    with duckdb.connect(str(home.published_file)) as connection:
        connection.execute("alter table meta.publish_info drop column personal_data")
    version = published_version(home.published_file)
    assert version and version.personal_data == "plain"
    assert publish(home) == (version, False)


def test_a_copy_that_a_killed_publish_read_is_not_among_what_is_published(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA", "plain")
    publish(home)
    script = (
        "import os, shutil; from pathlib import Path; from orchestration import publish_duckdb as publish;"
        " copy = shutil.copyfile\n"
        "def killed(*files): copy(*files); os._exit(9)\n"
        f"shutil.copyfile = killed; publish.published_version(Path({str(home.published_file)!r}))"
    )
    # Somebody has it open to write, so that publish reads a copy.
    with duckdb.connect(str(home.published_file)):
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    monkeypatch.delenv("WAREHOUSE_PUBLISHED_PERSONAL_DATA")
    publish(home)
    left = published_files(home)
    assert left and not any(holds_plain_data(file) for file in left)


def test_a_folder_that_cannot_be_written_is_a_clear_refusal(home: Settings) -> None:
    publish(home)
    build(home, "second", price=20)
    lock = home.published_file.parent / ".lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(UserError, match=r"The marts could not be written to .*published: .*Is a directory"):
        publish(home)
    assert prices(home.published_file) == {10}


@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_key_may_be_any_bytes(home: Settings, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    key = b"\xe9\xff" * 40
    if place == "file":
        home.personal_data_key_file.write_bytes(key + b"\n")
        home.personal_data_key_file.chmod(0o600)
    else:
        monkeypatch.setitem(os.environb, b"WAREHOUSE_PERSONAL_DATA_KEY", key)
    publish(home)
    assert customers(home)[0][1] == hmac.new(key, b"name:Ann Lee", "sha256").hexdigest()[:32]


def test_another_key_publishes_anew(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE_PERSONAL_DATA_KEY", "a" * 32)
    publish(home)
    first = customers(home)
    monkeypatch.setenv("WAREHOUSE_PERSONAL_DATA_KEY", "b" * 32)
    assert publish(home)[1] is True
    assert {row[2] for row in customers(home)}.isdisjoint({row[2] for row in first})
    # Who knows the old key could tell from the version before.
    with pytest.raises(UserError, match="no previous version"):
        bring_back(home)


def test_a_column_that_is_said_to_be_personal_is_in_no_version_that_is_kept(home: Settings) -> None:
    with duckdb.connect(str(home.marts_file)) as marts:
        marts.execute("delete from ops.personal_columns where column_name = 'name'")
    publish(home)
    assert customers(home)[0][1] == "Ann Lee"
    build(home, "second", price=20)  # whose yml says it
    publish(home)
    assert not any(holds_plain_data(file) for file in published_files(home))
    with pytest.raises(UserError, match="no previous version"):
        bring_back(home)


@pytest.mark.parametrize(
    ("amiss", "message"),
    [
        ("WAREHOUSE_PUBLISHED_PERSONAL_DATA=no", "is neither hidden nor plain"),
        ("WAREHOUSE_PERSONAL_DATA_KEY=short-secret", "WAREHOUSE_PERSONAL_DATA_KEY holds no key of 32 characters"),
        ("empty key file", "personal_data.key holds no key of 32 characters"),
        ("key file for all", "personal_data.key may be read by others.*chmod 600"),
        ("key file is a folder", "personal_data.key, can be neither read nor made: Is a directory"),
        ("marts of before", "built by an earlier version of this project"),
    ],
)
def test_what_cannot_be_hidden_is_not_published(
    home: Settings, monkeypatch: pytest.MonkeyPatch, amiss: str, message: str
) -> None:
    if "=" in amiss:
        monkeypatch.setenv(*amiss.split("="))
    elif amiss == "marts of before":
        with duckdb.connect(str(home.marts_file)) as connection:
            connection.execute("drop table ops.personal_columns")
    elif amiss == "key file is a folder":
        home.personal_data_key_file.mkdir(mode=0o700)
    else:
        home.personal_data_key_file.write_text("" if amiss == "empty key file" else "k" * 64)
        home.personal_data_key_file.chmod(0o600 if amiss == "empty key file" else 0o640)
    with pytest.raises(UserError, match=message) as refused:
        publish(home)
    assert "short-secret" not in str(refused.value)
    assert not home.published_file.exists() and not (home.published_file.parent / ".next.duckdb").exists()


def test_full_disk_leaves_the_old_version_and_says_so(home: Settings) -> None:
    publish(home)
    build(home, "big", price=20, rows=3_000_000)
    size = home.marts_file.stat().st_size

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    done = subprocess.run(
        [sys.executable, "-m", "orchestration.publish"],
        env=environment(home),
        preexec_fn=small_disk,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "No room" in done.stderr
    assert prices(home.published_file) == {10}
    assert not (home.published_file.parent / ".next.duckdb").exists()


def environment(home: Settings) -> dict[str, str]:
    return os.environ | {"WAREHOUSE_HOME": str(home.home), "WAREHOUSE_SHOP": home.shop}


def command(home: Settings) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestration.publish"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.001)


def noted(home: Settings) -> list[tuple]:
    with duckdb.connect(str(home.warehouse_file), read_only=True) as connection:
        return connection.execute(
            "select action, version, invocation_id, load_bound, reason from ops.publishes order by noted_at"
        ).fetchall()


def test_what_publish_did_is_noted(home: Settings) -> None:
    publish(home)
    publish(home)
    build(home, "second", price=20)
    publish(home)
    bring_back(home)
    build(home, "third", status="failed")
    with pytest.raises(UserError):
        publish(home)
    *done, refused = noted(home)
    assert done == [
        ("publish", 1, "first", FIRST_LOAD, None),
        ("publish", 2, "second", FIRST_LOAD, None),
        ("previous", 1, "first", FIRST_LOAD, None),
    ]
    assert refused[:4] == ("refused", None, None, None)
    assert refused[4].startswith("The last dbt command (build) failed.")


def test_a_note_carries_the_run_of_the_job(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELTANO_RUN_ID", "run-7")
    publish(home)
    with duckdb.connect(str(home.warehouse_file), read_only=True) as connection:
        assert connection.execute("select run_id from ops.publishes").fetchall() == [("run-7",)]


def test_what_could_not_be_noted_is_noted_by_the_next_publish(home: Settings) -> None:
    """A publish that was killed after its last step, or found the warehouse taken by then."""
    publish(home)
    with duckdb.connect(str(home.warehouse_file)) as connection:
        connection.execute("delete from ops.publishes")
    publish(home)
    assert [row[:3] for row in noted(home)] == [("publish", 1, "first")]


def test_no_number_is_given_again_though_nothing_is_published_any_more(home: Settings) -> None:
    publish(home)
    home.published_file.unlink()
    build(home, "second", price=20)
    publish(home)
    assert [row[:3] for row in noted(home)] == [("publish", 1, "first"), ("publish", 2, "second")]


@pytest.mark.parametrize(
    ("act", "spoil", "message"),
    [
        (publish, lambda folder: (folder / ".next.duckdb").mkdir(), "could not be written to .*Is a directory"),
        (bring_back, lambda folder: (folder / ".next.duckdb").mkdir(), "could not be written to .*Is a directory"),
        (publish, lambda folder: (folder / "previous.duckdb").mkdir(), "could not be written to .*Is a directory"),
        (publish, lambda folder: later_form(folder / "versions" / "9.duckdb"), "9.duckdb is not a published version"),
        (bring_back, lambda folder: later_form(folder / "versions" / "9.duckdb"), "9.duckdb is not a published"),
    ],
)
def test_what_is_in_the_way_is_one_line(
    home: Settings, act: Callable[[Settings], object], spoil: Callable[[Path], None], message: str
) -> None:
    publish(home)
    build(home, "second", price=20)
    publish(home)
    build(home, "third", price=30)
    spoil(home.published_file.parent)
    with pytest.raises(UserError, match=message) as refusal:
        act(home)
    assert "\n" not in str(refusal.value)
    assert prices(home.published_file) == {20}


def later_form(file: Path) -> None:
    """A version that says more of itself than this project knows."""
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "create schema meta; create table meta.publish_info as select 9::bigint as version, 'a' as invocation_id,"
            " 1::bigint as load_bound, now() as published_at, 'demo_shop' as shop, 'plain' as personal_data, 1 as more"
        )


def test_an_address_that_is_never_null_is_published_as_null(home: Settings) -> None:
    with duckdb.connect(str(home.marts_file)) as connection:
        connection.execute(
            "create table dim_shops (shop_id integer not null, street varchar not null);"
            "insert into dim_shops values (1, 'Elm Street'); insert into ops.models values ('dim_shops');"
            "insert into ops.personal_columns values ('dim_shops', 'street', 'address')"
        )
    publish(home)
    with duckdb.connect(str(home.published_file), read_only=True) as connection:
        assert connection.execute("from dim_shops").fetchall() == [(1, None)]


def test_what_duckdb_refuses_is_one_line(home: Settings) -> None:
    with duckdb.connect(str(home.marts_file)) as connection:
        connection.execute("alter table dim_customers alter column age type varchar")
    with pytest.raises(UserError, match=r"could not be published: Binder Error.*stays as it was") as refusal:
        publish(home)
    assert "\n" not in str(refusal.value)
