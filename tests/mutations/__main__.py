"""`scripts/mutate`: plant every fault, or a sample, and report which tests noticed which (see tests/README.md)."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.mutations.judge import Judge
from tests.mutations.proof import SHARE, judged, report


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 when less than 95 % of the mutants are killed."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="parts of the paths of models and macros")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants instead of all of them")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--verdicts",
        type=Path,
        metavar="FILE",
        help="keep the verdicts here, and judge no fault again that it has as noticed",
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        targets = Judge(Path(folder)).targets()
    chosen = [
        (target, mutant)
        for target in targets
        if not options.only or any(part in target.path for part in options.only)
        for mutant in target.mutants
    ]
    if options.sample:  # In their order: what a model does not reach is built once for all of its mutants.
        sample = random.Random(options.seed).sample(range(len(chosen)), min(options.sample, len(chosen)))
        chosen = [chosen[index] for index in sorted(sample)]
    verdicts = []
    for verdict in judged(chosen, options.processes, options.verdicts):
        verdicts.append(verdict)
        print(f"{len(verdicts)}/{len(chosen)} {verdict.path}:{verdict.line} {verdict.operator}: {verdict.outcome}")
    text, share = report(verdicts)
    print(text)
    return 0 if share >= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
