"""dbt's parsed project, handed from one home to the next: a whole parse takes some ten processor seconds.

dbt parses again when the home changes, since profiles.yml and dbt_project.yml read `WAREHOUSE_HOME`: the file of its
last parse holds two hashes, of the profile and of these variables. Nothing in the project itself is different, so that
the same file serves with these hashes replaced. Everything else that has changed dbt finds, file by file.
tests/integration/test_parsed_project.py says whether dbt takes it.
"""

from __future__ import annotations

import pprint
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from dbt.artifacts.resources import FileHash
from dbt.config.runtime import load_profile
from dbt.flags import set_from_args
from dbt_common.context import set_invocation_context

FILE = Path("dbt/partial_parse.msgpack")
_VARIABLES = ("WAREHOUSE_HOME", "WAREHOUSE_SHOP")
#: By shop; of the project itself, which serves copies of it with some files changed, too.
_kept: dict[str, tuple[bytes, list[bytes]]] = {}


def hand_over(env: Mapping[str, str]) -> None:
    """Give a home where dbt has not run what an earlier one has parsed, if any has."""
    file, kept = Path(env["WAREHOUSE_HOME"]) / FILE, _kept.get(env["WAREHOUSE_SHOP"])
    if kept and not file.parent.exists():
        file.parent.mkdir(parents=True)
        file.write_bytes(_replaced(kept[0], kept[1], _hashes(env)))


def keep(env: Mapping[str, str]) -> None:
    """Keep what dbt has parsed in a home, if it is the first of its shop."""
    file, shop = Path(env["WAREHOUSE_HOME"]) / FILE, env["WAREHOUSE_SHOP"]
    if shop not in _kept and file.exists():
        content, hashes = file.read_bytes(), _hashes(env)
        # Of another engine, which `meltano --environment` chose, or of a dbt that hashes in another way.
        if all(content.count(each) == 1 for each in hashes):
            _kept[shop] = content, hashes


def move(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Make what dbt has parsed in a home, which was copied, that of the copy."""
    file = Path(after["WAREHOUSE_HOME"]) / FILE
    if file.exists():
        file.write_bytes(_replaced(file.read_bytes(), _hashes(before), _hashes(after)))


def _replaced(content: bytes, before: list[bytes], after: list[bytes]) -> bytes:
    for old, new in zip(before, after, strict=True):
        content = content.replace(old, new)
    return content


def _hashes(env: Mapping[str, str]) -> list[bytes]:
    """dbt's `profile_hash` and `project_env_vars_hash` (dbt.parser.manifest, `build_manifest_state_check`)."""
    set_from_args(Namespace(PROFILES_DIR=env["DBT_PROFILES_DIR"]), None)
    set_invocation_context(dict(env))
    connection = sorted(load_profile(env["DBT_PROJECT_DIR"], {}).credentials.connection_info())
    variables = "".join(f"{name}:{env[name]}|" for name in _VARIABLES)
    texts = (pprint.pformat(connection), variables)
    return [FileHash.from_contents(text).checksum.encode() for text in texts]
