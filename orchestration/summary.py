"""What a run did, as plain data for last_run.json, and as the few lines that a person reads.

Money is text in the data: exact, as the marts hold it.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from ingestion.settings import Settings
from orchestration.publish_duckdb import marts, opened

MONTHS = 4
"""How many of the last months the revenue table shows."""
CATEGORIES = 10
"""How many categories the printed revenue table names; last_run.json has all of them."""

Record = dict[str, Any]


def streams(home: Settings, since: datetime) -> list[Record]:
    """Rows per stream that the target took up since then: extracted = loaded + quarantined + dropped."""
    if not home.warehouse_file.exists():
        return []
    try:
        with duckdb.connect(str(home.warehouse_file), read_only=True) as connection:
            return _records(
                connection,
                "select source || '-' || stream as stream, sum(rows_extracted)::bigint as extracted,"
                " sum(rows_loaded)::bigint as loaded, sum(rows_quarantined)::bigint as quarantined,"
                " sum(rows_dropped)::bigint as dropped, max(status) filter (status <> 'ok') is null as is_ok"
                " from ops.syncs where finished_at >= ? group by source, stream order by source, stream",
                [since],
            )
    except duckdb.IOException:
        return []  # another process holds the warehouse: the stage failed for it, and says so
    except duckdb.CatalogException:
        return []  # the run ended before the target made its tables


def build(home: Settings, since: datetime) -> Record | None:
    """The last dbt build, and whether it began since then; None when there was none."""
    with duckdb.connect(str(home.warehouse_file), read_only=True) as connection:
        try:
            rows = _records(
                connection,
                "select invocation_id, command, status, load_bound, models_built, tests_passed, failures,"
                " started_at >= ? as is_new from ops.builds order by build_number desc limit 1",
                [since],
            )
        except (duckdb.CatalogException, duckdb.BinderException):
            return None
    return rows[0] if rows else None


def revenue(published: Path) -> Record:
    """Sales by category in each of the last MONTHS months that have any."""
    with opened(published) as connection:
        rows = connection.execute(
            "select dates.year * 100 + dates.month as month, products.category, sum(orders.amount) as sales"
            " from fact_orders as orders"
            " join dim_date as dates on orders.date_id = dates.date_id"
            " join dim_products as products on orders.product_id = products.product_id"
            " group by all order by month, products.category"
        ).fetchall()
        currency = connection.execute("select max(currency) from fact_orders").fetchall()[0][0]
    months = sorted({row[0] for row in rows})[-MONTHS:]
    sales = {(category, month): amount for month, category, amount in rows}
    categories = sorted(
        {row[1] for row in rows}, key=lambda name: -sum(sales.get((name, month), 0) for month in months)
    )
    return {
        "currency": currency,
        "months": [f"{month // 100}-{month % 100:02d}" for month in months],
        "categories": [
            {"category": name, "sales": [str(sales.get((name, month), Decimal(0))) for month in months]}
            for name in categories
        ],
    }


def changes(previous: Path | None, published: Path) -> Record | None:
    """What differs from the version before: rows per mart, and the sums of money; None for the first version."""
    if previous is None:
        return None
    before, after = _figures(previous), _figures(published)
    return {
        "rows": [
            {"mart": name, "before": before["rows"].get(name, 0), "after": rows}
            for name, rows in after["rows"].items()
            if before["rows"].get(name, 0) != rows
        ],
        "sums": [
            {"sum": name, "before": str(before["sums"][name]), "after": str(value)}
            for name, value in after["sums"].items()
            if name in before["sums"] and before["sums"][name] != value
        ],
    }


def _figures(file: Path) -> dict[str, dict[str, Any]]:
    with opened(file) as connection:
        names = marts(connection)
        rows = {name: connection.execute(f'select count(*) from "{name}"').fetchall()[0][0] for name in names}
        sums = {}
        if "mart_daily_sales" in names:
            columns = ("sales", "shipping", "refunds", "adjustments", "net_sales")
            found = connection.execute(
                f"select {', '.join(f'coalesce(sum({column}), 0)' for column in columns)} from mart_daily_sales"
            ).fetchall()[0]
            sums = dict(zip(columns, found, strict=True))
    return {"rows": rows, "sums": sums}


def _records(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[Any] | None = None) -> list[Record]:
    result = connection.execute(query, parameters or [])
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def text(run: Record, where: str, next_commands: list[tuple[str, str]]) -> str:
    """The summary of a published run, ready to print; `where` follows the word Next."""
    parts = [_streams_text(run["streams"]), _build_text(run), _revenue_text(run["revenue"])]
    if run["changes"] is not None:
        parts.append(_changes_text(run["changes"]))
    parts.append("  ".join(f"{stage['name']} {stage['seconds']:.1f} s" for stage in run["stages"]))
    parts.append(f"Next{where}:\n" + "\n".join(f"  # {why}\n  {command}" for command, why in next_commands))
    return "\n\n".join(parts)


def _streams_text(rows: list[Record]) -> str:
    columns = ("extracted", "loaded", "quarantined", "dropped")
    table = [["stream", *columns]]
    table += [[row["stream"], *(f"{row[column]:,}" for column in columns)] for row in rows]
    table.append(["all", *(f"{sum(row[column] for row in rows):,}" for column in columns)])
    return _table(table)


def _build_text(run: Record) -> str:
    build, published = run["build"], run["published"]
    unchanged = "" if build["is_new"] else "Nothing new to build since: "
    return (
        f"{unchanged}{build['models_built']} models built, {build['tests_passed']} tests passed, "
        f"{build['failures']} failed. "
        f"Version {published['version']} is published: {published['file']}"
    )


def _revenue_text(revenue: Record) -> str:
    table = [[f"sales, {revenue['currency']}", *revenue["months"]]]
    table += [
        [row["category"], *(_money(amount) for amount in row["sales"])] for row in revenue["categories"][:CATEGORIES]
    ]
    rest = revenue["categories"][CATEGORIES:]
    if rest:
        sums = [sum(Decimal(row["sales"][index]) for row in rest) for index in range(len(revenue["months"]))]
        table.append([f"{len(rest)} more", *(_money(amount) for amount in sums)])
    return _table(table)


def _changes_text(changes: Record) -> str:
    table = [["changed", "before", "after", "difference"]]
    for row in changes["rows"]:
        table.append([row["mart"], f"{row['before']:,}", f"{row['after']:,}", f"{row['after'] - row['before']:+,}"])
    for row in changes["sums"]:
        before, after = Decimal(row["before"]), Decimal(row["after"])
        table.append([f"sum of {row['sum']}", _money(before), _money(after), f"{after - before:+,.2f}"])
    return _table(table) if len(table) > 1 else "Nothing changed against the version before."


def _money(amount: str | Decimal | int) -> str:
    return f"{Decimal(amount):,.2f}"


def _table(rows: list[list[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
