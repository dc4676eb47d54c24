"""The warehouse of the settings, opened by its engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from ingestion.errors import UserError
from ingestion.lake import first_line
from ingestion.lake.checking import Ledger, asking, check_shop, read_ledger
from ingestion.settings import POSTGRES, Settings
from ingestion.target.core import Engine
from ingestion.target.duckdb import DuckDBEngine, open_existing


def open_warehouse(
    home: Settings,
    *,
    warehouse_file: str | Path | None = None,
    shop: str | None = None,
    lake: Path | None = None,
    memory_limit: str,
    threads: int,
) -> Engine:
    """Open the warehouse to write in it, alone; file, shop and lake are those of the settings unless they are given.

    Raises UserError when it is in use, is another shop's or cannot be opened.
    """
    shop = shop or home.shop
    if home.engine == POSTGRES:
        # Its drivers are nobody else's.
        from ingestion.target.postgres import PostgresEngine

        return PostgresEngine(
            shop, (lake or home.lake) / "_spill" / "postgres", memory_limit=memory_limit, threads=threads
        )
    file = Path(warehouse_file or home.warehouse_file)
    return DuckDBEngine(file, shop, memory_limit=memory_limit, threads=threads)


@contextlib.contextmanager
def held_ledger(home: Settings) -> Iterator[Ledger | None]:
    """The ledger of the warehouse, which no target can open meanwhile; None where there is no warehouse.

    Raises UserError when it is in use, is another shop's or cannot be read.
    """
    if home.engine == POSTGRES:
        from ingestion.target.postgres import PostgresEngine

        with contextlib.closing(PostgresEngine.existing(home)) as engine:
            yield engine.ledger() if engine.has_ops() else None
        return
    if not home.warehouse_file.exists():
        yield None
        return
    with contextlib.ExitStack() as held:
        try:
            con = held.enter_context(open_existing(home.warehouse_file, read_only=True))
            check_shop(asking(con), str(home.warehouse_file), home.shop)
            ledger = read_ledger(asking(con))
        except duckdb.Error as error:
            raise UserError(
                f"{home.warehouse_file} cannot be read: {first_line(error)}; `warehouse-lake rebuild` makes it anew"
            ) from error
        yield ledger
