"""Raw and ops in a DuckDB file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ingestion import lifeline
from ingestion.errors import UserError
from ingestion.lake import METADATA_COLUMNS, Batch, Stream, first_line, literal
from ingestion.target.sql_engine import SqlEngine, asked_sql, rows_sql, table

# What DuckDB may keep in memory once so many rows were loaded; small batches are not worth the time.
_KEPT_MEMORY = "8MB"
_KEPT_ROWS = 100_000


class DuckDBEngine(SqlEngine):
    """The engine for one DuckDB file; see `core.Engine` for its methods."""

    def __init__(self, path: Path, shop: str, *, memory_limit: str, threads: int) -> None:
        """Open the file, make ops, and check that the warehouse is the shop's.

        Raises UserError when another process has the file open, the path is wrong or the data are another shop's.
        """
        self.name = str(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._con = lifeline.once_free(lambda: duckdb.connect(str(path)), lambda error: is_in_use(str(error)))
            self._memory_limit = memory_limit
            self._kept_rows = 0
            self._con.execute(f"set memory_limit = {literal(memory_limit)}")
            self._con.execute(f"set threads = {threads}")
            self._con.execute("set TimeZone = 'UTC'")
            self._con.execute("set enable_progress_bar = false")  # It would stand among the states on stdout.
            with self._transaction():
                self._make_ops(shop)
        except (OSError, duckdb.IOException) as error:
            raise UserError(opening_failed(path, first_line(error))) from error

    def _make_ops(self, shop: str) -> None:
        super()._make_ops(shop)
        # Warehouses made before runs had ids.
        self._rows("alter table ops.syncs add column if not exists run_id text")

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._con.execute(sql, list(values)).fetchall()

    @property
    def _files(self) -> duckdb.DuckDBPyConnection:
        return self._con

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._con.begin()
        try:
            yield
            self._con.commit()
        except BaseException:
            # After a failed commit or a fatal error there is nothing left to roll back.
            try:
                self._con.rollback()
            except duckdb.Error as error:
                if "no transaction is active" not in str(error) and "invalidated" not in str(error):
                    raise
            raise

    def columns(self, stream: Stream) -> dict[str, str]:
        """Data columns of the raw table with their types; empty when there is none."""
        rows = self._rows(
            "select column_name, data_type from duckdb_columns() "
            "where database_name = current_database() and schema_name = $1 and table_name = $2 order by column_index",
            stream.schema,
            stream.name,
        )
        return {name: kind for name, kind in rows if name not in METADATA_COLUMNS}

    def load(self, batch: Batch, kind: str, replayed: Sequence[str] = ()) -> bool:
        """Commit a batch in one transaction; False when the ledger has it already."""
        if not super().load(batch, kind, replayed):
            return False
        self._kept_rows += batch.rows_loaded
        if self._kept_rows >= _KEPT_ROWS:
            self._let_go_of_memory()
        return True

    def _append(self, batch: Batch, columns: Mapping[str, str]) -> int:
        [(loaded,)] = self._rows(f"insert into {table(batch.stream)} by name {rows_sql(batch)}")
        return loaded

    def _append_quarantine(self, batch: Batch) -> None:
        self._rows(
            "insert into ops.quarantine by name select *, $1 as load_id, $2 as source, $3 as stream, "
            # When the batch was written, so that a warehouse rebuilt from the lake has the same day.
            f"make_timestamptz($1) as quarantined_at from read_parquet({literal(str(batch.quarantine_file))})",
            batch.load_id,
            batch.stream.source,
            batch.stream.name,
        )

    def _let_go_of_memory(self) -> None:
        """Have DuckDB forget the blocks that it wrote, which else stay until they fill its memory.

        Nobody reads them again; so the peak of a large load is that of a small one.
        """
        self._kept_rows = 0
        # Memory that is in use stays, which is no fault.
        try:
            with suppress(duckdb.OutOfMemoryException):
                self._con.execute(f"set memory_limit = {literal(_KEPT_MEMORY)}")
        finally:
            self._con.execute(f"set memory_limit = {literal(self._memory_limit)}")

    @contextmanager
    def _asked(self, texts: Sequence[pa.Array], types: Sequence[str]) -> Iterator[str]:
        self._con.register("asked_text", pa.table({f"text{n}": column for n, column in enumerate(texts)}))
        try:
            yield f"({asked_sql('asked_text', types)})"
        finally:
            self._con.unregister("asked_text")

    def close(self) -> None:
        """Checkpoint and release the file."""
        self._con.close()


def open_existing(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open a warehouse as it is, which keeps its writers out, and unless `read_only` its readers.

    Raises UserError when it is in use, and duckdb.Error when it is damaged.
    """
    try:
        return lifeline.once_free(
            lambda: duckdb.connect(str(path), read_only=read_only), lambda error: is_in_use(str(error))
        )
    except duckdb.IOException as error:
        if is_in_use(str(error)):
            raise UserError(opening_failed(path, first_line(error))) from error
        raise


def is_in_use(reason: str) -> bool:
    """Whether DuckDB's message says that another process has the file open."""
    return "Conflicting lock" in reason or "Could not set lock" in reason


def opening_failed(path: Path, reason: str) -> str:
    """Why a warehouse cannot be opened, and what to do."""
    if is_in_use(reason):
        return f"{path} is in use by another process (a run, dbt or a reader); wait until it has ended, then run again"
    return f"cannot open the warehouse {path}: {reason}; check WAREHOUSE_HOME, its rights and the disk"
