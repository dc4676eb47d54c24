"""Rules over dbt's manifest that dbt-bouncer has no check for: owners, personal data, public contracts, what is tested.

Each function returns what breaks its rule, one line each, and nothing where all is well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
from sqlglot import exp, parse_one
from sqlglot.lineage import lineage as lineage_of
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

Manifest = dict[str, Any]
#: A column of a model, seed or source: its node's unique id, its name.
Column = tuple[str, str]
#: What dbt built, as sqlglot wants it: database, schema, relation, column, type.
Schema = dict[str, dict[str, dict[str, dict[str, str]]]]

#: What a column with personal data holds; masks are chosen by it.
PII_KINDS = {"name", "email", "phone", "age", "record"}
#: Names that say that a column is about a person, wherever it is. `name` alone is also a product's.
PII_NAMES = re.compile(
    r"^age$|(^|_)(e?_?mail|phone|mobile|birth(day|date)?|(first|last|full|user|customer)_?name|street|address|iban|payload)(_|$)"
)


def read_manifest(home: Path) -> Manifest:
    """The manifest of the last dbt command on the warehouse in `home`."""
    return json.loads((home / "dbt" / "manifest.json").read_text())


def read_schema(home: Path) -> Schema:
    """All columns of the warehouse in `home`."""
    schema: Schema = {}
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as connection:
        connection.execute(f"attach '{home / 'marts.duckdb'}' as marts (read_only)")
        columns = connection.execute(
            "select database_name, schema_name, table_name, column_name, data_type from duckdb_columns()"
            " where not internal"
        ).fetchall()
    for database, name, table, column, data_type in columns:
        schema.setdefault(database, {}).setdefault(name, {}).setdefault(table, {})[column] = data_type
    return schema


def models(manifest: Manifest) -> list[dict[str, Any]]:
    """The project's models."""
    return [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]


def relations(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """What has columns, by unique id: models, seeds and sources."""
    return {
        unique_id: node
        for unique_id, node in (manifest["nodes"] | manifest["sources"]).items()
        if node["resource_type"] in ("model", "seed", "source")
    }


def title(node: dict[str, Any]) -> str:
    """How a node is called in a message."""
    return f"{node['source_name']}.{node['name']}" if node["resource_type"] == "source" else node["name"]


def lineage(manifest: Manifest, schema: Schema) -> dict[Column, set[Column]]:
    """Of every column of every model, the columns whose values it is computed from, read from the compiled SQL.

    Rows that a join or a filter leaves out are no values, so that what decides them is not among these.
    """
    owners = {
        (node["database"], node["schema"], node.get("alias") or node["identifier"]): unique_id
        for unique_id, node in relations(manifest).items()
    }
    found: dict[Column, set[Column]] = {}
    for model in models(manifest):
        query = qualify(
            parse_one(model["compiled_code"], dialect="duckdb"), dialect="duckdb", schema=schema, identify=False
        )
        scope = build_scope(query)
        for column in model["columns"]:
            # Trimmed selects are for pictures; without them it takes half the time.
            tree = lineage_of(column, query, schema, scope=scope, trim_selects=False, dialect="duckdb")
            found[model["unique_id"], column] = {
                (owners[place], leaf.name.rpartition(".")[2].strip('"'))
                for leaf in tree.walk()
                if isinstance(table := leaf.expression, exp.Table)
                and (place := (table.catalog, table.db, table.name)) in owners
            }
    return found


def without_owner(manifest: Manifest) -> list[str]:
    """Models and seeds of no group, and groups that nobody can be asked about."""
    owned = [node for node in manifest["nodes"].values() if node["resource_type"] in ("model", "seed")]
    groups = manifest["groups"].values()
    return [f"{node['name']} belongs to no group" for node in owned if not node["config"].get("group")] + [
        f"group {group['name']} lacks a description, or its owner's name or e-mail"
        for group in groups
        if not (group["description"] and group["owner"].get("name") and "@" in (group["owner"].get("email") or ""))
    ]


def undescribed_macros(manifest: Manifest) -> list[str]:
    """Macros without description, or with arguments that lack one.

    What <engine>__<macro> does is said of the macro that dispatches to it; generic tests say it above their SQL.
    """
    ours = {
        macro["name"]: macro
        for macro in manifest["macros"].values()
        if macro["package_name"] == "shop_warehouse" and macro["original_file_path"].startswith("macros/")
    }
    found = []
    for name, macro in ours.items():
        _, dispatched, rest = name.partition("__")
        if dispatched and rest in ours and f"adapter.dispatch('{rest}'" in ours[rest]["macro_sql"]:
            continue
        described = {argument["name"] for argument in macro["arguments"] if argument["description"].strip()}
        if not macro["description"].strip():
            found.append(f"{name} has no description")
        found += [
            f"{name}({argument}) has no description" for argument in _arguments(macro) if argument not in described
        ]
    return found


def _arguments(macro: dict[str, Any]) -> list[str]:
    head = re.search(rf"macro\s+{macro['name']}\s*\((.*?)\)\s*-?%}}", macro["macro_sql"], re.DOTALL)
    return re.findall(r"(?:^|,)\s*(\w+)", head[1]) if head else []


def is_pii(column: dict[str, Any]) -> bool:
    """Whether a column is tagged as personal data."""
    return "pii" in column["tags"]


def untagged(manifest: Manifest, sources: dict[Column, set[Column]], schema: Schema) -> list[str]:
    """Columns with personal data that do not say so: computed from such a column, or of such a name.

    `meta.not_pii` of a column says why it holds none although it is computed from one that does, or is called so.
    """
    nodes = relations(manifest)
    found = []
    for unique_id, node in nodes.items():
        built = (
            schema.get(node["database"], {}).get(node["schema"], {}).get(node.get("alias") or node["identifier"], {})
        )
        for name in dict.fromkeys([*node["columns"], *built]):
            column = node["columns"].get(name, {"tags": [], "meta": {}})
            kind, excuse = column["meta"].get("pii"), column["meta"].get("not_pii")
            fed_by = [
                f"{title(nodes[parent])}.{theirs}"
                for parent, theirs in sorted(sources.get((unique_id, name), ()))
                if theirs in nodes[parent]["columns"] and is_pii(nodes[parent]["columns"][theirs])
            ]
            if is_pii(column) != (kind in PII_KINDS) or (excuse and is_pii(column)):
                found.append(f"{title(node)}.{name}: tag pii and meta.pii, one of {sorted(PII_KINDS)}, go together")
            elif fed_by and not is_pii(column) and not excuse:
                found.append(f"{title(node)}.{name} is computed from {', '.join(fed_by)}, and not tagged pii")
            elif PII_NAMES.search(name) and not is_pii(column) and not excuse and not name.startswith("is_"):
                found.append(f"{title(node)}.{name} is called like personal data, and not tagged pii")
    return found


def public_columns(manifest: Manifest) -> dict[str, dict[str, str]]:
    """The contracts of the public models: model (with version, 1 where it has none), column, type and nullability."""
    return {
        f"{node['name']} v{node['version'] or 1}": {
            name: column["data_type"]
            + (" not null" if any(rule["type"] == "not_null" for rule in column["constraints"]) else "")
            for name, column in node["columns"].items()
        }
        for node in models(manifest)
        if node["access"] == "public"
    }


def contract_changes(
    recorded: dict[str, dict[str, str]], built: dict[str, dict[str, str]]
) -> tuple[list[str], list[str]]:
    """What the public models take away from what is recorded, and what they add to it.

    A reader's query survives a new column and a promise that a column is never null, and nothing else.
    """
    breaking, new = [], []
    for model, columns in recorded.items():
        if model not in built:
            breaking.append(f"{model} is gone")
            continue
        for name, contract in columns.items():
            now = built[model].get(name)
            if now is None:
                breaking.append(f"{model}: {name} is gone")
            elif now == f"{contract} not null":
                new.append(f"{model}: {name} is {now}")
            elif now != contract:
                breaking.append(f"{model}: {name} was {contract}, is {now}")
        new += [f"{model}: {name}: {built[model][name]}" for name in built[model] if name not in columns]
    new += [f"{model}: {columns}" for model, columns in built.items() if model not in recorded]
    return breaking, new


def untested(manifest: Manifest, sources: dict[Column, set[Column]]) -> list[str]:
    """Columns of models and seeds that no test looks at.

    A test looks at a column when it is a data test or a unit test and names it, when it is an enforced constraint, or
    when it looks at a column that is computed from it.
    """
    nodes = {unique_id: node for unique_id, node in relations(manifest).items() if node["resource_type"] != "source"}
    tested = {(unique_id, name) for unique_id, node in nodes.items() for name in _named_by_tests(manifest, node)}
    feeds: dict[Column, set[Column]] = {}
    for column, parents in sources.items():
        for parent in parents:
            feeds.setdefault(parent, set()).add(column)
    while more := {column for column, fed in feeds.items() if column not in tested and fed & tested}:
        tested |= more
    return [
        f"{title(node)}.{name}"
        for unique_id, node in nodes.items()
        for name in node["columns"]
        if (unique_id, name) not in tested
    ]


def _named_by_tests(manifest: Manifest, node: dict[str, Any]) -> set[str]:
    """The columns of a node that its constraints and tests name."""
    columns, unique_id = set(node["columns"]), node["unique_id"]
    named = {
        name
        for name, column in node["columns"].items()
        if node.get("contract", {}).get("enforced")
        and any(rule["type"] == "not_null" for rule in column["constraints"])
    }
    for test in manifest["nodes"].values():
        if test["resource_type"] != "test":
            continue
        if test.get("attached_node") == unique_id:
            arguments = {name: value for name, value in test["test_metadata"]["kwargs"].items() if name != "model"}
            except_columns = set(arguments.pop("except_columns", ()))
            named |= columns & set(_words(arguments))
            if test["test_metadata"]["name"] == "null_share_at_most":
                named |= columns - except_columns
        elif not test.get("attached_node") and unique_id in test["depends_on"]["nodes"]:
            named |= {name for name in columns if re.search(rf"\b{name}\b", test["raw_code"])}
    for test in manifest["unit_tests"].values():
        if unique_id in test["depends_on"]["nodes"]:
            named |= columns & {name for row in test["expect"]["rows"] or [] for name in row}
        for given in test["given"]:
            if re.search(rf"\b{node['name']}\b", given["input"]):
                named |= columns & {name for row in given["rows"] or [] for name in row}
    return named


def _words(value: Any) -> Iterator[str]:
    """All names and texts in the arguments of a test."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)
