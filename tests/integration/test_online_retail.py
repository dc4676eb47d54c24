"""Online Retail, a real shop: what the warehouse holds equals the files, as their README and pandas count them.

Quick size: the real files loaded once; shuffled, repeated and corrected loads on a small folder of the same mess.
`--full`: those on the real files too, month by month.
"""

from __future__ import annotations

import random
import shutil
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import governance
from tests.integration.online_retail_files import REAL_FOLDER, generate, month_table, real_or_generated, rewrite
from tests.oracles import online_retail, online_retail_absent
from tests.pipeline import MART_KEYS, Pipeline, differences, read_truth

SHOP = "online_retail"
#: A build without its tests, as between two loads of which the second is known to come.
MODELS_ONLY = ["build", "--exclude-resource-type", "test", "--exclude-resource-type", "unit_test"]
#: The small folder has a few days of each month, so days without lines are no fault there.
DAYS_MAY_LACK = ["--vars", "{rows_per_open_day_min: 0}"]


def expected_marts(data: Path, out: Path) -> dict[str, pd.DataFrame]:
    """The oracle's marts for a folder, as text, like `Pipeline.marts`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in online_retail.compute(data).items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        # Arrow takes the digits that occur; the marts have 18, of which 4 or 6 are after the point.
        decimals = {
            field.name: pa.decimal128(18, field.type.scale) for field in table.schema if pa.types.is_decimal(field.type)
        }
        table = table.cast(pa.schema([field.with_type(decimals.get(field.name, field.type)) for field in table.schema]))
        pq.write_table(table, out / f"{name}.parquet")
    return read_truth(out)


def without_deleted(marts: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The marts without the users and products that no line names any more; the oracle has never heard of them."""
    kept = {
        name: marts[name][marts[name]["deleted_at"].isna()].reset_index(drop=True)
        for name in ("dim_users", "dim_products", "dim_users_history", "dim_products_history")
    }
    return marts | kept


def query(pipeline: Pipeline, sql: str) -> list[tuple]:
    """Rows of a query on the warehouse's file."""
    with duckdb.connect(str(pipeline.home / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def raw_rows(pipeline: Pipeline) -> int:
    return query(pipeline, "select count(*) from raw_files.transactions")[0][0]


def mart_rows(pipeline: Pipeline, sql: str) -> list[tuple]:
    with duckdb.connect(str(pipeline.home / "marts.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_or_generated(tmp_path_factory.mktemp("online_retail") / "data")


@pytest.fixture(scope="module")
def warehouse(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """All files loaded once, and built with all tests."""
    pipeline = Pipeline(tmp_path_factory.mktemp("online_retail") / "home", SHOP, data, with_unit_tests=True)
    pipeline.ingest()
    pipeline.dbt("build", *([] if data == REAL_FOLDER else DAYS_MAY_LACK))
    return pipeline


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    return expected_marts(data, tmp_path_factory.mktemp("online_retail") / "expected")


def test_raw_holds_every_line(warehouse: Pipeline, data: Path) -> None:
    lines = sum(lines for lines, _ in month_table(data).values())
    assert lines == 320_705 or data != REAL_FOLDER
    assert raw_rows(warehouse) == lines
    assert query(warehouse, "select sum(rows_extracted), sum(rows_quarantined) from ops.loads") == [(lines, 0)]


def test_months_reconcile_with_the_readme(warehouse: Pipeline, data: Path) -> None:
    rows = mart_rows(
        warehouse,
        """
        select strftime(date, '%Y-%m') as month, sum(raw_net_value),
            sum(sales + shipping - refunds + adjustments), max(abs(difference))
        from mart_money_reconciliation
        group by month having sum(raw_net_value) <> 0
        """,
    )
    table = month_table(data)
    assert {row[0]: row[1] for row in rows} == {month: value for month, (_, value) in table.items()}
    assert {row[0]: row[2] for row in rows} == {month: value for month, (_, value) in table.items()}
    assert {row[3] for row in rows} == {Decimal(0)}


def test_every_line_is_in_the_marts_once(warehouse: Pipeline) -> None:
    """Lines of shipping are in the spread; all others are a row of a fact."""
    in_facts = mart_rows(
        warehouse,
        """
        select
            (select count(*) from fact_orders)
            + (select count(*) from fact_refunds)
            + (select count(*) from fact_adjustments where kind <> 'shipping_without_lines')
        """,
    )[0][0]
    shipping = query(
        warehouse,
        "select count(*) from raw_files.transactions "
        """where upper("StockCode") in ('POST', 'DOT', 'C2') and "InvoiceNo" not like 'C%' """
        """and cast("UnitPrice" as decimal(18, 4)) <> 0""",
    )[0][0]
    assert shipping > 0
    assert in_facts + shipping == raw_rows(warehouse)


def test_marts_equal_the_oracle(warehouse: Pipeline, expected: dict[str, pd.DataFrame]) -> None:
    sizes = {name: len(expected[name]) for name in MART_KEYS}
    assert {name for name, rows in sizes.items() if rows < 2} == set(online_retail_absent.marts()), sizes
    assert differences(warehouse.marts(), expected) == []


def test_marts_of_what_the_shop_lacks_are_not_published(warehouse: Pipeline) -> None:
    built = "select table_name from duckdb_tables() where schema_name = 'main'"
    unpublished = mart_rows(warehouse, f"{built} and table_name not in (select model from ops.models)")
    assert {name for (name,) in unpublished} == set(online_retail_absent.marts())


def test_the_design_query_equals_pandas(warehouse: Pipeline, data: Path) -> None:
    rows = mart_rows(
        warehouse,
        """
        select d.year, d.month, p.category, sum(f.amount) as total_sales, count(distinct f.user_id) as unique_customers
        from fact_orders f
        join dim_date d on f.date_id = d.date_id
        join dim_products p on f.product_id = p.product_id
        where d.year = 2011
        group by d.year, d.month, p.category order by total_sales desc
        """,
    )
    # Once more with nothing but pandas and floats, so that the oracle's own rules are checked from outside.
    lines = pd.concat(pd.read_csv(file, encoding="utf-8") for file in sorted(data.glob("2011-*.csv.gz")))
    others = ["POST", "DOT", "C2", "M", "D", "S", "AMAZONFEE", "BANK CHARGES", "CRUK", "B", "PADS"]
    lines = lines[(lines["Quantity"] > 0) & (lines["UnitPrice"] > 0) & ~lines["StockCode"].str.upper().isin(others)]
    lines = lines[~lines["InvoiceNo"].astype(str).str.startswith(("A", "C"))]
    lines = lines.assign(total=lines["Quantity"] * lines["UnitPrice"], customer=lines["CustomerID"].fillna(-1))
    by_month = lines.groupby(lines["InvoiceDate"].str[5:7].astype(int)).agg({"total": "sum", "customer": "nunique"})
    pandas_rows = [
        (2011, month, "unknown", Decimal(f"{total:.4f}"), customers)
        for month, total, customers in by_month.sort_values("total", ascending=False).itertuples()
    ]
    assert len(pandas_rows) > 3
    assert rows == pandas_rows


def test_loads_in_any_order_repeated_renamed_and_corrected_end_in_the_same_marts(tmp_path: Path, full: bool) -> None:
    source = real_or_generated(tmp_path / "files") if full else generate(tmp_path / "files")
    data = tmp_path / "data"
    pipeline = Pipeline(tmp_path / "home", SHOP, data)
    data.mkdir()

    # Month by month in a shuffled order, an incremental run after each load.
    months = sorted({file.name[:7] for file in source.glob("*.csv.gz")})
    random.Random(4).shuffle(months)
    assert months != sorted(months)
    for batch in [[month] for month in months] if full else (months[:1], months[1:3], months[3:]):
        for month in batch:
            for file in source.glob(f"{month}-*.csv.gz"):
                shutil.copy(file, data)
        pipeline.ingest()
        pipeline.dbt(*MODELS_ONLY)
    assert differences(pipeline.marts(), expected_marts(source, tmp_path / "expected")) == []

    # Everything once more, without the state that knows it; then under other names.
    rows = raw_rows(pipeline)
    (pipeline.home / "singer_state.json").unlink()
    pipeline.ingest()
    for file in source.glob("*.csv.gz"):
        shutil.copy(file, data / f"copy_of_{file.name}")
    pipeline.ingest()
    assert raw_rows(pipeline) == rows
    for file in data.glob("copy_of_*"):
        file.unlink()

    # A corrected file: a line gone, another one changed, and an invoice that moves to another customer.
    corrected = sorted(data.glob("*.csv.gz"))[0]
    rewrite(
        corrected,
        {
            0: None,
            2: ["536001", "20001", "LANTERN No 1", "7", f"{corrected.name[:10]} 09:00:00", "2.5", "12346.0", "Italy"],
            3: ["536999", "20002", "LANTERN No 2", "1", f"{corrected.name[:10]} 09:30:00", "0.99", "12399.0", "Malta"],
        },
    )
    pipeline.ingest()
    pipeline.dbt("build", *DAYS_MAY_LACK)
    assert raw_rows(pipeline) > rows
    assert query(pipeline, "select count(*) from raw_files.transactions where _sdc_operation = 'withdraw'") == [(3,)]
    assert differences(without_deleted(pipeline.marts()), expected_marts(data, tmp_path / "corrected")) == []


def test_staging_is_held_to_the_rules_of_the_project(warehouse: Pipeline) -> None:
    manifest, schema = governance.read_manifest(warehouse.home), governance.read_schema(warehouse.home)
    lineage = governance.lineage(manifest, schema)
    assert governance.without_owner(manifest) == []
    assert governance.untagged(manifest, lineage, schema) == []
    # The rest is the demo shop's too, where dbt's unit tests run.
    own = {node["name"] for node in governance.models(manifest) if "online_retail" in node["name"]}
    assert len(own) >= 8
    assert [column for column in governance.untested(manifest, lineage) if column.split(".")[0] in own] == []
