"""Taps and the target start without what they never use, and nothing breaks when it is used after all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ONLY_WHAT_IS_USED = "from ingestion.startup import import_only_what_is_used as f; f()\n"
LOADED = "print(*[name for name, module in sys.modules.items() if type(module).__module__ != 'ingestion.startup'])"


def python(code: str, home: Path | None = None, text: str = "") -> str:
    """What a new Python process prints; it must succeed."""
    environment = os.environ | ({"WAREHOUSE_HOME": str(home), "WAREHOUSE_SHOP": "demo_shop"} if home else {})
    done = subprocess.run([sys.executable, "-c", code], input=text, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_of_the_target_imports_no_http_client_no_process_pool_and_no_pandas(tmp_path):
    messages = (
        '{"type": "SCHEMA", "stream": "shop-a", "schema": {"properties": {"id": {"type": "integer"}}},'
        ' "key_properties": ["id"]}\n{"type": "RECORD", "stream": "shop-a", "record": {"id": 1}}\n'
    )
    run = (
        "import sys; from ingestion.startup import target_warehouse\n"
        f"try: target_warehouse()\nexcept SystemExit as end: assert not end.code\n{LOADED}"
    )
    loaded = python(run, tmp_path, messages).split()
    assert "duckdb" in loaded and "singer_sdk" in loaded
    assert not {"pandas", "requests", "urllib3", "joblib", "upath"}.intersection(loaded)


@pytest.mark.parametrize(
    ("use", "printed"),
    [
        ("import requests.exceptions; print(requests.exceptions.Timeout.__name__)", "Timeout"),
        ("from urllib3.util import Retry; print(Retry.__name__)", "Retry"),
        ("from upath import UPath; print(UPath('/a') / 'b')", "/a/b"),
        ("from joblib import Parallel, delayed; print(Parallel()([delayed(abs)(-1)]))", "[1]"),
        ("import pyarrow; print(pyarrow.array(['a'])[0])", "a"),
    ],
)
def test_a_module_that_is_held_back_is_there_when_it_is_used(use, printed):
    assert python(ONLY_WHAT_IS_USED + "import singer_sdk\n" + use).strip() == printed
