"""Whether the tests notice a fault: dbt's unit tests; incremental builds; dbt's data tests and the truth of a shop."""

from __future__ import annotations

import copy
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from dbt.contracts.graph.manifest import Manifest

from tests.integration import online_retail_files
from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.test_dbt_incremental import ANSWERS, CHANGES, HISTORY, differing_staging
from tests.mutations.operators import Mutant, mutants
from tests.pipeline import ROOT, Pipeline, differences, read_truth

#: An error of these kinds says that the fault is no SQL; such a mutant counts neither way.
_NO_SQL = ("Parser Error", "Binder Error", "Catalog Error", "Compilation Error")
#: Macros that are SQL of models rather than of dbt's own work.
MACRO_FILES = tuple(f"macros/{name}.sql" for name in ("versions", "staging", "engine/times", "engine/values"))
_QUIET = ("--log-level", "none", "--log-level-file", "none")
_WITHOUT_UNIT_TESTS = ("--exclude", "test_type:unit", "resource_type:seed")
#: The shops, in the order in which they judge; what dbt is told: Online Retail has a few days of each month only.
_ARGUMENTS = {"demo_shop": (), "online_retail": ("--vars", "{rows_per_open_day_min: 0}")}


@dataclass(frozen=True)
class Target:
    """A model or macro file whose SQL is mutated."""

    unique_id: str
    path: str
    source: str

    @property
    def model(self) -> str:
        """The name of the model; empty for a macro."""
        return self.unique_id.split(".")[2] if self.unique_id.startswith("model.") else ""

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
    place: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What names the mutant while lines move."""
        return self.path, self.context, self.operator, self.old, self.new


def place_of(target: Target, mutant: Mutant) -> str:
    """What names the mutant exactly, as long as its source stays as it is."""
    source = hashlib.md5(target.source.encode(), usedforsecurity=False).hexdigest()
    return f"{target.unique_id} {source} {mutant.start} {mutant.operator} {mutant.old} {mutant.new}"


class Judge:
    """Tries mutants upon copies of warehouses whose raw has a history and something new, and whose marts lack the new.

    Three of them: the changes that tests/integration/test_dbt_incremental.py writes by hand, in two loads; a demo shop
    with one day more; Online Retail with one month more and a corrected file, which has the entities that the demo shop
    lacks. The first two judge what the demo shop builds, the third what these let live.

    What a model does not reach is built beforehand, without the fault, once for all mutants of the model: it would
    come out the same each time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._states: dict[str, DbtWarehouse] = {}
        self._expected_changes: list[dict[str, list[tuple]]] = []
        self._expected: dict[str, dict[str, pd.DataFrame]] = {}
        self._prepared_for = ""

    def prepare(self) -> None:
        """Make the warehouses. Raises CommandFailed or AssertionError when the unmutated project is not green."""
        self._states["changes"] = warehouse = DbtWarehouse.create(self._folder / "changes")
        warehouse.parse()
        warehouse.load(HISTORY)
        warehouse.dbt("build", "--resource-type", "model", "seed")
        warehouse = self._copy("changes", "changed")
        for changes in (CHANGES, ANSWERS):
            warehouse.load(changes)
            warehouse.dbt("run", *_QUIET)
            self._expected_changes.append(warehouse.marts())

        pipeline = Pipeline(self._folder / "demo_shop", with_unit_tests=True)
        pipeline.run("demo-shop", "init", "--seed", "3", "--lines", "3000", "--days", "90")
        pipeline.ingest()
        pipeline.dbt("build")
        pipeline.run("demo-shop", "advance")
        pipeline.ingest()
        pipeline.run("demo-shop", "truth", "--out", str(self._folder / "truth"))
        self._take(pipeline)
        self._expected["demo_shop"] = read_truth(self._folder / "truth")

        files = online_retail_files.generate(self._folder / "files")
        pipeline = Pipeline(
            self._folder / "online_retail", "online_retail", self._folder / "months", with_unit_tests=True
        )
        months = sorted(files.glob("*.csv.gz"))
        (self._folder / "months").mkdir()
        for file in months[: -online_retail_files.DAYS_PER_MONTH]:
            shutil.copyfile(file, self._folder / "months" / file.name)
        pipeline.ingest()
        pipeline.dbt("build", *_ARGUMENTS["online_retail"])
        for file in months[-online_retail_files.DAYS_PER_MONTH :]:
            shutil.copyfile(file, self._folder / "months" / file.name)
        online_retail_files.rewrite(self._folder / "months" / months[1].name, {3: None, 5: None})
        pipeline.ingest()
        self._take(pipeline)
        # That these are right, tests/integration/test_online_retail.py says.
        self._expected["online_retail"] = Pipeline(self._states["online_retail, built"].home).marts()

    def _take(self, pipeline: Pipeline) -> None:
        """Keep a warehouse as it is, and built."""
        shutil.rmtree(pipeline.home / "lake")
        self._states[pipeline.shop] = warehouse = DbtWarehouse(pipeline.home, shop=pipeline.shop)
        warehouse.parse()
        built = self._copy(pipeline.shop, f"{pipeline.shop}, built")
        built.dbt("build", *_WITHOUT_UNIT_TESTS, *_ARGUMENTS[pipeline.shop], *_QUIET)

    def _prepare_for(self, target: Target) -> None:
        """Build what the target does not reach."""
        if self._prepared_for == target.unique_id:
            return
        for name, shop in (("changes", "demo_shop"), ("demo_shop", "demo_shop"), ("online_retail", "online_retail")):
            if not _is_of(target, self.manifest(shop)):
                continue
            warehouse = self._copy(name, f"{name}, beside the target")
            if name == "changes":
                warehouse.load(CHANGES)
            if target.model:  # A macro may be anywhere.
                warehouse.dbt("run", "--exclude", f"{target.model}+", *_ARGUMENTS[shop], *_QUIET)
        self._prepared_for = target.unique_id

    def targets(self) -> list[Target]:
        """The models that the shops build, and the macros that make their SQL."""
        found: dict[str, Target] = {}
        for shop in _ARGUMENTS:
            manifest = self.manifest(shop)
            for node in manifest.nodes.values():
                if node.resource_type == "model" and node.config.enabled:
                    found[node.unique_id] = Target(node.unique_id, node.original_file_path, node.raw_code)
            for macro in manifest.macros.values():
                # The suites that judge run on DuckDB; what the other engine says instead, the tests of parity hold.
                if macro.original_file_path not in MACRO_FILES or macro.name.startswith("postgres__"):
                    continue
                if macro.package_name == "shop_warehouse":
                    found[macro.unique_id] = Target(macro.unique_id, macro.original_file_path, macro.macro_sql)
        return sorted(found.values(), key=lambda target: (target.path, target.unique_id))

    def manifest(self, shop: str) -> Manifest:
        """The project, parsed for a shop."""
        warehouse = DbtWarehouse(self._folder / "parsed", shop=shop)
        warehouse.parse()
        return DbtWarehouse.manifests[warehouse.project, shop]

    def verdict(self, target: Target, mutant: Mutant) -> Verdict:
        """Try one mutant."""
        self._prepare_for(target)
        outcome, detail = "survived", ""
        for shop in _ARGUMENTS:
            if _is_of(target, self.manifest(shop)):
                outcome, detail = self._try(shop, target, mutant)
                if outcome != "survived":
                    break
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
            detail[:300],
            place_of(target, mutant),
        )

    def _try(self, shop: str, target: Target, mutant: Mutant) -> tuple[str, str]:
        unmutated = self.manifest(shop)
        project = DbtWarehouse(self._folder).project
        DbtWarehouse.manifests[project, shop] = _mutated(unmutated, target, mutant)
        try:
            return self._outcome(shop, target)
        except AssertionError as error:  # dbt's message
            message = str(error)
            return "invalid" if any(kind in message for kind in _NO_SQL) else "incremental builds", message
        finally:
            DbtWarehouse.manifests[project, shop] = unmutated

    def _outcome(self, shop: str, target: Target) -> tuple[str, str]:
        reached = ("--select", f"{target.model}+") if target.model else ()
        # Models that both shops build have their unit tests in the demo shop alone.
        if shop == "demo_shop" or not target.model or not _is_of(target, self.manifest("demo_shop")):
            unit_tests = f"{target.model},test_type:unit" if target.model else "test_type:unit"
            if killed := self._fails(self._copy(shop), "unit tests", "test", "--select", unit_tests):
                return killed
        if shop == "demo_shop" and (killed := self._breaks_changes(target, reached)):
            return killed
        for name, full_refresh in ((f"{shop}, beside the target", ()), (f"{shop}, built", ("--full-refresh",))):
            warehouse = self._copy(name)
            arguments = (*reached, *_WITHOUT_UNIT_TESTS, *_ARGUMENTS[shop], *full_refresh)
            if killed := self._fails(warehouse, "data tests", "build", *arguments):
                return killed
            if found := differences(Pipeline(warehouse.home).marts(), self._expected[shop]):
                return "truth", found[0]
        return "survived", ""

    def _breaks_changes(self, target: Target, reached: tuple[str, ...]) -> tuple[str, str] | None:
        warehouse = self._copy("changes, beside the target")
        for number, expected in enumerate(self._expected_changes):
            if number:
                warehouse.load(ANSWERS)
            warehouse.dbt("run", *(() if number else reached), *_QUIET)
            if warehouse.marts() != expected:
                return "incremental builds", "marts"
        if "/staging/" in target.path and (found := differing_staging(warehouse)):
            return "incremental builds", found[0]
        return None

    @staticmethod
    def _fails(warehouse: DbtWarehouse, by: str, *args: str) -> tuple[str, str] | None:
        result = warehouse.try_dbt(*args, *_QUIET)
        if result.success:
            return None
        message = DbtWarehouse.message(result)
        return "invalid" if any(error in message for error in _NO_SQL) else by, message

    def _copy(self, name: str, to: str = "mutant") -> DbtWarehouse:
        home = self._folder / to
        shutil.rmtree(home, ignore_errors=True)
        copied = self._states[name].copy(home)
        if to != "mutant":
            self._states[to] = copied
        return copied


def _is_of(target: Target, manifest: Manifest) -> bool:
    return not target.model or target.unique_id in manifest.nodes


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
