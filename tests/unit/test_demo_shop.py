"""The demo shop's files: the same from the same seed, whole after a crash, and dirty in every documented way."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ingestion.demo_shop import files, reading, shop
from ingestion.demo_shop.chance import Dice
from ingestion.demo_shop.cli import main
from ingestion.demo_shop.streams import FIRST_BURST_EVENT, Streams
from ingestion.demo_shop.world import Config, World
from ingestion.errors import UserError

START = date(2024, 11, 1)
SMALL = Config(seed=3, start=START, days=20, lines=2_000)
ENTITIES = [stream.entity for stream in files.STREAMS]


def quiet(_: str) -> None:
    """Takes the shop's progress lines."""


def text_of(path: Path) -> str:
    """A text file's content."""
    if path.suffix == ".zst":
        return pa.CompressedInputStream(pa.py_buffer(path.read_bytes()), "zstd").read().decode()
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def contents(source: Path) -> dict[str, bytes]:
    """Every file below a folder, byte by byte."""
    return {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}


def rows_of(source: Path) -> dict[str, Counter[str]]:
    """Every record of each stream, however the files are cut; headers left out."""
    rows: dict[str, Counter[str]] = {entity: Counter() for entity in ENTITIES}
    for path in files.own_files(source):
        if path.suffix == ".parquet":
            rows["events"].update(map(str, pq.read_table(path).to_pylist()))
        else:
            rows[path.parent.name].update(text_of(path).splitlines()[".csv" in path.name :])
    return rows


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WAREHOUSE_HOME of a small shop; not to be changed."""
    home = tmp_path_factory.mktemp("small")
    shop.init(SMALL, home, home / "source", say=quiet)
    return home


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source folder of a shop large enough for every rare fault, over Black Friday and the turn of the year."""
    home = tmp_path_factory.mktemp("dirty")
    shop.init(Config(seed=1, start=date(2024, 10, 20), days=150, lines=30_000), home, home / "source", say=quiet)
    return home / "source"


@pytest.fixture(scope="module")
def good(dirty: Path) -> reading.Source:
    """The same, read."""
    return reading.read(dirty)


# The same seed


def test_the_same_seed_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    shop.init(SMALL, tmp_path, tmp_path / "source", say=quiet)
    assert len(contents(tmp_path / "source")) == len(ENTITIES)
    assert contents(tmp_path / "source") == contents(small / "source")


def test_another_seed_gives_another_shop(small: Path, tmp_path: Path) -> None:
    shop.init(Config(4, START, 20, 2_000), tmp_path, tmp_path / "source", say=quiet)
    ours, theirs = contents(tmp_path / "source"), contents(small / "source")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours)


def test_the_shop_of_a_seed_is_the_same_on_every_machine_and_version(small: Path) -> None:
    # A change here is a change of every demo warehouse: their files will be taken up as new versions.
    digest = hashlib.sha256()
    for path in files.own_files(small / "source"):
        if path.suffix != ".parquet":
            digest.update(text_of(path).encode())
    assert digest.hexdigest() == "7156d341cbc7b4c813363085a19e77655b73775dd841605cd19b247898c178bb"


def test_dice_are_splitmix64() -> None:
    # The generator's published first output for the state 0 is the mix of one golden step.
    dice = Dice(0)
    dice._keys["plain"] = np.uint64(0)
    assert int(dice.bits("plain", np.array([1]))[0]) == 0xE220A8397B1DCDAF >> 32


def test_rolls_are_even() -> None:
    rolls = Dice(5).roll("even", np.arange(60_000), 6)
    counts = np.bincount(rolls)
    assert len(counts) == 6
    assert (abs(counts - 10_000) < 500).all()


# One day on


@pytest.mark.parametrize("entity", ENTITIES)
def test_the_rows_of_a_span_are_the_rows_of_its_days(entity: str) -> None:
    streams = Streams(World(SMALL, 60), 60)
    rows = getattr(streams, entity)
    whole = Counter(map(str, rows(0, 60).to_pylist()))
    days = Counter(row for day in range(60) for row in map(str, rows(day, day + 1).to_pylist()))
    assert whole.total() > 50
    assert whole == days


def test_init_of_all_days_equals_init_of_some_and_advance(small: Path, tmp_path: Path) -> None:
    # The pace, lines per day, must be the same.
    shop.init(Config(3, START, 17, 1_700), tmp_path, tmp_path / "source", say=quiet)
    for _ in range(3):
        shop.advance(tmp_path, tmp_path / "source", say=quiet)
    assert (tmp_path / "source/orders/2024-11-20.csv").exists()
    assert rows_of(tmp_path / "source") == rows_of(small / "source")
    assert min(rows.total() for rows in rows_of(small / "source").values()) > 10


def test_advance_after_a_crash_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.init(Config(3, START, 10, 2_000), tmp_path / "begun", tmp_path / "begun/source", say=quiet)

    def opened(name: str) -> tuple[Path, Path]:
        shutil.copytree(tmp_path / "begun", tmp_path / name)
        return tmp_path / name, tmp_path / name / "source"

    home, data = opened("undisturbed")
    shop.advance(home, data, say=quiet)
    expected = contents(home)
    day_files = sum(name.split("/")[-1].startswith("2024-11-11.") for name in expected)
    assert day_files >= 6

    # The steps of a day are one rename per file and one for the memory: stop before each of them.
    real_replace = Path.replace
    for survived in range(day_files + 1):
        home, data = opened(f"crash {survived}")
        calls = iter(range(1000))

        def failing(path: Path, target: Path, calls=calls, survived=survived) -> Path:
            if next(calls) == survived:
                raise OSError("the machine stops here")
            return real_replace(path, target)

        monkeypatch.setattr(Path, "replace", failing)
        with pytest.raises(OSError, match="the machine stops here"):
            shop.advance(home, data, say=quiet)
        monkeypatch.setattr(Path, "replace", real_replace)
        assert shop.Memory.load(home).reached == 10
        shop.advance(home, data, say=quiet)
        assert contents(home) == expected, f"after {survived} renames"


# Opening a shop


def test_init_refuses_an_existing_shop_and_force_replaces_it(tmp_path: Path) -> None:
    data = tmp_path / "source"
    shop.init(SMALL, tmp_path, data, say=quiet)
    shop.advance(tmp_path, data, say=quiet)
    with pytest.raises(UserError, match="exists already"):
        shop.init(SMALL, tmp_path, data, say=quiet)
    shop.init(SMALL, tmp_path, data, force=True, say=quiet)
    assert not (data / "orders/2024-11-21.csv").exists()
    assert shop.Memory.load(tmp_path).reached == SMALL.days


def test_init_does_not_touch_files_of_a_shop_it_does_not_know(tmp_path: Path) -> None:
    strange = tmp_path / "source/orders/2023-01.csv"
    strange.parent.mkdir(parents=True)
    strange.write_text("mine\n")
    with pytest.raises(UserError, match=re.escape("orders/2023-01.csv")):
        shop.init(SMALL, tmp_path, tmp_path / "source", say=quiet)
    assert strange.read_text() == "mine\n"


def test_an_interrupted_init_is_repeated(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    data = tmp_path / "source"
    with monkeypatch.context() as patch:
        patch.setattr(shop, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            shop.init(SMALL, tmp_path, data, say=quiet)
    (data / "orders").mkdir(parents=True)
    (data / "orders/2024-11-30.csv").write_text("half a file of the first attempt")
    with pytest.raises(UserError, match="demo-shop init"):
        shop.advance(tmp_path, data, say=quiet)
    shop.init(SMALL, tmp_path, data, say=quiet)
    assert contents(data) == contents(small / "source")


def test_the_command_reports_a_mistake_in_one_line(tmp_path: Path) -> None:
    environment = {"WAREHOUSE_HOME": str(tmp_path), "WAREHOUSE_DATA": ""}
    result = CliRunner().invoke(main, ["advance"], env=environment)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path} holds no demo shop yet")
    assert result.output.count("\n") == 1


def test_the_commands_write_files_days_and_truth(tmp_path: Path) -> None:
    environment = {"WAREHOUSE_HOME": str(tmp_path), "WAREHOUSE_DATA": str(tmp_path / "elsewhere")}
    for arguments in (
        ["init", "--start", "2024-11-01", "--days", "3", "--lines", "300"],
        ["advance", "--days", "2"],
        ["truth", "--out", str(tmp_path / "truth")],
    ):
        result = CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "elsewhere/orders/2024-11-05.csv").exists()
    facts = pq.read_table(tmp_path / "truth/fact_orders.parquet")
    assert facts.num_rows > 100
    assert facts.schema.field("amount").type == pa.decimal128(18, 4)
    assert set(json.loads((tmp_path / "truth/quarantine.json").read_text())) == {
        stream.name for stream in files.STREAMS
    }


def test_a_shop_without_customers_yet_has_a_truth(tmp_path: Path) -> None:
    environment = {"WAREHOUSE_HOME": str(tmp_path), "WAREHOUSE_DATA": ""}
    for arguments in (["init", "--days", "700", "--lines", "1"], ["truth", "--out", str(tmp_path / "truth")]):
        result = CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "truth/dim_products.parquet").num_rows > 40


# Size and shape


def test_the_default_size_is_about_what_is_asked_for() -> None:
    config = Config(7, date(2024, 7, 1), 730, 100_000)
    world = World(config, 730)
    assert abs(len(world.lines_of(world.orders_of(0, 730))) - 100_000) < 5_000


def test_sales_follow_weekdays_months_and_black_friday() -> None:
    config = Config(7, date(2024, 7, 1), 730, 1_000_000)
    world = World(config, 730)
    orders = pd.Series(
        [len(world.orders_of(day, day + 1)) for day in range(730)], pd.date_range("2024-07-01", periods=730)
    )
    assert orders[orders.index.day_of_week == 6].mean() > 1.1 * orders[orders.index.day_of_week == 2].mean()
    assert orders["2025-12"].mean() > 1.2 * orders["2025-08"].mean()
    assert orders["2025-11-28"] > 2 * orders["2025-11-21"]
    assert orders["2025-12-25"] < 0.8 * orders["2025-12-18"]


def test_few_products_make_most_sales() -> None:
    world = World(SMALL, 20)
    products = world.line_product(world.lines_of(world.orders_of(0, 20)))
    counts = np.sort(np.bincount(products))[::-1]
    assert len(counts) > 100
    assert counts[:20].sum() > 0.3 * counts.sum()


def test_history_is_monthly_and_compressed_and_days_are_plain(tmp_path: Path) -> None:
    data = tmp_path / "source"
    shop.init(Config(1, date(2024, 12, 20), 40, 4_000), tmp_path, data, say=quiet)
    shop.advance(tmp_path, data, say=quiet)
    expected = {
        f"{stream.entity}/{label}.{ending}"
        for stream in files.STREAMS
        for label, ending in (("2024-12", stream.history), ("2025-01", stream.history), ("2025-01-29", stream.daily))
    }
    # A day without any change of a product leaves no file of products.
    assert set(contents(data)) == expected - {"products/2025-01-29.jsonl"}


def test_amounts_stay_within_bounds(good: reading.Source) -> None:
    lines = good.tables["order_items"]
    amount = lines["quantity"] * lines["unit_price"] - lines["discount"]
    assert amount.min() == 0
    assert 1_000_0000 < amount.max() < 1_000_000_0000
    assert (lines["unit_price"] % 100 == 0).all()
    assert (good.tables["refunds"]["amount"] > 0).all()


def test_versions_with_one_time_are_identical(good: reading.Source) -> None:
    keys = {"orders": "order_id", "order_items": "order_line_id", "refunds": "refund_id", "users": "user_id"}
    for entity, key in (keys | {"products": "product_id"}).items():
        versions = good.tables[entity].drop_duplicates()
        assert len(versions) > 100
        assert not versions.duplicated([key, "updated_at"]).any(), entity


# The dirt


def column(source: Path, entity: str, name: str) -> list[str | None]:
    """One column's raw texts (null is None), of good and broken records that can be split into fields."""
    values: list[str | None] = []
    for path in files.own_files(source):
        if path.parent.name != entity:
            continue
        if ".csv" in path.name:
            for record in csv.DictReader(io.StringIO(text_of(path))):
                values.append(record[name])
        else:
            for line in text_of(path).splitlines():
                if line.startswith("{") and line.endswith("}"):
                    value = json.loads(line)[name]
                    values.append(None if value is None else str(value))
    return values


@pytest.mark.parametrize(
    ("entity", "name", "patterns"),
    [
        ("users", "email", [r"[a-z0-9.@-]+", r"[A-Z0-9.@-]+", r"[A-Z][a-z0-9.@-]+", r" +\S+ +", r".*\(at\).*", r"[^@]+",
                            r".*@localhost", r""]),
        ("users", "phone", [r"\+49 .*", r"\(0\d+\) .*", r"0049-.*", r"0\d+/.*", r"\d+", r"n/a", r""]),
        ("users", "age", [r"\d\d", r"0", r"-1", r"150", r"thirty", r"n/a", r"unknown", r"34\.5", r""]),
        ("users", "country", [r"\S+", r" +\S+ +"]),
        ("products", "name", [r"\S.*\S", r" +\S.*\S +"]),
        ("products", "category", [r"\S.*\S", r"\S.*\S +"]),
        ("products", "price", [r"\d+", r"\d+\.\d", r"\d+\.\d\d"]),
        ("orders", "shipping_cost", [r"0", r"0\.00", r"4\.9", r"4\.90"]),
        ("order_items", "unit_price", [r"\d+", r"\d+\.\d", r"\d+\.\d\d", r"0"]),
        ("orders", "cancelled_at", [r"", r"\d{4}-.*Z"]),
        ("refunds", "reason", [r"", r"damaged"]),
    ],
)  # fmt: skip
def test_values_are_written_in_every_way(dirty: Path, entity: str, name: str, patterns: list[str]) -> None:
    values = [value for value in column(dirty, entity, name) if value is not None]
    missing = [pattern for pattern in patterns if not any(re.fullmatch(pattern, value) for value in values)]
    assert missing == []


@pytest.mark.parametrize("name", ["email", "phone", "age"])
def test_some_users_leave_out(dirty: Path, name: str) -> None:
    assert 0.005 < column(dirty, "users", name).count(None) / len(column(dirty, "users", name)) < 0.2


@pytest.mark.parametrize(("entity", "name"), [("orders", "ordered_at"), ("users", "registered_at")])
def test_moments_are_written_in_all_formats(dirty: Path, entity: str, name: str) -> None:
    day, time = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d"
    formats = [
        *(rf"{day}T{time}Z", rf"{day} {time}", rf"{day} {time}\.\d+", rf"{day} {time}\+02:00", day),
        *(r"\d\d/\d\d/\d{4} \d\d:\d\d", rf"\d\d/\d\d/\d{{4}} {time}", r"\d{4}/\d\d/\d\d \d\d:\d\d"),
        *(
            rf"\d{{4}}/\d\d/\d\d {time}",
            r"[A-Z][a-z]{2} \d\d, \d{4} \d\d:\d\d",
            rf"[A-Z][a-z]{{2}} \d\d, \d{{4}} {time}",
        ),
        *(r"\d{10}", r"\d{13}"),
    ]
    values = [value for value in column(dirty, entity, name) if value]
    counts = {form: sum(bool(re.fullmatch(form, value)) for value in values) for form in formats}
    assert min(counts.values()) > 0, counts


def test_status_words_come_in_all_spellings(dirty: Path) -> None:
    words = set(column(dirty, "orders", "status"))
    for word in ("pending", "open", "new", "awaiting payment", "completed", "complete", "shipped", "paid", "delivered",
                 "cancelled", "canceled", "void"):  # fmt: skip
        assert {word, word.upper(), word.title(), f" {word} "} <= words


def arrival_order(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Versions in the order of the files, without repeats."""
    return table.drop_duplicates().assign(earlier=lambda t: t["updated_at"] < t.groupby(key)["updated_at"].cummax())


def test_older_versions_arrive_after_newer_ones(good: reading.Source) -> None:
    assert arrival_order(good.tables["orders"], "order_id")["earlier"].sum() > 20
    assert arrival_order(good.tables["users"], "user_id")["earlier"].sum() > 0


def test_rows_are_repeated(dirty: Path, good: reading.Source) -> None:
    assert good.tables["users"].duplicated().sum() > 20
    assert good.tables["orders"].duplicated().sum() > 20
    november = text_of(dirty / "users/2024-11.jsonl.gz").splitlines()
    assert len(november) > len(set(november))
    december = set(text_of(dirty / "users/2024-12.jsonl.gz").splitlines())
    assert december & set(november)


def test_events_come_late_and_repeated_and_from_strangers(dirty: Path) -> None:
    events = pa.concat_tables([pq.read_table(path) for path in sorted((dirty / "events").glob("*"))]).to_pandas()
    assert (events["received_at"] - events["occurred_at"] > pd.Timedelta(hours=1)).sum() > 100
    assert events.duplicated().sum() > 100
    assert events.drop_duplicates().duplicated("event_id").sum() > 100
    assert events["user_id"].isna().mean() > 0.1
    assert set(events["event_type"]) == {"purchase", "add_to_cart", "view", "click"}
    assert 2 < len(events) / 30_000 < 3


@pytest.mark.parametrize(
    ("config", "days"),
    [
        (Config(3, START, 3, 30), 3),
        (Config(3, START, 120, 4_000), 120),
        (Config(5, START, 730, 100), 120),
        (Config(5, START, 60, 90_000), 30),
    ],
    ids=["three days", "small", "nearly no sales", "busy"],
)
def test_now_and_then_a_product_goes_viral_for_an_hour(config: Config, days: int) -> None:
    world = World(config, days)
    events = Streams(world, days).events(0, days).to_pandas().drop_duplicates("event_id")
    clicks = events[events["event_id"] >= FIRST_BURST_EVENT].assign(burst=lambda table: table["event_id"] // 1000)
    bursts = clicks.groupby("burst").agg(
        first=("occurred_at", "min"), last=("occurred_at", "max"), products=("product_id", "nunique"),
        product=("product_id", "min"), clicks=("event_id", "size"), known=("user_id", "count"),
    )  # fmt: skip
    period = 7 if config.lines // config.days >= 1000 else 28
    assert max(1, days // period) <= len(bursts) <= days // period + 1
    # Not 120: of the last day's, some are yet to come.
    assert bursts["clicks"].between(110, 300).all()
    assert (bursts["last"] - bursts["first"] < pd.Timedelta(hours=1)).all()
    assert (bursts["products"] == 1).all()
    assert (bursts["known"] / bursts["clicks"]).between(0.1, 0.4).all()
    assert set(clicks["event_type"]) == {"click", "view"}
    assert (clicks["user_id"].dropna() <= world.users_until(np.array([days]))[0]).all()


def test_a_product_goes_viral_within_three_days_whatever_the_seed() -> None:
    first = [World(Config(seed, START, 3, 3_000), 3).bursts_of(0, 3) for seed in range(30)]
    assert all(len(bursts) == 1 for bursts in first)


def test_products_that_go_viral_are_in_the_catalogue_throughout() -> None:
    world = World(Config(4, START, 1_400, 1_400_000), 1_400)
    assert len(world.bursts_of(0, 1_400)) == 200
    products = world.burst_product(np.arange(20_000))
    assert len(set(products)) > 300
    assert (world.deleted_on(products) > 1_400).all()
    assert (world.product_launch[products] < 0).all()
    assert world.missing_product not in products


def test_bursts_are_few_among_the_clicks_of_a_small_shop(dirty: Path) -> None:
    events = pa.concat_tables([pq.read_table(path) for path in sorted((dirty / "events").glob("*"))]).to_pandas()
    assert 0.005 < (events["event_id"] >= FIRST_BURST_EVENT).mean() < 0.03


@pytest.mark.parametrize("entity", ["users", "products", "orders", "order_items", "refunds"])
def test_some_are_deleted(good: reading.Source, entity: str) -> None:
    assert good.tables[entity]["deleted_at"].notna().sum() > 0


def test_prices_and_lines_change(good: reading.Source) -> None:
    prices = good.tables["products"].groupby("product_id")["price"].nunique()
    assert (prices > 1).sum() > 20
    quantities = good.tables["order_items"].groupby("order_line_id")["quantity"].nunique()
    assert (quantities > 1).sum() > 20


def test_orders_are_cancelled_refunded_and_sometimes_both(good: reading.Source) -> None:
    orders, refunds = good.tables["orders"], good.tables["refunds"]
    cancelled = orders[orders["status"].str.strip().str.lower().isin(["cancelled", "canceled", "void"])]
    assert cancelled["cancelled_at"].notna().sum() > 100
    assert cancelled["cancelled_at"].isna().sum() > 0
    first = refunds.drop_duplicates("refund_id")
    assert first.duplicated("order_line_id").sum() > 0
    both = first.merge(cancelled, on="order_id")
    assert len(both) > 0
    assert (both["refunded_at"] < both["cancelled_at"].fillna(both["updated_at_y"])).all()


def test_gifts_free_shipping_and_the_same_product_twice_occur(good: reading.Source) -> None:
    lines, orders = good.tables["order_items"], good.tables["orders"]
    amount = lines["quantity"] * lines["unit_price"] - lines["discount"]
    gifts = amount.groupby(lines["order_id"]).max()
    assert (gifts == 0).sum() > 10
    assert (orders["shipping_cost"] == 0).mean() > 0.1
    assert lines.drop_duplicates("order_line_id").duplicated(["order_id", "product_id"]).sum() > 100


def test_some_references_arrive_late_and_some_never(dirty: Path, good: reading.Source) -> None:
    users, products = set(good.tables["users"]["user_id"]), set(good.tables["products"]["product_id"])
    orders, lines = good.tables["orders"], good.tables["order_items"]
    assert (~orders["user_id"].isin(users)).sum() > 0
    assert (~lines["product_id"].isin(products)).sum() > 0
    assert (~lines["order_id"].isin(orders["order_id"])).sum() > 0
    assert (~orders["order_id"].isin(lines["order_id"])).sum() > 0
    assert (~good.tables["refunds"]["order_line_id"].isin(lines["order_line_id"])).sum() > 0

    def until_november(entity: str, key: str) -> set[str]:
        return {
            field
            for path in files.own_files(dirty)
            if path.parent.name == entity and path.name < "2024-12"
            for field in re.findall(rf'"{key}":(\d+)' if entity == "users" else r"(?m)^(\d+),", text_of(path))
        }

    # In November's last days: known by number, delivered in December or later.
    known_orders = until_november("orders", "order_id")
    november_lines = {line[:-1] for line in until_november("order_items", "order_line_id")}
    later = set(orders["order_id"].astype(str)) - known_orders
    assert november_lines & later
    ordered = orders[orders["updated_at"] < "2024-12-01"]["user_id"].astype(str)
    assert set(ordered) - until_november("users", "user_id") & set(map(str, users))


def test_broken_records_come_in_every_kind(good: reading.Source) -> None:
    reasons = {stream: {record["reason"] for record in broken} for stream, broken in good.quarantine.items()}
    assert reasons.pop("web-events") == set()
    assert min(len(kinds) for kinds in reasons.values()) >= 2
    everything = set().union(*reasons.values())
    for part in ("fields instead of", "is missing", "no JSON", "is no integer", "is no money", "is no moment"):
        assert any(part in reason for reason in everything), part
    counts = {stream: len(broken) for stream, broken in good.quarantine.items()}
    for entity, table in good.tables.items():
        stream = next(stream.name for stream in files.STREAMS if stream.entity == entity)
        assert 0 < counts[stream] < 0.05 * len(table)
