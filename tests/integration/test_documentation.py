"""What the project promises to say about itself, checked against what was built."""

from __future__ import annotations

import json
import re

import duckdb
import pytest

from tests.pipeline import ROOT, Pipeline


@pytest.fixture(scope="module")
def manifest(built: Pipeline) -> dict:
    """dbt's manifest of the project, as the build wrote it."""
    (file,) = built.home.rglob("manifest.json")
    return json.loads(file.read_text())


def models(manifest: dict) -> list[dict]:
    return [node for node in manifest["nodes"].values() if node["resource_type"] in ("model", "seed")]


def test_every_model_and_column_that_was_built_is_described(built: Pipeline, manifest: dict) -> None:
    assert len(models(manifest)) > 20
    missing = [node["name"] for node in models(manifest) if not node["description"].strip()]
    columns = 0
    with duckdb.connect(str(built.home / "warehouse.duckdb"), read_only=True) as connection:
        connection.execute(f"attach '{built.home / 'marts.duckdb'}' as marts (read_only)")
        for node in models(manifest):
            if node["config"]["materialized"] == "ephemeral":
                continue
            described = {name.lower(): column["description"] for name, column in node["columns"].items()}
            actual = connection.execute(
                """
                select column_name from duckdb_columns()
                where database_name = ? and schema_name = ? and table_name = ?
                """,
                [node["database"], node["schema"], node["alias"]],
            ).fetchall()
            assert actual, f"{node['name']} was not built"
            columns += len(actual)
            missing += [f"{node['name']}.{name}" for (name,) in actual if not described.get(name.lower(), "").strip()]
    assert columns > 100
    assert missing == []


def test_descriptions_of_models_end_with_the_grain(manifest: dict) -> None:
    without = [
        node["name"]
        for node in models(manifest)
        if node["resource_type"] == "model" and not re.search(r"One row (per|for|in)\b[^.]*\.\s*$", node["description"])
    ]
    assert without == []


def test_every_model_is_tested(manifest: dict) -> None:
    tested = {
        parent
        for node in manifest["nodes"].values()
        if node["resource_type"] == "test"
        for parent in node["depends_on"]["nodes"]
    }
    assert [node["name"] for node in models(manifest) if node["unique_id"] not in tested] == []


def test_marts_enforce_their_contracts(manifest: dict) -> None:
    marts = [node for node in models(manifest) if node["path"].startswith("marts/")]
    assert len(marts) >= 8
    assert [node["name"] for node in marts if not node["config"]["contract"]["enforced"]] == []


def test_every_view_of_raw_reads_up_to_the_load_bound() -> None:
    staging = ROOT / "dbt_project" / "models" / "staging"
    of_raw = [file for file in staging.rglob("*.sql") if "source('raw_" in file.read_text()]
    assert len(of_raw) > 7
    assert [file.name for file in of_raw if "load_bound()" not in file.read_text()] == []


def readme_queries() -> list[str]:
    """The SQL blocks of the README, as a reader would paste them."""
    return re.findall(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_readme_names_every_mart_with_a_question_and_its_sql_runs(built: Pipeline, manifest: dict) -> None:
    readme = (ROOT / "README.md").read_text()
    marts = [node["name"] for node in models(manifest) if node["path"].startswith("marts/")]
    queries = readme_queries()
    assert [name for name in marts if f"`{name}`" not in readme] == [], "not in the README's index"
    assert [name for name in marts if not any(name in query for query in queries)] == [], "no SQL that reads it"
    with duckdb.connect(str(built.home / "published" / "warehouse.duckdb"), read_only=True) as published:
        for query in queries:
            for statement in filter(str.strip, query.split(";")):
                published.execute(statement).fetchall()
