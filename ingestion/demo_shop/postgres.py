"""The shop's order database as a real PostgreSQL: the tables `shop.orders`, `shop.order_items`, `shop.refunds`.

A database holds one state per key where files tell every version. Rows of a period are applied in the order of their
`updated_at`, and an older version that arrives after a newer one changes nothing: at the end of each day the tables
hold what the files have said until then. A period applied twice is one applied once, so a killed command can be
repeated.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from ingestion import postgres_service
from ingestion.demo_shop.files import FileStream
from ingestion.errors import UserError

SERVICE = "shop_owner"
"""The connection's name in PostgreSQL's service file."""
SCHEMA = "shop"


@dataclass(frozen=True)
class Table:
    """A table as the shop's application made it; the first column is its key, and the columns are the file's."""

    columns: Mapping[str, str]

    @property
    def key(self) -> str:
        """The name of the primary key."""
        return next(iter(self.columns))


_MOMENT, _MONEY = "timestamptz", "numeric(12,2)"
_VERSION = {"updated_at": f"{_MOMENT} not null", "deleted_at": _MOMENT}
TABLES = {
    "orders": Table(
        {
            "order_id": "bigint primary key",
            "user_id": "bigint",
            "status": "text",  # several applications write it, each with its own words
            "ordered_at": "text",  # and in its own notation
            "cancelled_at": _MOMENT,
            "shipping_cost": _MONEY,
            "currency": "text",
            **_VERSION,
        }
    ),
    "order_items": Table(
        {
            "order_line_id": "bigint primary key",
            "order_id": "bigint",
            "product_id": "bigint",
            "quantity": "integer",
            "unit_price": _MONEY,
            "discount": _MONEY,
            "created_at": _MOMENT,
            **_VERSION,
        }
    ),
    "refunds": Table(
        {
            "refund_id": "bigint primary key",
            "order_line_id": "bigint",
            "order_id": "bigint",
            "amount": _MONEY,
            "reason": "text",
            "refunded_at": _MOMENT,
            **_VERSION,
        }
    ),
}
"""By entity. There are no foreign keys: lines come before their orders, and some orders never come."""


class OrderDatabase:
    """A connection to the shop's database, as the role that owns its tables."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        """Connect as the service file says.

        Raises UserError when there is no such server, and for whatever the server refuses later.
        """
        parameters = postgres_service.connection(SERVICE)
        try:
            connection = psycopg2.connect(**parameters, application_name="demo-shop")
        except psycopg2.OperationalError as error:
            raise UserError(
                f"the shop's PostgreSQL cannot be reached: {' '.join(str(error).split())};"
                " `scripts/services up` starts it"
            ) from error
        try:
            yield cls(connection)
        except psycopg2.Error as error:
            raise UserError(f"the shop's PostgreSQL refused: {' '.join(str(error).split())}") from error
        finally:
            connection.close()

    def create_tables(self) -> None:
        """Make the tables that are not there yet."""
        with self._connection, self._connection.cursor() as cursor:
            for name, table in TABLES.items():
                columns = ", ".join(f"{column} {kind}" for column, kind in table.columns.items())
                cursor.execute(f"create table if not exists {SCHEMA}.{name} ({columns})")

    def holds_rows(self) -> bool:
        """Whether any of the tables has a row."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("select " + " or ".join(f"exists (select from {SCHEMA}.{name})" for name in TABLES))
            return cursor.fetchall()[0][0]

    def empty_tables(self) -> None:
        """Remove every row."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("truncate " + ", ".join(f"{SCHEMA}.{name}" for name in TABLES))

    @contextmanager
    def period(self, *, is_history: bool) -> Iterator[Period]:
        """One month or day: everything in it is applied in one transaction, when the block ends."""
        with self._connection, self._connection.cursor() as cursor:
            period = Period(cursor)
            yield period
            period.apply(is_history=is_history)

    def read(self, entity: str) -> str:
        """A table as the CSV file that it replaces, header included, by key."""
        columns = ", ".join(
            f"to_char({column} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as {column}"
            if kind.startswith(_MOMENT)
            else column
            for column, kind in TABLES[entity].columns.items()
        )
        text = io.StringIO()
        with self._connection, self._connection.cursor() as cursor:
            query = f"select {columns} from {SCHEMA}.{entity} order by {TABLES[entity].key}"
            cursor.copy_expert(f"copy ({query}) to stdout with (format csv, header)", text)
        return text.getvalue()


class Period:
    """The rows that arrive in one month or day."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        for name in TABLES:
            cursor.execute(f"create temporary table arriving_{name} (like {SCHEMA}.{name}) on commit drop")

    def write(self, stream: FileStream, rows: pa.Array) -> None:
        """Take in one part of one stream, as CSV lines."""
        text = pc.binary_join(pa.array([rows], pa.list_(pa.string())), "\n")[0].as_py()
        self._cursor.copy_expert(f"copy arriving_{stream.entity} from stdin with (format csv)", io.StringIO(text))

    def apply(self, *, is_history: bool) -> None:
        """Write what arrived: every version in its turn, or, for the history that nobody watches, the last alone."""
        for name, table in TABLES.items():
            columns = list(table.columns)
            self._cursor.execute(
                f"create temporary table ranked_{name} on commit drop as select *, row_number() over"
                f" (partition by {table.key} order by updated_at {'desc' if is_history else ''}) as turn"
                f" from (select distinct * from arriving_{name}) as versions"
            )
            self._cursor.execute(f"select coalesce(max(turn), 0) from ranked_{name}")
            turns = 1 if is_history else self._cursor.fetchall()[0][0]
            changes = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
            for turn in range(1, turns + 1):
                self._cursor.execute(
                    f"insert into {SCHEMA}.{name} as known select {', '.join(columns)} from ranked_{name}"
                    f" where turn = {turn} order by {table.key}"
                    f" on conflict ({table.key}) do update set {changes} where known.updated_at < excluded.updated_at"
                )
