"""A Meltano project for measuring: the project's own meltano.yml, and a tap and a target that idle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from benchmarks.environment import ROOT


def make_project(folder: Path) -> None:
    """Write the project; its plugins run from this project's environment, as users' do."""
    document = yaml.safe_load((ROOT / "meltano.yml").read_text())
    for kind, role in (("extractors", "tap"), ("loaders", "target")):
        executable = str(Path(__file__).with_name(f"idle_{role}.py"))
        document["plugins"][kind].append(
            {"name": f"{role}-idle", "namespace": f"{role}_idle", "executable": executable, "capabilities": []}
        )
    # An environment of its own: the project's say which streams a shop has.
    document |= {"environments": [{"name": "bench"}], "default_environment": "bench"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meltano.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    link = folder / ".venv"
    if not link.exists():
        link.symlink_to(ROOT / ".venv")


def environment(home: Path, **more: str) -> Mapping[str, str]:
    """A user's shell, for the warehouse in `home`, without what this one sets for the project or for Python."""
    ours = ("WAREHOUSE_", "TAP_", "TARGET_", "MELTANO_", "PYTHON")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return inherited | {"PATH": path, "WAREHOUSE_HOME": str(home), "WAREHOUSE_SHOP": "demo_shop"} | more
