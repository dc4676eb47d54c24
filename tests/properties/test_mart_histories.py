"""Random histories of a shop: incremental marts = full-refresh marts = the truth, all columns of all rows.

A dbt run costs seconds however little it builds, so that 25 histories share one warehouse: each has ids of its own, and
its rows are drawn independently of the others'. They are split into the same two to four loads per stream, and what is
global in a mart (the median age, the last day, scores, sums of days) is that of their union. Thresholds of trending
products and recommendations are small, so that histories this small reach them.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings

from ingestion.demo_shop import truth, truth_customers, truth_engagement
from tests.integration.dbt_warehouse import STREAMS, DbtWarehouse
from tests.oracles import demo_shop_raw
from tests.oracles.demo_shop_raw import Received
from tests.pipeline import MART_KEYS, ROOT, differences, read_marts, read_truth
from tests.properties.shop_histories import ID_COLUMNS, IDS_OF_A_HISTORY, TWELFTHS, History, histories, received

HISTORIES_OF_A_WAREHOUSE = 25
WAREHOUSES_IN_FULL = 40
REDUCTION_SECONDS = 240
"""How long a difference is reduced."""

THRESHOLDS = (
    (truth_customers, "recommendation_orders_min", 1),
    (truth_customers, "recommendations_per_product", 1),
    (truth_customers, "basket_products_max", 2),
    (truth_engagement, "trending_clicks_min", 2),
)
VARS = ("--vars", "{" + ", ".join(f"{name}: {value}" for _, name, value in THRESHOLDS) + "}")
FIRST_BUILD = ("build", "--resource-type", "model", "seed", *VARS)
NEXT_BUILD = ("run", "--exclude", "staging", *VARS)

Marts = dict[str, pd.DataFrame]


def drawn(first: int, count: int) -> list[History]:
    """Histories number `first` and the following, each always the same, and drawn on its own.

    One run of hypothesis over all of them would make most of them by changing the one before.
    """
    return [_drawn(number) for number in range(first, first + count)]


def _drawn(number: int) -> History:
    found: list[History] = []

    # The first example is the smallest; the second is the first that is random.
    @seed(number)
    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories())
    def collect(history: History) -> None:
        found.append(history)

    collect()
    return found[-1]


def commit(warehouse: DbtWarehouse, rows: Sequence[Received]) -> None:
    """Append rows to raw, in this order, with their loads in the ledger."""
    with warehouse.connect() as connection:
        connection.execute("begin")
        for stream, columns in STREAMS.items():
            of_stream = [row for row in rows if row.stream == stream]
            source, table = stream.split(".")
            texts = {name: [row.texts.get(name) for row in of_stream] for name in columns.split()}
            metadata = {
                "_sdc_extracted_at": [f"{row.extracted_at}Z" for row in of_stream],
                "_sdc_deleted_at": [row.deleted_at and f"{row.deleted_at}Z" for row in of_stream],
                "_sdc_sequence": [str(row.sequence) for row in of_stream],
                "_sdc_load_id": [str(row.load_id) for row in of_stream],
                "_sdc_operation": [row.operation for row in of_stream],
                "_sdc_row_hash": [row.row_hash for row in of_stream],
                "_sdc_source_file": [row.file for row in of_stream],
                "_sdc_occurrence": [row.occurrence and str(row.occurrence) for row in of_stream],
            }
            connection.register("received", pd.DataFrame(texts | metadata, dtype="string"))
            connection.execute(f"insert into raw_{source}.{table} by name select * from received")
            for load_id in sorted({row.load_id for row in of_stream}):
                loaded = sum(row.load_id == load_id for row in of_stream)
                connection.execute(
                    "insert into ops.loads values (?, ?, ?, ?, 'batch', ?, ?, 0, 0, null, null, now(), now())",
                    [load_id, str(load_id), source, table, loaded, loaded],
                )
        connection.execute("commit")


def with_threads(warehouse: DbtWarehouse, threads: int) -> DbtWarehouse:
    """The warehouse, with so many threads of dbt and of DuckDB."""
    folder = warehouse.home / "profiles"
    folder.mkdir()
    profiles = yaml.safe_load((ROOT / "dbt_project" / "profiles.yml").read_text())
    output = profiles["warehouse"]["outputs"]["dev"]
    assert output["threads"] == output["settings"]["threads"] == 2
    output["threads"] = output["settings"]["threads"] = threads
    (folder / "profiles.yml").write_text(yaml.safe_dump(profiles, width=2000))
    return DbtWarehouse(warehouse.home, warehouse.project, folder)


#: Of each entity of the demo shop: its key, and what the recount and the current rows say of a key that is not deleted.
RECOUNTED = {
    "orders": ("order_id", "ordered_at cancelled_at shipping_cost"),
    "order_items": ("order_line_id", "coalesce(order_id,-1) amount created_at"),
    "refunds": ("refund_id", "order_line_id coalesce(order_id,-1) amount shipping_amount refunded_at"),
    "events": ("event_id", "event_type product_id occurred_at"),
    "users": ("user_id", ""),
    "products": ("product_id", ""),
}


def disagreements(warehouse: DbtWarehouse) -> list[tuple]:
    """Keys of which the recount (for the audits) and the current rows (for the marts) say something else."""
    found = []
    for entity, (key, columns) in RECOUNTED.items():
        contents = ", ".join(f"case when not is_deleted then {column} end" for column in columns.split())
        rows = f"select '{entity}', {key}, is_deleted, _first_load_id" + (f", {contents}" if contents else "")
        current = f"(select *, deleted_at is not null as is_deleted from intermediate.int_{entity}__current)"
        one, other = f"{rows} from intermediate.int_{entity}__recounted", f"{rows} from {current}"
        found += warehouse.query(f"({one} except all {other}) union all ({other} except all {one})", "warehouse.duckdb")
    return found


def marts_of(warehouse: DbtWarehouse) -> Marts:
    """The marts; and the recount of the same build agrees with the current rows."""
    assert disagreements(warehouse) == []
    return read_marts(warehouse.home / "marts.duckdb")


class Build:
    """A warehouse that receives histories; `number` decides in how many rounds, and which loads are late."""

    def __init__(self, all_histories: Sequence[History], number: int, home: Path) -> None:
        chance = random.Random(number)
        self.home = home
        self.rounds = 2 + number % 3
        late = [(turn, stream) for turn in range(1, self.rounds) for stream in STREAMS if chance.random() < 0.3]
        # A reduced history may have nothing to say in a round.
        self.received = [rows for rows in received(all_histories, self.rounds, late) if rows]
        self.rows = list(itertools.chain(*self.received))
        self.warehouse = DbtWarehouse.create(home / "warehouse")

    def truth(self) -> Marts:
        """The marts as the oracle has them."""
        folder = self.home / "truth"
        folder.mkdir()
        for name, table in truth.marts(demo_shop_raw.source(self.rows)).items():
            pq.write_table(truth._arrow(table), folder / f"{name}.parquet")
        return read_truth(folder)

    def incremental(self) -> Marts:
        """The marts after a build for each round of loads."""
        self.warehouse.parse()
        for turn, rows in enumerate(self.received):
            commit(self.warehouse, rows)
            self.warehouse.dbt(*(FIRST_BUILD if turn == 0 else NEXT_BUILD))
        return marts_of(self.warehouse)

    def repeated(self) -> Marts:
        """The marts after one more build, without news."""
        self.warehouse.dbt(*NEXT_BUILD)
        return marts_of(self.warehouse)

    def refreshed(self) -> Marts:
        """The marts of a full refresh, on four threads."""
        copy = with_threads(self.warehouse.copy(self.home / "refreshed"), 4)
        copy.dbt(*NEXT_BUILD, "--full-refresh")
        return marts_of(copy)

    def reordered(self) -> Marts:
        """The marts of a first build on one thread, of raw whose rows and loads are in another order.

        The loads of one stream keep their order among themselves: it is part of what they say.
        """
        chance = random.Random(len(self.rows))
        loads = {stream: sorted({row.load_id for row in self.rows if row.stream == stream}) for stream in STREAMS}
        turns = [stream for stream in STREAMS for _ in loads[stream]]
        chance.shuffle(turns)
        new_ids = {loads[stream].pop(0): number for number, stream in enumerate(turns, start=1)}
        rows = [replace(row, load_id=new_ids[row.load_id]) for row in self.rows]
        chance.shuffle(rows)
        other = with_threads(DbtWarehouse.create(self.home / "reordered"), 1)
        commit(other, rows)
        other.dbt(*FIRST_BUILD)
        return marts_of(other)


#: In this order: a full refresh and a build without news start where the incremental builds ended.
WAYS = ("incremental", "repeated", "refreshed", "reordered")


def histories_that_differ(left: Marts, right: Marts) -> set[int]:
    """Which histories have rows of their own that differ, counted from 0."""
    found: set[int] = set()
    for name in MART_KEYS:
        merged = left[name].merge(right[name], how="outer", indicator=True)
        rows = merged[merged["_merge"] != "both"]
        for column in ID_COLUMNS & set(rows.columns):
            ids = pd.to_numeric(rows[column]).dropna().astype(int)
            found |= set(ids[ids >= IDS_OF_A_HISTORY] // IDS_OF_A_HISTORY - 1)
    return found


def compared(candidates: Sequence[History], number: int, way: str, home: Path) -> tuple[Marts, Marts]:
    """The marts of a new warehouse with these histories, built in a way, and the truth."""
    build = Build(candidates, number, home)
    try:
        found = {name: getattr(build, name)() for name in WAYS[: WAYS.index(way) + 1]}
        return found[way], build.truth()
    finally:
        shutil.rmtree(home)


def culprits(all_histories: Sequence[History], number: int, way: str, home: Path) -> Sequence[History]:
    """As few histories as make a difference that no row of their own shows, only a mart of all of them."""
    while len(all_histories) > 1:
        half = len(all_histories) // 2
        for part in (all_histories[:half], all_histories[half:]):
            if differences(*compared(part, number, way, home)):
                all_histories = part
                break
        else:
            break
    return all_histories


def reduced(history: History, number: int, way: str, home: Path) -> History:
    """As few rows of a history as still differ, tried in as many warehouses as there is time for.

    A warehouse holds 25 histories, so it tells at once of 25 parts whether the history differs without them.
    """
    parts, deadline = HISTORIES_OF_A_WAREHOUSE, time.monotonic() + REDUCTION_SECONDS

    def differ(candidates: Sequence[History]) -> list[bool]:
        different = histories_that_differ(*compared(candidates, number, way, home))
        return [place in different for place in range(len(candidates))]

    while len(history) > 1 and time.monotonic() < deadline:
        bounds = sorted({len(history) * part // parts for part in range(parts + 1)})
        chunks = list(itertools.pairwise(bounds))
        needless = [
            chunk
            for chunk, is_same in zip(
                chunks, differ([history[:first] + history[last:] for first, last in chunks]), strict=True
            )
            if is_same
        ]
        # Each of them alone can go; now as many of them together as can.
        together = [without(history, needless[:count]) for count in range(1, len(needless) + 1)]
        smaller = [one for one, is_same in zip(together, differ(together), strict=True) if is_same] if together else []
        if not smaller:
            break
        history = smaller[-1]
    return history


def without(history: History, chunks: Sequence[tuple[int, int]]) -> History:
    """A history but for the rows of some ranges."""
    gone = {place for first, last in chunks for place in range(first, last)}
    return [row for place, row in enumerate(history) if place not in gone]


def told(history: History, rounds: int) -> str:
    """The rows of a history, for people: round, operation, stream, where it is from, what it says (ids from 1)."""
    return "\n".join(
        f"  round {row.twelfth * rounds // TWELFTHS}: {row.operation} {row.stream} "
        f"({row.file or 'database'}, {row.occurrence}{f', deleted {row.deleted_at}' if row.deleted_at else ''}) "
        + ", ".join(f"{name}={cell.text.format(cell.value)!r}" for name, cell in row.cells.items())
        for row in sorted(history, key=lambda row: row.twelfth)
    )


def check(number: int, home: Path) -> int:
    """Build warehouse `number` in all ways and compare them with the truth; returns how many rows raw got."""
    histories_here = drawn(number * HISTORIES_OF_A_WAREHOUSE, HISTORIES_OF_A_WAREHOUSE)
    build = Build(histories_here, number, home / "all")
    expected = build.truth()
    missing = [name for name in MART_KEYS if len(expected[name]) < 2]
    assert not missing, f"nothing to compare in {missing}"
    for way in WAYS:
        marts = getattr(build, way)()
        found = differences(marts, expected)
        if found:
            message = [f"warehouse {number}, {way} (left) against the truth (right):", *found]
            print("\n".join(message))  # Before it is reduced, which takes its time.
            places = sorted(histories_that_differ(marts, expected))
            if places:
                message += [f"The history of the ids from {(places[0] + 1) * IDS_OF_A_HISTORY} on, reduced:"]
                message += [told(reduced(histories_here[places[0]], number, way, home / "reduced"), build.rounds)]
            else:
                for history in culprits(histories_here, number, way, home / "reduced"):
                    message += ["A history with which it differs:", told(history, build.rounds)]
            pytest.fail("\n".join(message), pytrace=False)
    return len(build.rows)


def test_marts_of_any_history_are_the_truth(
    full: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in THRESHOLDS:
        monkeypatch.setattr(module, name.upper(), value)
    started = time.monotonic()
    warehouses = WAREHOUSES_IN_FULL if full else 1
    rows = 0
    for number in range(1, warehouses + 1):
        rows += check(number, tmp_path / str(number))
        shutil.rmtree(tmp_path / str(number))
        if full:
            with capsys.disabled():
                count, seconds = number * HISTORIES_OF_A_WAREHOUSE, time.monotonic() - started
                print(f"\n{count} histories of {rows} rows in {number} warehouses: {seconds:.0f} s", end="", flush=True)
