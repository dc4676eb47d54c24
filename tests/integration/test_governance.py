"""Who owns what, what is promised, what is personal: what dbt-bouncer and our own checks hold the project to."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from benchmarks.environment import pinned
from tests import governance
from tests.governance import Column, Manifest, Schema
from tests.pipeline import ROOT, Pipeline

RECORD = ROOT / "governance" / "public_columns.yml"


@pytest.fixture(scope="module")
def manifest(built: Pipeline) -> Manifest:
    return governance.read_manifest(built.home)


@pytest.fixture(scope="module")
def schema(built: Pipeline) -> Schema:
    return governance.read_schema(built.home)


@pytest.fixture(scope="module")
def lineage(manifest: Manifest, schema: Schema) -> dict[Column, set[Column]]:
    return governance.lineage(manifest, schema)


@pytest.fixture
def bouncer(tmp_path: Path) -> Callable[[Manifest], set[tuple[str, str]]]:
    """dbt-bouncer on a manifest: the checks that fail, each with what it fails for."""
    program = pinned(ROOT / ".venv-bouncer", ROOT / "governance" / "requirements.lock") / "dbt-bouncer"

    def run(manifest: Manifest) -> set[tuple[str, str]]:
        config = yaml.safe_load((ROOT / "dbt-bouncer.yml").read_text()) | {"dbt_artifacts_dir": str(tmp_path)}
        (tmp_path / "dbt-bouncer.yml").write_text(yaml.safe_dump(config))
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        results = tmp_path / "results.json"
        command = [program, "run", "--config-file", tmp_path / "dbt-bouncer.yml", "--output-file", results]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert results.exists(), done.stdout + done.stderr
        checks = json.loads(results.read_text())
        assert len(checks) > 500
        failed = {tuple(check["check_run_id"].split(":")[::2]) for check in checks if check["outcome"] != "success"}
        assert bool(failed) == bool(done.returncode)
        return failed

    return run


def model(manifest: Manifest, name: str) -> dict[str, Any]:
    (node,) = (
        node
        for node in governance.models(manifest)
        if node["name"] == name and node["version"] == node["latest_version"]
    )
    return node


def test_dbt_bouncer_has_nothing_to_say(bouncer, manifest: Manifest) -> None:
    assert bouncer(manifest) == set()


def test_dbt_bouncer_refuses_what_breaks_its_rules(bouncer, manifest: Manifest) -> None:
    broken = copy.deepcopy(manifest)
    model(broken, "int_money__recounted")["name"] = "money_recounted"
    model(broken, "mart_kpis")["original_file_path"] = "models/marts/misc/mart_kpis.sql"
    model(broken, "dim_products")["depends_on"]["nodes"].append("model.shop_warehouse.stg_demo_shop__products")
    model(broken, "mart_customers")["depends_on"]["nodes"].append("source.shop_warehouse.raw_shop.orders")
    model(broken, "int_orders__totalled")["depends_on"]["nodes"].append("model.shop_warehouse.fact_orders.v1")
    model(broken, "int_orders__current")["raw_code"] = "select order_id from warehouse.raw_shop.orders"
    model(broken, "mart_daily_sales")["description"] = "What each day brought."
    model(broken, "dim_date")["columns"]["date"]["description"] = ""
    model(broken, "fact_refunds")["config"]["contract"]["enforced"] = False
    model(broken, "fact_refunds")["contract"]["enforced"] = False
    model(broken, "mart_cohort_retention")["access"] = "protected"
    model(broken, "fact_orders")["latest_version"] = None
    attached = model(broken, "int_users__current")["unique_id"]
    for unique_id, node in list(broken["nodes"].items()):
        if node.get("attached_node") == attached:
            del broken["nodes"][unique_id]
    broken["exposures"]["exposure.shop_warehouse.money_audit"]["owner"]["email"] = None
    assert bouncer(broken) == {
        ("check_model_names", "int_money__recounted"),
        ("check_model_directories", "mart_kpis"),
        ("check_model_documented_in_same_directory", "mart_kpis"),
        ("check_lineage_permitted_upstream_models", "dim_products_v1"),
        ("check_lineage_source_cannot_be_used", "mart_customers"),
        ("check_lineage_permitted_upstream_models", "int_orders__totalled"),
        ("check_model_hard_coded_references", "int_orders__current"),
        ("check_model_description_contains_regexp_pattern", "mart_daily_sales"),
        ("check_model_column_description_populated", "dim_date_v1"),
        ("check_model_has_contracts_enforced", "fact_refunds"),
        ("check_model_contract_enforced_for_public_model", "fact_refunds"),
        ("check_model_access", "mart_cohort_retention"),
        ("check_model_latest_version_specified", "fact_orders_v1"),
        ("check_model_has_tests_by_type", "int_users__current"),
        ("check_model_has_unique_test", "int_users__current"),
        ("check_exposure_has_owner", "money_audit"),
    }


def test_everything_has_an_owner_with_an_address(manifest: Manifest) -> None:
    assert governance.without_owner(manifest) == []


def test_who_has_no_owner_is_found(manifest: Manifest) -> None:
    broken = copy.deepcopy(manifest)
    model(broken, "dim_date")["config"]["group"] = None
    broken["groups"]["group.shop_warehouse.sales"]["owner"]["email"] = "sales"
    broken["groups"]["group.shop_warehouse.stock"]["description"] = None
    assert governance.without_owner(broken) == [
        "dim_date belongs to no group",
        "group sales lacks a description, or its owner's name or e-mail",
        "group stock lacks a description, or its owner's name or e-mail",
    ]


def test_every_macro_and_argument_is_described(manifest: Manifest) -> None:
    assert governance.undescribed_macros(manifest) == []


def test_a_macro_without_description_is_found(manifest: Manifest) -> None:
    broken = copy.deepcopy(manifest)
    macros = broken["macros"]
    macros["macro.shop_warehouse.shop"]["description"] = " "
    macros["macro.shop_warehouse.add_days"]["arguments"][0]["description"] = ""
    macros["macro.shop_warehouse.duckdb__alone"] = {
        **macros["macro.shop_warehouse.duckdb__day_of_week"],
        "name": "duckdb__alone",
    }
    assert sorted(governance.undescribed_macros(broken)) == [
        "add_days(day) has no description",
        "duckdb__alone has no description",
        "shop has no description",
    ]


def test_personal_data_is_tagged_from_its_source_to_the_marts(
    manifest: Manifest, lineage: dict[Column, set[Column]], schema: Schema
) -> None:
    tagged = {
        governance.title(node)
        for node in governance.relations(manifest).values()
        if any(map(governance.is_pii, node["columns"].values()))
    }
    assert tagged >= {"raw_crm.users", "ops.quarantine", "ops.failing_rows", "stg_demo_shop__users"}
    assert tagged >= {"int_users__current", "int_users__versioned", "dim_users", "dim_users_history"}
    assert governance.untagged(manifest, lineage, schema) == []


def test_a_tag_that_is_lost_on_the_way_is_found(
    manifest: Manifest, lineage: dict[Column, set[Column]], schema: Schema
) -> None:
    broken = copy.deepcopy(manifest)
    plain = {"config": {"tags": [], "meta": {}}, "tags": [], "meta": {}}
    model(broken, "dim_users")["columns"]["name"] |= plain
    model(broken, "dim_users_history")["columns"]["age"]["meta"] = {}
    model(broken, "stg_demo_shop__users")["columns"]["is_email_valid"] |= plain
    del broken["sources"]["source.shop_warehouse.raw_crm.users"]["columns"]["phone"]
    assert governance.untagged(broken, lineage, schema) == [
        "stg_demo_shop__users.is_email_valid is computed from raw_crm.users.email, and not tagged pii",
        "dim_users.name is computed from int_users__current.name, and not tagged pii",
        "dim_users_history.age: tag pii and meta.pii, one of ['age', 'email', 'name', 'phone', 'record'], go together",
        "raw_crm.users.phone is called like personal data, and not tagged pii",
    ]


def test_lineage_follows_values_through_new_names_and_expressions(manifest: Manifest, schema: Schema) -> None:
    renamed = copy.deepcopy(manifest)
    customers = model(renamed, "mart_customers")
    customers["compiled_code"] = """
        with users as (select * from warehouse.intermediate.int_users__current),
        contacts as (select user_id, lower("email") || coalesce(phone, '') as contact from users where age > 30)
        select user_id, max(contact) as rfm_segment, count(*) as orders_count from contacts group by user_id
    """
    customers["columns"] = {name: customers["columns"][name] for name in ("user_id", "rfm_segment", "orders_count")}
    renamed["nodes"] = {
        unique_id: node
        for unique_id, node in renamed["nodes"].items()
        if node["name"] in ("mart_customers", "int_users__current") and node["resource_type"] == "model"
    }
    found = governance.lineage(renamed, schema)
    users = "model.shop_warehouse.int_users__current"
    assert found[customers["unique_id"], "rfm_segment"] == {(users, "email"), (users, "phone")}
    assert found[customers["unique_id"], "orders_count"] == set()


def test_public_contracts_take_nothing_away(manifest: Manifest) -> None:
    recorded = yaml.safe_load(RECORD.read_text())
    breaking, new = governance.contract_changes(recorded, governance.public_columns(manifest))
    assert breaking == [], (
        "a breaking change needs a new version of the model: dbt_project/README.md, 'Changing a mart'"
    )
    assert new == [], f"promised from now on: add these lines to {RECORD.relative_to(ROOT)}"


def test_what_breaks_a_readers_query_is_breaking_and_what_does_not_is_new() -> None:
    recorded = {
        "fact v1": {"id": "integer not null", "amount": "decimal(18,4)", "kind": "text"},
        "mart v1": {"id": "text"},
    }
    built = {
        "fact v1": {"id": "integer", "amount": "decimal(18,2)", "day": "date"},
        "fact v2": {"id": "integer not null"},
    }
    assert governance.contract_changes(recorded, built) == (
        [
            "fact v1: id was integer not null, is integer",
            "fact v1: amount was decimal(18,4), is decimal(18,2)",
            "fact v1: kind is gone",
            "mart v1 is gone",
        ],
        ["fact v1: day: date", "fact v2: {'id': 'integer not null'}"],
    )
    promised = {"mart v1": {"id": "text not null"}}
    assert governance.contract_changes({"mart v1": {"id": "text"}}, promised) == ([], ["mart v1: id is text not null"])


@pytest.mark.parametrize(
    ("version", "latest", "relation"), [(1, 1, "fact"), (1, 2, "fact_v1"), (2, 1, "fact_v2"), (None, None, "fact")]
)
def test_the_latest_version_has_the_models_own_name(version: int | None, latest: int | None, relation: str) -> None:
    macro = jinja2.Template((ROOT / "dbt_project" / "macros" / "generate_alias_name.sql").read_text()).module
    node = {"name": "fact", "version": version, "latest_version": latest}
    assert macro.generate_alias_name(None, node).strip() == relation


def test_versions_do_not_show_in_the_names_of_relations(manifest: Manifest) -> None:
    latest = [node for node in governance.models(manifest) if node["version"] == node["latest_version"]]
    assert {node["alias"] for node in latest if node["version"]} >= {
        *("fact_orders", "dim_users", "dim_products", "dim_date", "dim_users_history", "dim_products_history")
    }
    assert [node["alias"] for node in latest if node["alias"] != node["name"]] == []


def test_every_column_is_tested(manifest: Manifest, lineage: dict[Column, set[Column]]) -> None:
    assert sum(len(node["columns"]) for node in governance.models(manifest)) > 400
    assert governance.untested(manifest, lineage) == []


def test_a_column_without_a_test_is_found(manifest: Manifest, lineage: dict[Column, set[Column]]) -> None:
    broken = copy.deepcopy(manifest)
    for unique_id, node in list(broken["nodes"].items()):
        if (
            node["resource_type"] == "test"
            and "statuses" in node["name"]
            and node.get("attached_node", "").endswith("statuses")
        ):
            del broken["nodes"][unique_id]
    broken["nodes"]["seed.shop_warehouse.statuses"]["columns"]["note"] = {"constraints": []}
    assert governance.untested(broken, lineage) == ["statuses.note"]
