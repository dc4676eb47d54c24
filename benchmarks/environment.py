"""Environments apart from ours, which they may not change, each pinned by a lock file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ingestion.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def peers() -> Path:
    """The `bin` folder of other projects' software."""
    return pinned(ROOT / ".venv-peers", Path(__file__).with_name("requirements.lock"))


def pinned(folder: Path, lock: Path) -> Path:
    """The `bin` folder of the environment in `folder`; it is made first when it is not what `lock` says.

    Raises UserError when it cannot be made (no network, a package that is gone).
    """
    with lock.open("rb") as guard:
        # Two processes that ask at once make it once: the second waits.
        fcntl.flock(guard, fcntl.LOCK_EX)
        stamp, wanted = folder / ".made-from", _wanted(folder, lock)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _make(folder, lock)
            stamp.write_text(wanted)
    return folder / "bin"


def _wanted(folder: Path, lock: Path) -> str:
    """What the environment depends on: its place (scripts in it hold that path), the Python and the lock."""
    return f"{folder}\n{sys.version}\n{hashlib.sha256(lock.read_bytes()).hexdigest()}\n"


def _make(folder: Path, lock: Path) -> None:
    print(f"Making the environment in {folder.name} from {lock.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    uv = str(Path(sys.executable).with_name("uv"))
    # The system's certificates, as pip uses them: behind a company's proxy they are the only ones that fit.
    for step in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "sync", "--quiet", "--system-certs", "--require-hashes", "--python", str(folder), str(lock)],
    ):
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        done = subprocess.run(step, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
        if done.returncode:
            raise UserError(
                f"the environment in {folder.name} could not be made: '{' '.join(step[:3])}' failed, see above"
            )
