"""Reads tables through Arrow: one snapshot, record batches, the next ones while the last is used."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa

from ingestion.errors import UserError
from ingestion.lake import literal
from ingestion.taps.postgres_connection import ARROW_BATCH_BYTES, Server

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection as ArrowConnection

_END = None
# Reading goes on while a row group is written; more would only take memory.
_WAITING_BATCHES = 4


class Snapshot:
    """A reading transaction: every query sees the database as it was at the first.

    `snapshot` is the name of one that another transaction exported and keeps open, to see what that one sees. Raises
    UserError, about `subject`, when the database refuses or the connection breaks.
    """

    def __init__(self, server: Server, subject: str, *, snapshot: str | None = None) -> None:
        self._server = server
        self._subject = subject
        self._connections: list[ArrowConnection] = []
        with self._errors():
            self._connection = self._open(snapshot)

    def _open(self, snapshot: str | None) -> ArrowConnection:
        connection = self._server.connect_arrow()
        self._connections.append(connection)
        if snapshot:
            with connection.cursor() as cursor:
                cursor.execute(f"set transaction snapshot {literal(snapshot)}")
        return connection

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            # One whose server has gone cannot be closed in good order.
            with contextlib.suppress(adbc_driver_manager.Error):
                connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except adbc_driver_manager.Error as error:
            raise UserError(f"{self._subject}: {self._server.reason(error)}") from None

    def values(self, query: str) -> tuple[Any, ...]:
        """The one row of a small query."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(query)
            return tuple(column[0].as_py() for column in cursor.fetch_arrow_table().columns)

    def read(self, queries: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of the queries, each read by a connection of its own, in any order."""
        connections = [self._connection]
        if len(queries) > 1:
            (name,) = self.values("select pg_export_snapshot() as snapshot")
            with self._errors():
                connections += [self._open(name) for _ in queries[1:]]
        yield from self._read(list(zip(connections, queries, strict=True)))

    def _read(self, queries: Sequence[tuple[ArrowConnection, str]]) -> Iterator[pa.RecordBatch]:
        batches: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(maxsize=_WAITING_BATCHES)
        stopped = threading.Event()

        def put(item: pa.RecordBatch | BaseException | None) -> bool:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    batches.put(item, timeout=0.2)
                    return True
            return False

        def run(connection: ArrowConnection, query: str) -> None:
            try:
                with connection.cursor() as cursor:
                    hint = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
                    cursor.adbc_statement.set_options(**{hint: str(ARROW_BATCH_BYTES)})
                    cursor.execute(query)
                    for batch in cursor.fetch_record_batch():
                        if not put(batch):
                            cursor.adbc_cancel()
                            return
            except BaseException as error:
                put(error)
            else:
                put(_END)

        threads = [threading.Thread(target=run, args=arguments, daemon=True) for arguments in queries]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            with self._errors():
                while running:
                    item = batches.get()
                    if item is _END:
                        running -= 1
                    elif isinstance(item, OSError | pa.ArrowException):
                        # So a stream of Arrow tells what the server said.
                        raise UserError(f"{self._subject}: {self._server.reason(item)}")
                    elif isinstance(item, BaseException):
                        raise item
                    elif item.num_rows:
                        yield item
        finally:
            stopped.set()
            for thread in threads:
                thread.join()


def page_ranges(pages: int, parts: int) -> list[str]:
    """Conditions that split a table of so many pages into parts; the last has no end, as the table may have grown."""
    bounds = [pages * part // parts for part in range(parts)]
    ranges = [f"ctid >= '({first},0)'::tid and ctid < '({last},0)'::tid" for first, last in itertools.pairwise(bounds)]
    return [*ranges, f"ctid >= '({bounds[-1]},0)'::tid"]
