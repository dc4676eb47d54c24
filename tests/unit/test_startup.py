"""Taps and the target start without what they never use, and nothing breaks when it is used after all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ONLY_WHAT_IS_USED = "from ingestion.startup import import_only_what_is_used as f; f()\n"
LOADED = "print(*[name for name, module in sys.modules.items() if type(module).__module__ != 'ingestion.startup'])"
HEAVY = {"adbc_driver_manager", "adbc_driver_postgresql", "duckdb", "numpy", "pyarrow"}
UNUSED = {"joblib", "pandas", "requests", "singer_sdk.streams.rest", "upath", "urllib3"}


def python(code: str, home: Path | None = None, text: str = "") -> str:
    """What a new Python process prints; it must succeed."""
    environment = os.environ | ({"WAREHOUSE_HOME": str(home), "WAREHOUSE_SHOP": "demo_shop"} if home else {})
    done = subprocess.run([sys.executable, "-c", code], input=text, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(program: str, home: Path, text: str = "") -> set[str]:
    """The modules that a run of a program has loaded."""
    run = (
        f"import sys; from ingestion.startup import {program}\n"
        f"try: {program}()\nexcept SystemExit as end: assert not end.code\n{LOADED}"
    )
    return set(python(run, home, text).splitlines()[-1].split())


def schema(stream: str) -> str:
    """A SCHEMA message."""
    properties = {"id": {"type": "integer"}}
    message = {"type": "SCHEMA", "stream": stream, "schema": {"properties": properties}, "key_properties": ["id"]}
    return json.dumps(message) + "\n"


@pytest.mark.parametrize("module", ["ingestion.taps.files", "ingestion.taps.postgres"])
def test_a_tap_imports_no_arrow_no_duckdb_and_no_adbc_until_it_reads(module):
    modules = set(python(f"{ONLY_WHAT_IS_USED}import sys, {module}\n{LOADED}").split())
    assert "singer_sdk.tap_base" in modules
    assert not (HEAVY | UNUSED) & modules


def test_a_run_of_the_target_with_nothing_to_load_imports_no_arrow(tmp_path):
    modules = loaded("target_warehouse", tmp_path, schema("shop-a"))
    assert "duckdb" in modules
    assert not ({"pyarrow", "numpy"} | UNUSED) & modules


def test_a_run_of_the_target_with_rows_imports_no_numpy_and_nothing_of_http(tmp_path):
    record = '{"type": "RECORD", "stream": "shop-a", "record": {"id": 1}}\n'
    modules = loaded("target_warehouse", tmp_path, schema("shop-a") + record)
    assert {"duckdb", "pyarrow"} <= modules
    assert not ({"numpy"} | UNUSED) & modules


@pytest.mark.parametrize(
    ("use", "printed"),
    [
        ("import requests; print(requests.Session.__name__)", "Session"),
        ("import requests.exceptions; print(requests.exceptions.Timeout.__name__)", "Timeout"),
        ("from upath import UPath; print(UPath('/a') / 'b')", "/a/b"),
        ("from joblib import Parallel, delayed; print(Parallel()([delayed(abs)(-1)]))", "[1]"),
        ("import pyarrow; print(pyarrow.array(['a'])[0])", "a"),
        ("import pyarrow.compute as pc; print(pc.equal(1, 1))", "True"),
        ("import pyarrow.dataset as ds; print(ds.field('a'))", "a"),
        ("import pyarrow; print(pyarrow.__version__ > '1')", "True"),
        ("import numpy as np, pyarrow as pa; print(pa.array(np.arange(2))[1], pa.array([7]).to_numpy()[0])", "1 7"),
        ("import duckdb; print(duckdb.connect().execute('select 1').fetchall())", "[(1,)]"),
        ("import adbc_driver_postgresql.dbapi as dbapi; print(dbapi.paramstyle)", "pyformat"),
    ],
)
def test_a_module_that_is_held_back_is_there_when_it_is_used(use, printed):
    assert python(ONLY_WHAT_IS_USED + "import singer_sdk\n" + use).strip() == printed


@pytest.mark.parametrize("program", ["tap_files", "tap_postgres", "target_warehouse"])
def test_garbage_is_looked_for_while_a_program_runs_and_not_among_its_modules(program):
    look = "import atexit, gc; atexit.register(lambda: print(gc.isenabled(), started > 50_000, at_end() > 50_000))\n"
    counts = "at_end = lambda: gc.get_freeze_count() - started\n"
    # What a run leaves comes after the start, and is frozen at the end.
    run = (
        f"import sys; sys.argv = ['x', '--version']; from ingestion.startup import {program} as f\ntry: f()\n"
        "finally: started = gc.get_freeze_count(); left = [[] for _ in range(60_000)]"
    )
    assert python(look + counts + run).splitlines()[-1] == "True True True"
