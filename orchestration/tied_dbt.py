"""dbt as Meltano runs it (`scripts/dbt`): it ends when Meltano does.

After `kill -9` of Meltano it would build on to its end, and hold the warehouse against the next run. With `--if-new`
first, a complete build that would find nothing new is left out (orchestration/nothing_new.py).

Where the warehouse is a database of PostgreSQL, dbt is told where: it cannot read PostgreSQL's service file.
"""

from __future__ import annotations

import os
import sys

from ingestion import lifeline
from ingestion.errors import UserError

IF_NEW = "--if-new"
SERVICE = "warehouse_transformer"
"""The connection's name in PostgreSQL's service file."""
VARIABLES = {"host": "HOST", "port": "PORT", "dbname": "DATABASE", "user": "USER", "password": "PASSWORD"}
"""libpq's parameters, and the variables of dbt_project/profiles.yml: WAREHOUSE_POSTGRES_<name>."""
SSL_VARIABLES = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}
"""What libpq itself takes from the environment, in whatever program."""


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


def connect_to_postgres() -> None:
    """Set what is unset of the variables by which dbt finds the database; nothing where the engine is another.

    Raises UserError when the connection is needed and the service file has none.
    """
    from ingestion import postgres_service, settings

    if settings.load().engine != settings.POSTGRES:
        return
    variables = {name: f"WAREHOUSE_POSTGRES_{variable}" for name, variable in VARIABLES.items()}
    if all(os.environ.get(variable) for variable in variables.values()):
        return
    said = postgres_service.connection(SERVICE)
    for name, variable in (variables | SSL_VARIABLES).items():
        if name in said and not os.environ.get(variable):
            os.environ[variable] = said[name]


if __name__ == "__main__":
    lifeline.tie("dbt")
    try:
        connect_to_postgres()
    except UserError as error:
        sys.exit(f"dbt: {error}")
    if sys.argv[1:2] == [IF_NEW]:
        del sys.argv[1]
        if is_needless():
            sys.exit()
    from dbt.cli.main import cli

    cli(prog_name="dbt")
