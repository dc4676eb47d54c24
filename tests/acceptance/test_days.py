"""Day after day: `demo-shop advance`, `meltano run daily`, and the marts hold the truth.

Quick size: one day after the first load. `--full`: 20 days.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb

from tests.pipeline import MART_KEYS, Pipeline, differences, read_marts, read_truth

LINES = 4000
HISTORY_DAYS = 120
# The design's query; it must work unchanged on every engine.
QUERY = """
    select d.year, d.month, p.category, sum(f.amount) as total_sales, count(distinct f.user_id) as unique_customers
    from fact_orders f
    join dim_date d on f.date_id = d.date_id
    join dim_products p on f.product_id = p.product_id
    where d.year = 2025
    group by d.year, d.month, p.category order by total_sales desc
"""


def query_truth(folder: Path) -> list[tuple]:
    """The design's query over the truth's Parquet files."""
    with duckdb.connect() as truth:
        for name in ("fact_orders", "dim_date", "dim_products"):
            truth.execute(f"create view {name} as from read_parquet('{folder / name}.parquet')")
        return truth.execute(QUERY).fetchall()


def full_refresh(pipeline: Pipeline, home: Path) -> dict:
    """The marts of a rebuild from the same raw; the copy is removed afterwards."""
    again = pipeline.copy(home)
    again.dbt("run", "--full-refresh")
    marts = again.marts()
    shutil.rmtree(home)
    return marts


def test_after_each_day_marts_equal_truth_and_a_full_refresh(tmp_path: Path, full: bool) -> None:
    pipeline = Pipeline(tmp_path / "home")
    days = ["--start", "2024-12-01", "--days", str(HISTORY_DAYS)]
    pipeline.run("demo-shop", "init", "--seed", "11", "--lines", str(LINES), *days)
    versions = []
    for day in range(21 if full else 2):
        if day:
            check_that_nothing_new_is_not_built(pipeline)
            pipeline.run("demo-shop", "advance")
        pipeline.run("meltano", "run", "daily")

        marts = pipeline.marts()
        assert all(len(marts[name]) > 1 for name in MART_KEYS), {name: len(rows) for name, rows in marts.items()}
        pipeline.run("demo-shop", "truth", "--out", str(tmp_path / "truth"))
        assert differences(marts, read_truth(tmp_path / "truth")) == [], f"day {day}: marts and truth"
        if day:  # The first day's build was a full one.
            assert differences(marts, full_refresh(pipeline, tmp_path / "again")) == [], f"day {day}: full refresh"
        check_published(marts, read_marts(pipeline.home / "published" / "warehouse.duckdb"))
        with duckdb.connect(str(pipeline.home / "published" / "warehouse.duckdb"), read_only=True) as published:
            versions.append(published.execute("select max(ordered_at) from fact_orders").fetchone()[0])
            sales = published.execute(QUERY).fetchall()
        assert len(sales) > 12
        assert sorted(sales) == sorted(query_truth(tmp_path / "truth"))
    assert versions == sorted(set(versions)), "every day must bring orders that the day before did not have"


def check_published(marts: dict, published: dict) -> None:
    """What is published differs from the marts in personal data only, and tells none of it."""
    for name in ("dim_users", "dim_users_history"):
        for column in ("name", "email", "phone"):
            plain, hidden = marts[name][column], published[name][column]
            assert len(plain) > 1 and (plain.isna() == hidden.isna()).all()
            assert hidden.dropna().str.fullmatch("[0-9a-f]{32}").all() and plain.nunique() == hidden.nunique()
        assert (published[name]["age"].dropna().str[-1] == "0").all()
    columns = ["name", "email", "phone", "age"]
    shown = [
        {name: rows.drop(columns=columns) if name.startswith("dim_users") else rows for name, rows in each.items()}
        for each in (marts, published)
    ]
    assert differences(*shown) == []


def check_that_nothing_new_is_not_built(pipeline: Pipeline) -> None:
    """Once more the job: no build."""
    last_build = "select count(*), max(invocation_id) from ops.builds"
    with duckdb.connect(str(pipeline.home / "warehouse.duckdb"), read_only=True) as connection:
        before = connection.execute(last_build).fetchall()
    output = pipeline.run("meltano", "run", "daily")
    assert "nothing to build" in output.stdout + output.stderr
    with duckdb.connect(str(pipeline.home / "warehouse.duckdb"), read_only=True) as connection:
        assert connection.execute(last_build).fetchall() == before
