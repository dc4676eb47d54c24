"""`.venv-peers`: other projects' software, pinned by `requirements.lock`, apart from ours, which it may not change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ingestion.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
LOCK = Path(__file__).with_name("requirements.lock")
FOLDER = ROOT / ".venv-peers"


def peers() -> Path:
    """The environment's `bin` folder; it is made first when it is not what the lock says.

    Raises UserError when it cannot be made (no network, a package that is gone).
    """
    with LOCK.open("rb") as guard:
        # Two processes that ask at once make it once: the second waits.
        fcntl.flock(guard, fcntl.LOCK_EX)
        stamp, wanted = FOLDER / ".made-from", _wanted()
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _make()
            stamp.write_text(wanted)
    return FOLDER / "bin"


def _wanted() -> str:
    """What the environment depends on: its place (scripts in it hold that path), the Python and the lock."""
    return f"{FOLDER}\n{sys.version}\n{hashlib.sha256(LOCK.read_bytes()).hexdigest()}\n"


def _make() -> None:
    print(f"Making the environment in {FOLDER.name} from benchmarks/{LOCK.name} ...", file=sys.stderr, flush=True)
    uv = str(Path(sys.executable).with_name("uv"))
    # The system's certificates, as pip uses them: behind a company's proxy they are the only ones that fit.
    for step in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER)],
        [uv, "pip", "sync", "--quiet", "--system-certs", "--require-hashes", "--python", str(FOLDER), str(LOCK)],
    ):
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        done = subprocess.run(step, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
        if done.returncode:
            raise UserError(
                f"the environment in {FOLDER.name} could not be made: '{' '.join(step[:3])}' failed, see above"
            )
