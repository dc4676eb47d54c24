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
    """A simulated shop whose systems, as files or a PostgreSQL and files, change day by day."""


_INTO = click.Choice([shop.FILES, shop.POSTGRES])


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
@click.option(
    "--into",
    default=shop.FILES,
    show_default=True,
    type=_INTO,
    help="Where orders, order_items and refunds live; all else is files.",
)
@click.option("--force", is_flag=True, help="Remove an existing demo shop, its files and its rows first.")
def init(seed: int, start: datetime, days: int, lines: int, into: str, force: bool) -> None:
    """Write the history."""
    here = settings.load()
    first: date = start.date()
    config = Config(seed, first, days, lines)
    shop.init(config, here.home, here.data, into=into, force=force, say=click.echo)


@main.command()
@click.option("--days", default=1, show_default=True, type=click.IntRange(1), help="How many days.")
@click.option("--into", type=_INTO, help="Checked, if given: a shop goes on where it was opened.")
def advance(days: int, into: str | None) -> None:
    """Move the shop on, day by day."""
    here = settings.load()
    for _ in range(days):
        shop.advance(here.home, here.data, into=into, say=click.echo)


@main.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write to.")
@click.option("--source", type=click.Path(path_type=Path, file_okay=False), help="The shop's files.  [WAREHOUSE_DATA]")
def truth(out: Path, source: Path | None) -> None:
    """Write what the marts should hold, computed from the shop's systems alone."""
    # pandas is needed here only, and slow to import.
    from ingestion.demo_shop import truth as oracle

    here = settings.load()
    memory = shop.Memory.load(here.home)
    with shop.open_database(memory.into if memory and not source else shop.FILES) as database:
        oracle.write(source or here.data, out, database)
    click.echo(f"demo shop: truth written to {out}")
