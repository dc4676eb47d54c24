"""The tests notice small faults in the models' SQL.

Quick size: a few faults of a fixed sample. In full: `scripts/mutate`, which takes hours.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from tests.mutations.judge import Judge, Verdict, place_of
from tests.mutations.operators import Mutant, mutants
from tests.mutations.proof import judged, reasons, report

MODEL = """
with lines as (
    -- not <= this
    select * from {{ ref('a') }} as a left join {{ ref('b') }} as b on a.id = b.id
    where
        a.kind = 'x + y'
        and a.price > 0
)

select {{ money('sum(price) + 1') }} as price, coalesce(b.x, 10) as x,
    row_number() over (partition by a, b order by c desc) as n
"""


def changed(operator: str) -> set[tuple[str, str]]:
    """What the operator does to the model: old and new of each fault."""
    return {(mutant.old, mutant.new) for mutant in mutants(MODEL) if mutant.operator == operator}


def test_each_operator_finds_its_places_and_no_comment_string_or_jinja() -> None:
    assert changed("comparison") == {("=", "<>"), (">", ">=")}
    assert changed("join") == {("left join", "inner join")}
    assert changed("predicate") == {("and a.price > 0", "")}
    assert changed("sign") == {(" + ", " - ")}
    assert changed("aggregate") == {("sum(", "max("), ("row_number()", "rank()")}
    assert changed("coalesce") == {("coalesce(b.x, 10)", "b.x")}
    assert changed("boundary") == {("0", "1"), ("1", "2"), ("10", "11")}
    assert changed("unit") == {("10", "100")}
    assert changed("window") == {("a, b", "a"), ("a, b", "b"), ("desc", "asc")}


def test_a_fault_replaces_its_own_place_only() -> None:
    sign = next(mutant for mutant in mutants(MODEL) if mutant.operator == "sign")
    assert sign.applied_to(MODEL) == MODEL.replace("(price) + 1", "(price) - 1")
    assert sign.line_of(MODEL) == 10


def test_tests_kill_faults_of_each_layer(tmp_path) -> None:
    judge = Judge(tmp_path)
    judge.prepare()
    targets = {target.path: target for target in judge.targets()}
    chosen: list[tuple[str, Mutant]] = []
    for path, operator in (
        ("models/staging/demo_shop/stg_demo_shop__order_items.sql", "sign"),
        ("models/intermediate/versions/int_orders__current.sql", "join"),
        ("models/marts/sales/mart_daily_sales.sql", "aggregate"),
        ("models/staging/online_retail/base_online_retail__lines.sql", "comparison"),
    ):
        chosen.append((path, next(mutant for mutant in targets[path].mutants if mutant.operator == operator)))
    verdicts = [judge.verdict(targets[path], mutant) for path, mutant in chosen]
    assert {verdict.outcome for verdict in verdicts} <= {"unit tests", "incremental builds", "data tests", "truth"}
    assert verdicts[-1].outcome == "unit tests"  # What Online Retail alone builds has its unit tests there.
    text, share = report(verdicts)
    assert share == 1, text


def test_every_reason_is_of_a_fault_that_can_be_planted(tmp_path) -> None:
    planted = {
        (target.path, mutant.context_in(target.source), mutant.operator, mutant.old, mutant.new)
        for target in Judge(tmp_path).targets()
        for mutant in target.mutants
    }
    assert len(planted) > 300
    assert [key for key in reasons() if key not in planted] == []


def test_a_fault_that_was_noticed_or_explained_is_not_judged_again(tmp_path) -> None:
    path = "models/marts/customers/mart_customers.sql"
    target = next(target for target in Judge(tmp_path).targets() if target.path == path)
    verdicts = [
        Verdict(
            path,
            0,
            mutant.context_in(target.source),
            mutant.operator,
            mutant.old,
            mutant.new,
            "truth",
            place=place_of(target, mutant),
        )
        for mutant in target.mutants
    ]
    verdicts = [replace(verdict, outcome="survived") if verdict.key in reasons() else verdict for verdict in verdicts]
    assert {verdict.outcome for verdict in verdicts} == {"survived", "truth"}
    file = tmp_path / "verdicts.jsonl"
    file.write_text("".join(f"{json.dumps(asdict(verdict))}\n" for verdict in verdicts))
    assert list(judged([(target, mutant) for mutant in target.mutants], 1, file)) == verdicts
