"""`warehouse-publish`: put the audited marts where BI reads them, whole or not at all, or bring a version back."""

from __future__ import annotations

import argparse
import sys
import time
from types import ModuleType

from ingestion import settings
from ingestion.errors import UserError
from ingestion.settings import POSTGRES, Settings


def _engine(home: Settings) -> ModuleType:
    """The module with `publish`, `bring_back` and `place` for this warehouse. Their drivers are nobody else's."""
    if home.engine == POSTGRES:
        from orchestration import publish_postgres

        return publish_postgres
    from orchestration import publish_duckdb

    return publish_duckdb


def main() -> None:
    """Publish the last build, or bring back a version of before."""
    parser = argparse.ArgumentParser(prog="warehouse-publish", description=main.__doc__)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--previous", action="store_true", help="bring back the version before the published one")
    wanted.add_argument("--version", type=int, metavar="N", help="bring back version N, which must have been kept")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        home = settings.load()
        engine = _engine(home)
        if arguments.previous or arguments.version is not None:
            done = f"brought back version {engine.bring_back(home, arguments.version).version}"
        else:
            version, is_new = engine.publish(home)
            done = (
                f"published version {version.version}" if is_new else f"version {version.version} is published already"
            )
        where = engine.place(home)
    except UserError as error:
        sys.exit(f"warehouse-publish: {error}")
    print(f"warehouse-publish: {done} ({time.monotonic() - started:.1f} s): {where}")


if __name__ == "__main__":
    main()
