"""Day after day: `demo-shop advance`, `meltano run daily`, and the marts hold the truth.

Quick size: 2 days after the first load. `--full`: 20 days.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb

from tests.pipeline import MART_KEYS, Pipeline, differences, read_marts, read_truth

LINES = 4000
HISTORY_DAYS = 120


def full_refresh(pipeline: Pipeline, home: Path) -> dict:
    """The marts of a rebuild from the same raw; the copy is removed afterwards."""
    again = pipeline.copy(home)
    again.dbt("run", "--full-refresh")
    marts = again.marts()
    shutil.rmtree(home)
    return marts


def test_after_each_day_marts_equal_truth_and_a_full_refresh(tmp_path: Path, full: bool) -> None:
    pipeline = Pipeline(tmp_path / "home")
    pipeline.run("demo-shop", "init", "--seed", "11", "--lines", str(LINES), "--days", str(HISTORY_DAYS))
    versions = []
    for day in range(21 if full else 3):
        if day:
            pipeline.run("demo-shop", "advance")
        pipeline.run("meltano", "run", "daily")

        marts = pipeline.marts()
        assert all(len(marts[name]) > 1 for name in MART_KEYS), {name: len(rows) for name, rows in marts.items()}
        pipeline.run("demo-shop", "truth", "--out", str(tmp_path / "truth"))
        assert differences(marts, read_truth(tmp_path / "truth")) == [], f"day {day}: marts and truth"
        assert differences(marts, full_refresh(pipeline, tmp_path / "again")) == [], f"day {day}: full refresh"
        assert differences(marts, read_marts(pipeline.home / "published" / "warehouse.duckdb")) == []
        with duckdb.connect(str(pipeline.home / "published" / "warehouse.duckdb"), read_only=True) as published:
            versions.append(published.execute("select max(ordered_at) from fact_orders").fetchone()[0])
    assert versions == sorted(set(versions)), "every day must bring orders that the day before did not have"


def test_the_design_query_on_the_published_file_equals_the_truth(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "home")
    pipeline.run("demo-shop", "init", "--seed", "5", "--lines", str(LINES), "--days", "400")
    pipeline.run("meltano", "run", "daily")
    pipeline.run("demo-shop", "truth", "--out", str(tmp_path / "truth"))
    query = """
        select d.year, d.month, p.category, sum(f.amount) as total_sales, count(distinct f.user_id) as unique_customers
        from fact_orders f
        join dim_date d on f.date_id = d.date_id
        join dim_products p on f.product_id = p.product_id
        where d.year = 2025
        group by d.year, d.month, p.category order by total_sales desc
    """
    with duckdb.connect(str(pipeline.home / "published" / "warehouse.duckdb"), read_only=True) as published:
        rows = published.execute(query).fetchall()
    with duckdb.connect() as truth:
        for name in ("fact_orders", "dim_date", "dim_products"):
            truth.execute(f"create view {name} as from read_parquet('{tmp_path}/truth/{name}.parquet')")
        expected = truth.execute(query).fetchall()
    assert len(rows) > 12
    assert sorted(rows) == sorted(expected)
