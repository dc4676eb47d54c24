"""dbt as Meltano runs it (`scripts/dbt`): it ends when Meltano does.

After `kill -9` of Meltano it would build on to its end, and hold the warehouse against the next run.
"""

from __future__ import annotations

from dbt.cli.main import cli

from ingestion import lifeline

if __name__ == "__main__":
    lifeline.tie("dbt")
    cli(prog_name="dbt")
