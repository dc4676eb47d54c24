"""The command `demo-shop`."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import click

from ingestion import settings
from ingestion.demo_shop import shop
from ingestion.demo_shop.world import Config
from ingestion.errors import UserError


class _Group(click.Group):
    """Shows a UserError as one line and exits with 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except UserError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def main() -> None:
    """A simulated shop whose systems, as files, change day by day."""


@main.command()
@click.option("--seed", default=7, show_default=True, help="Another seed, another shop.")
@click.option("--start", default="2024-07-01", show_default=True, type=click.DateTime(["%Y-%m-%d"]), help="First day.")
@click.option("--days", default=730, show_default=True, type=click.IntRange(1, 20_000), help="Length of the history.")
@click.option(
    "--lines",
    default=100_000,
    show_default=True,
    type=click.IntRange(1, 1_000_000_000),
    help="About so many order lines.",
)
@click.option("--force", is_flag=True, help="Remove an existing demo shop and its files first.")
def init(seed: int, start: datetime, days: int, lines: int, force: bool) -> None:
    """Write the history."""
    here = settings.load()
    first: date = start.date()
    shop.init(Config(seed, first, days, lines), here.home, here.data, force=force, say=click.echo)


@main.command()
@click.option("--days", default=1, show_default=True, type=click.IntRange(1), help="How many days.")
def advance(days: int) -> None:
    """Move the shop on, one set of files per day."""
    here = settings.load()
    for _ in range(days):
        shop.advance(here.home, here.data, say=click.echo)


@main.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write to.")
@click.option("--source", type=click.Path(path_type=Path, file_okay=False), help="The shop's files.  [WAREHOUSE_DATA]")
def truth(out: Path, source: Path | None) -> None:
    """Write what the marts should hold, computed from the files alone."""
    # pandas is needed here only, and slow to import.
    from ingestion.demo_shop import truth as oracle

    oracle.write(source or settings.load().data, out)
    click.echo(f"demo shop: truth written to {out}")
