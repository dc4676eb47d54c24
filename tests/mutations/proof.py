"""The verdicts on many mutants, several at a time, and the report on them."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import yaml

from tests.mutations.judge import Judge, Target, Verdict, place_of
from tests.mutations.operators import Mutant

REASONS = Path(__file__).with_name("equivalent.yml")
SHARE = 0.95


def reasons() -> dict[tuple[str, ...], str]:
    """Why a mutant that survives changes no result, by its key."""
    entries = yaml.safe_load(REASONS.read_text()) or []
    return {
        (entry["path"], entry["line"], entry["operator"], entry["old"], entry["new"]): entry["reason"]
        for entry in entries
    }


def judged(chosen: list[tuple[Target, Mutant]], processes: int, out: Path | None) -> Iterable[Verdict]:
    """The verdicts, each written to `out` as soon as it is known; each process makes a shop of its own.

    What an earlier run wrote there, of the same source, is not judged again, unless the fault had survived and nobody
    has said why.
    """
    if out and out.exists():
        known = [Verdict(**json.loads(line)) for line in out.read_text().splitlines()]
        explained = reasons()
        earlier = {
            verdict.place: verdict for verdict in known if verdict.outcome != "survived" or verdict.key in explained
        }
        found = [earlier.get(place_of(*each)) for each in chosen]
        yield from (verdict for verdict in found if verdict)
        chosen = [each for each, verdict in zip(chosen, found, strict=True) if not verdict]
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as folder,
        ProcessPoolExecutor(processes, get_context("spawn")) as pool,
    ):
        for verdict in pool.map(_verdict, repeat(folder), chosen):
            if out:
                with out.open("a") as file:
                    file.write(json.dumps(asdict(verdict)) + "\n")
            yield verdict


_judges: dict[str, Judge] = {}


def _verdict(folder: str, chosen: tuple[Target, Mutant]) -> Verdict:
    if folder not in _judges:
        _judges[folder] = Judge(Path(tempfile.mkdtemp(dir=folder)))
        _judges[folder].prepare()
    return _judges[folder].verdict(*chosen)


def report(verdicts: list[Verdict]) -> tuple[str, float]:
    """A table by operator, the survivors with their reasons, and the share of mutants that were killed.

    A survivor that `equivalent.yml` explains counts neither way.
    """
    known = reasons()
    valid = [verdict for verdict in verdicts if verdict.outcome != "invalid"]
    survivors = [verdict for verdict in valid if verdict.outcome == "survived"]
    explained = [verdict for verdict in survivors if verdict.key in known]
    counted = len(valid) - len(explained)
    share = 1 - (len(survivors) - len(explained)) / counted if counted else 0.0
    outcomes = ("unit tests", "incremental builds", "data tests", "truth", "survived", "invalid")
    lines = ["| operator | " + " | ".join(outcomes) + " |", "| --- |" + " --- |" * len(outcomes)]
    by_operator = Counter((verdict.operator, verdict.outcome) for verdict in verdicts)
    for operator in sorted({verdict.operator for verdict in verdicts}):
        counts = " | ".join(str(by_operator[operator, outcome]) for outcome in outcomes)
        lines.append(f"| {operator} | {counts} |")
    lines.append("")
    for verdict in survivors:
        reason = known.get(verdict.key, "NOT EXPLAINED")
        lines.append(
            f"- {verdict.path}:{verdict.line} {verdict.operator}: `{' '.join(verdict.old.split())}` ->"
            f" `{' '.join(verdict.new.split())}`: {reason}"
        )
    lines.append("")
    lines.append(
        f"{len(verdicts)} mutants, {len(verdicts) - len(valid)} of them no SQL, {len(explained)} equivalent with a"
        f" reason; killed {share:.1%} of the other {counted}"
    )
    return "\n".join(lines), share
