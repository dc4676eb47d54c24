"""dbt as Meltano runs it (`scripts/dbt`): it ends when Meltano does.

After `kill -9` of Meltano it would build on to its end, and hold the warehouse against the next run. With `--if-new`
first, a complete build that would find nothing new is left out (orchestration/nothing_new.py).
"""

from __future__ import annotations

import os
import sys

from ingestion import lifeline

IF_NEW = "--if-new"


def is_needless() -> bool:
    """Whether the build would only repeat what is published; if it would not, dbt is told the hash of its inputs."""
    from ingestion import settings
    from orchestration import nothing_new

    home = settings.load()
    wanted = nothing_new.inputs_hash(home.shop, sys.argv[1:])
    if wanted is None or "--full-refresh" in sys.argv or os.environ.get("DBT_FULL_REFRESH"):
        return False
    if found := nothing_new.published_as_it_is(home, wanted):
        published, built_at = found
        print(
            f"Nothing was loaded since the build of {built_at:%Y-%m-%d %H:%M:%S} UTC, which is published as version"
            f" {published.version}: nothing to build. (`dbt build` builds all the same.)"
        )
        return True
    os.environ[nothing_new.VARIABLE] = wanted
    return False


if __name__ == "__main__":
    lifeline.tie("dbt")
    if sys.argv[1:2] == [IF_NEW]:
        del sys.argv[1]
        if is_needless():
            sys.exit()
    from dbt.cli.main import cli

    cli(prog_name="dbt")
