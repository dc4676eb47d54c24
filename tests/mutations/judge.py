"""Whether the tests notice a fault: dbt's unit tests; incremental builds; dbt's data tests and the truth of a shop."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dbt.contracts.graph.manifest import Manifest

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import ANSWERS, CHANGES, HISTORY, MODELS
from tests.mutations.operators import Mutant, mutants
from tests.pipeline import ROOT, Pipeline, differences, read_truth

#: An error of these kinds says that the fault is no SQL; such a mutant counts neither way.
_NO_SQL = ("Parser Error", "Binder Error", "Catalog Error", "Compilation Error")
#: Macros that are SQL of models rather than of dbt's own work.
MACRO_FILES = tuple(f"macros/{name}.sql" for name in ("versions", "staging", "engine/times", "engine/values"))
#: The day's change upon the history, then all anew.
BUILDS = (
    ("build", "--exclude", "test_type:unit", "resource_type:seed"),
    ("build", "--exclude", "test_type:unit", "resource_type:seed", "--full-refresh"),
)


@dataclass(frozen=True)
class Target:
    """A model or macro file whose SQL is mutated."""

    unique_id: str
    path: str
    source: str

    @property
    def mutants(self) -> list[Mutant]:
        """All of its mutants."""
        return mutants(self.source)


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant: killed by `unit tests`, `data tests`, `truth`; `survived`; `invalid`."""

    path: str
    line: int
    context: str
    operator: str
    old: str
    new: str
    outcome: str
    detail: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What names the mutant while lines move."""
        return self.path, self.context, self.operator, self.old, self.new


class Judge:
    """Tries mutants upon copies of two warehouses.

    In the one the changes that tests/integration/test_dbt_incremental.py writes by hand come in two loads after the
    history. The other is a demo shop whose raw has a history and one day more, and whose marts have the history only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base = folder / "base"
        self._truth = folder / "truth"
        self._expected: list[dict[str, list[tuple]]] = []

    def prepare(self) -> None:
        """Make both warehouses. Raises CommandFailed or AssertionError when the unmutated project is not green."""
        self._changes = DbtWarehouse.create(self._folder / "changes")
        self._changes.parse()
        self._changes.load(HISTORY)
        self._changes.dbt("build", "--resource-type", "model", "seed")
        self._expected = list(self._built_with_changes())
        pipeline = Pipeline(self._base)
        pipeline.run("demo-shop", "init", "--seed", "3", "--lines", "3000", "--days", "90")
        pipeline.ingest()
        pipeline.dbt("build")
        pipeline.run("demo-shop", "advance")
        pipeline.ingest()
        pipeline.run("demo-shop", "truth", "--out", str(self._truth))
        shutil.rmtree(self._base / "lake")
        shutil.rmtree(self._base / "source")

    def targets(self) -> list[Target]:
        """The models that the shop builds, and the macros that make their SQL."""
        manifest = self.manifest()
        found = [
            Target(node.unique_id, node.original_file_path, node.raw_code)
            for node in manifest.nodes.values()
            if node.resource_type == "model" and node.config.enabled
        ]
        found += [
            Target(macro.unique_id, macro.original_file_path, macro.macro_sql)
            for macro in manifest.macros.values()
            if macro.original_file_path in MACRO_FILES and macro.package_name == "shop_warehouse"
        ]
        return sorted(found, key=lambda target: (target.path, target.unique_id))

    def manifest(self) -> Manifest:
        """The parsed project."""
        warehouse = DbtWarehouse(self._base)
        warehouse.parse()
        return DbtWarehouse.manifests[warehouse.project]

    def verdict(self, target: Target, mutant: Mutant) -> Verdict:
        """Try one mutant."""
        outcome, detail = self._try(target, mutant)
        file = (ROOT / "dbt_project" / target.path).read_text()
        line = mutant.line_of(target.source) + file[: file.index(target.source)].count("\n")
        return Verdict(
            target.path,
            line,
            mutant.context_in(target.source),
            mutant.operator,
            mutant.old,
            mutant.new,
            outcome,
            detail,
        )

    def _try(self, target: Target, mutant: Mutant) -> tuple[str, str]:
        unmutated = self.manifest()
        project = DbtWarehouse(self._base).project
        DbtWarehouse.manifests[project] = _mutated(unmutated, target, mutant)
        try:
            return self._outcome(target)
        except AssertionError as error:  # dbt's message
            return ("invalid" if any(kind in str(error) for kind in _NO_SQL) else "incremental builds"), str(error)[
                :300
            ]
        finally:
            DbtWarehouse.manifests[project] = unmutated

    def _outcome(self, target: Target) -> tuple[str, str]:
        warehouse = self._copy(DbtWarehouse(self._base))
        # The model's own unit tests; of a macro those of all models.
        name = target.unique_id.split(".")[2] if target.unique_id.startswith("model.") else ""
        unit_tests = ("test", "--select", f"{name},test_type:unit" if name else "test_type:unit")
        for args in (unit_tests, None, *BUILDS):
            if args is None:
                if list(self._built_with_changes()) != self._expected:
                    return "incremental builds", ""
                warehouse = self._copy(DbtWarehouse(self._base))
                continue
            result = warehouse.try_dbt(*args, "--log-level", "none", "--log-level-file", "none")
            if not result.success:
                message = DbtWarehouse.message(result)
                if any(error in message for error in _NO_SQL):
                    return "invalid", message[:300]
                return ("unit tests" if args[0] == "test" else "data tests"), message[:300]
            if args[0] == "build" and (found := differences(Pipeline(warehouse.home).marts(), read_truth(self._truth))):
                return "truth", found[0][:300]
        return "survived", ""

    def _built_with_changes(self) -> Iterator[dict[str, list[tuple]]]:
        """The marts after each load of changes."""
        warehouse = self._copy(self._changes)
        for changes in (CHANGES, ANSWERS):
            warehouse.load(changes)
            warehouse.dbt("run", *MODELS, "--log-level", "none", "--log-level-file", "none")
            yield warehouse.marts()

    def _copy(self, warehouse: DbtWarehouse) -> DbtWarehouse:
        home = self._folder / "mutant"
        shutil.rmtree(home, ignore_errors=True)
        return warehouse.copy(home)


def _mutated(manifest: Manifest, target: Target, mutant: Mutant) -> Manifest:
    mutated = copy.copy(manifest)
    code = mutant.applied_to(target.source)
    if target.unique_id in manifest.nodes:
        node = copy.copy(manifest.nodes[target.unique_id])
        node.raw_code = code
        mutated.nodes = {**manifest.nodes, target.unique_id: node}
    else:
        macro = copy.copy(manifest.macros[target.unique_id])
        macro.macro_sql = code
        mutated.macros = {**manifest.macros, target.unique_id: macro}
    return mutated
