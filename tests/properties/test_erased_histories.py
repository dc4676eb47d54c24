"""Whatever files did before and after, the lake has what they have now, but for what is personal of erased persons."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.integration.tap_files_runs import content_of
from tests.integration.test_erased_lake import PERSONAL, Crm, user
from tests.integration.test_erased_tap_files import erase

# Few users whose versions differ by what is personal alone, so that rows become equal; "!" is a line that is broken,
# None one whose record breaks a rule.
LINE = st.one_of(
    st.tuples(st.just(17), st.integers(1, 3), st.just(False)),
    st.tuples(st.sampled_from([17, 18, 19]), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("!"), st.sampled_from([17, 18]), st.integers(1, 2)),
    st.tuples(st.none(), st.sampled_from([17, 18]), st.integers(1, 2)),
)
FILES = st.fixed_dictionaries({}, optional={name: st.lists(LINE, max_size=5) for name in "ab"})
STEP = st.one_of(FILES, st.sampled_from([17, 18]))


def written(crm: Crm, lines: list[tuple]) -> bytes:
    """A file; versions of a user with the same time differ by what is personal alone."""
    users: list[dict | str] = []
    for first, second, third in lines:
        if first == "!":
            users.append(f"{second},{user(second, third)['name']},{user(second, third)['email']},x")
        elif first is None:
            users.append(user(second, third, updated_at="soon"))
        else:
            users.append(user(first, second, updated_at=f"2026-01-0{second if third else 1} 10:00:00"))
    return crm.written(users).encode()


def good(content: str, gone: set[int]) -> Counter:
    """The good records of a file, without what is personal of those who are gone."""
    header, *lines = csv.reader(io.StringIO(content))
    records = [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]
    found: Counter = Counter()
    for record in records:
        if record["updated_at"] != "soon":
            nothing = PERSONAL if int(record["user_id"]) in gone else ()
            found[content_of({n: None if n in nothing or v == "" else v for n, v in record.items()})] += 1
    return found


def test_the_lake_holds_the_files_without_erased_persons(full, monkeypatch):
    @settings(max_examples=60 if full else 6, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.lists(STEP, min_size=2, max_size=6))
    def check(steps):
        with tempfile.TemporaryDirectory() as folder:
            monkeypatch.setenv("WAREHOUSE_HOME", folder)
            play(Crm(Path(folder)), steps)

    check()


def play(crm: Crm, steps: list[dict[str, list[tuple]] | int]) -> None:
    """Write files and erase persons in turn, and compare."""
    gone: set[int] = set()
    crm.put("users/0.csv", written(crm, [(19, 1, True)]))
    for step in steps:
        if isinstance(step, int):
            gone.add(step)
            erase(crm, *gone)
        else:
            for name, lines in step.items():
                # A file with the content of another would be a copy, and have no rows of its own.
                crm.put(f"users/{name}.csv", written(crm, [*lines, (ord(name), 1, True)]))
            crm.ingest()
            crm.ingest()
        assert crm.check() == []
        crm.assert_counted()
        if crm.batches:
            texts = crm.texts()
            emails = [user(number, version)["email"] for number in gone for version in (1, 2, 3)]
            assert not [email for email in emails if email in texts]
    crm.ingest()
    for path in sorted(crm.data.rglob("*.csv")):
        name = path.relative_to(crm.data).as_posix()
        assert crm.current(name) == good(path.read_text(), gone)
    loaded = len(crm.batches)
    for path in sorted(crm.data.rglob("*.csv")):
        crm.put(path.relative_to(crm.data).as_posix(), path.read_bytes() + b"\n")
    crm.ingest()
    assert all(batch.rows_loaded == batch.rows_quarantined == 0 for batch in crm.batches[loaded:])
