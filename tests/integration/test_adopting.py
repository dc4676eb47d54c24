"""A shop that nobody has seen, adopted with the code of docs/adopting.md: two files, four entities, published."""

from __future__ import annotations

import re
import shutil
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from tests.pipeline import ROOT, Pipeline

SHOP = "corner_shop"
STAGING = f"dbt_project/models/staging/{SHOP}"

# 2026-01-06 is a closed day and 2026-01-04 a Sunday: neither has a sale.
FILES = {
    "customers.csv": """\
customer,name,email,phone,age,country,joined_at,changed_at
1,Ada Huber,ADA@example.com,+43 1 111,30,Austria,2025-11-01,2025-11-01 08:00:00
2,Ben Lang,ben@example.com,+43 1 222,,Austria,2025-12-01,2025-12-01 08:00:00
""",
    "sales.csv": """\
receipt,line,customer,article,title,pieces,price,sold_at
100,1,1,tea,Tea,2,3.50,2026-01-03 09:00:00
100,2,1,bread,Bread,1,4.20,2026-01-03 09:00:00
101,1,2,tea,Tea,1,3.60,2026-01-05 00:30:00
102,1,9,bread,Bread,3,4.20,2026-01-07 17:45:00
103,1,1,gift,Gift,1,0.00,2026-01-08 10:00:00
""",
}
FACTS = [
    # line, order, user, product, day, pieces, amount, time in UTC (Vienna is an hour ahead)
    ("100-1", 100, 1, "TEA", 20260103, 2, Decimal("7.0000"), datetime(2026, 1, 3, 8, 0)),
    ("100-2", 100, 1, "BREAD", 20260103, 1, Decimal("4.2000"), datetime(2026, 1, 3, 8, 0)),
    ("101-1", 101, 2, "TEA", 20260105, 1, Decimal("3.6000"), datetime(2026, 1, 4, 23, 30)),
    ("102-1", 102, -1, "BREAD", 20260107, 3, Decimal("12.6000"), datetime(2026, 1, 7, 16, 45)),
    ("103-1", 103, 1, "GIFT", 20260108, 1, Decimal("0.0000"), datetime(2026, 1, 8, 9, 0)),
]

#: The views that docs/adopting.md leaves to the reader: entity, raw table, columns, key, time of the version.
OTHER_VIEWS = {
    "users": (
        "customers",
        """
        {{ to_integer('customer') }} as user_id,
        nullif({{ trimmed('name') }}, '') as name,
        {{ clean_email('email') }} as email,
        {{ is_valid_email('email') }} as is_email_valid,
        {{ clean_phone('phone') }} as phone,
        {{ clean_age('age') }} as age,
        nullif({{ trimmed('country') }}, '') as country,
        {{ to_utc_timestamp('joined_at') }} as registered_at,
        """,
        "customer",
        "changed_at",
    ),
    "products": (
        "sales",
        """
        {{ upper_case(trimmed('article')) }} as product_id,
        nullif({{ trimmed('title') }}, '') as name,
        'unknown' as category,
        {{ to_decimal('price') }} as price,
        """,
        "article",
        "sold_at",
    ),
    "orders": (
        "sales",
        """
        {{ to_integer('receipt') }} as order_id,
        {{ to_integer('customer') }} as user_id,
        'completed' as status,
        {{ to_utc_timestamp('sold_at') }} as ordered_at,
        cast(null as timestamp) as cancelled_at,
        {{ money(0) }} as shipping_cost,
        'EUR' as currency,
        """,
        "receipt",
        "sold_at",
    ),
}
VIEW = """\
with

source as (
    select * from {{{{ source('raw_files', '{table}') }}}}
    where _sdc_load_id <= {{{{ load_bound() }}}}
),

{entity} as (
    select {columns}
        {{{{ technical_columns(to_utc_timestamp('{version_at}'), source_key='{key}') }}}}
    from source
)

select * from {entity}
"""


def code_of_the_page() -> dict[str, str]:
    """The code blocks of docs/adopting.md by the file that their first line names."""
    page = (ROOT / "docs" / "adopting.md").read_text()
    blocks = re.findall(r"```(?:yaml|sql)\n(?:#|--) (\S+)\n(.*?)```", page, flags=re.DOTALL)
    return dict(blocks)


def merge(old: dict[str, Any], added: dict[str, Any]) -> None:
    """Add lines to a YAML mapping, each below the keys that it stands under."""
    for key, value in added.items():
        if isinstance(value, dict) and key in old:
            merge(old[key], value)
        else:
            assert key not in old, f"{key} would be overwritten"
            old[key] = value


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The shop's warehouse, loaded, built with all tests, and published."""
    folder: Path = tmp_path_factory.mktemp("adopting")
    code = code_of_the_page()
    project = shutil.copytree(
        ROOT / "dbt_project", folder / "dbt_project", ignore=shutil.ignore_patterns("logs", "target", ".user.yml")
    )
    (folder / STAGING).mkdir()

    settings = project / "dbt_project.yml"
    content = yaml.safe_load(settings.read_text())
    merge(content, yaml.safe_load(code.pop("dbt_project/dbt_project.yml")))
    settings.write_text(yaml.safe_dump(content))
    streams = folder / "corner_shop.yml"
    streams.write_text(code.pop(f"ingestion/shops/{SHOP}.yml"))
    for entity, (table, columns, key, version_at) in OTHER_VIEWS.items():
        view = VIEW.format(entity=entity, table=table, columns=columns, key=key, version_at=version_at)
        (folder / STAGING / f"stg_{SHOP}__{entity}.sql").write_text(view)
    assert sorted(code) == [f"{STAGING}/_{SHOP}__sources.yml", f"{STAGING}/stg_{SHOP}__order_items.sql"]
    for path, text in code.items():
        (folder / path).write_text(text)

    data = folder / "data"
    data.mkdir()
    for name, text in FILES.items():
        (data / name).write_text(text)

    pipeline = Pipeline(
        folder / "home", SHOP, data, project=project, extra_env={"TAP_FILES_STREAMS_FILE": str(streams)}
    )
    pipeline.ingest()
    pipeline.dbt("source", "freshness")
    pipeline.dbt("build")
    pipeline.run("warehouse-publish")
    return pipeline


def published(pipeline: Pipeline, sql: str) -> list[tuple[Any, ...]]:
    return queried(pipeline.home / "published" / "warehouse.duckdb", sql)


def queried(file: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_the_sales_are_those_of_the_files(adopted: Pipeline) -> None:
    columns = "order_line_id, order_id, user_id, product_id, date_id, quantity, amount, ordered_at"
    assert published(adopted, f"select {columns} from fact_orders order by order_line_id") == FACTS


def test_the_dimensions_are_those_of_the_files(adopted: Pipeline) -> None:
    users = "select user_id, name, email, phone, age, is_age_imputed from dim_users order by 1"
    hidden = published(adopted, users)
    assert [(user[0], *map(len, user[1:4]), user[4]) for user in hidden[1:]] == [
        (1, 32, 32, 32, 30),
        (2, 32, 32, 32, 30),
    ]
    assert queried(adopted.home / "marts.duckdb", users)[1:] == [
        (1, "Ada Huber", "ada@example.com", "431111", 30, False),
        (2, "Ben Lang", "ben@example.com", "431222", 30, True),
    ]
    products = published(adopted, "select product_id, name, price from dim_products order by 1")
    assert products[:3] == [
        ("BREAD", "Bread", Decimal("4.2000")),
        ("GIFT", "Gift", Decimal("0.0000")),
        ("TEA", "Tea", Decimal("3.6000")),
    ]


def test_entities_that_the_shop_lacks_are_empty_and_every_cent_is_accounted_for(adopted: Pipeline) -> None:
    assert published(adopted, "select count(*) from fact_refunds") == [(0,)]
    assert published(adopted, "select count(*) from fact_adjustments") == [(0,)]
    totals = "select sum(raw_net_value), sum(sales), sum(abs(difference)) from mart_money_reconciliation"
    assert published(adopted, totals) == [(Decimal("27.4000"), Decimal("27.4000"), Decimal("0.0000"))]
    assert published(adopted, "select shop from meta.publish_info") == [(SHOP,)]


def test_a_corrected_file_takes_the_place_of_what_it_said_before(adopted: Pipeline, tmp_path: Path) -> None:
    corrected = adopted.copy(tmp_path / "home")
    corrected.data = shutil.copytree(adopted.home.parent / "data", tmp_path / "data")
    sales = corrected.data / "sales.csv"
    sales.write_text(sales.read_text().replace("102,1,9,bread,Bread,3", "102,1,2,bread,Bread,1"))
    corrected.ingest()
    corrected.dbt("build")
    corrected.run("warehouse-publish")
    assert published(corrected, "select user_id, amount from fact_orders where order_id = 102") == [
        (2, Decimal("4.2000"))
    ]
    assert published(corrected, "select sum(amount) from fact_orders") == [(Decimal("19.0000"),)]
