"""Load one table of PostgreSQL into DuckDB with dlt; run by the Python of `.venv-peers`.

    peer_dlt.py SQLALCHEMY_URL SCHEMA TABLE DUCKDB_FILE FOLDER [BACKEND]

FOLDER is for dlt's own files. The default backend is the fastest of those that keep decimals exact (RESULTS.md).
"""

from __future__ import annotations

import os
import sys
from typing import Any

ROWS_PER_CHUNK = 500_000


def backend_options(backend: str, url: str) -> dict[str, Any]:
    """The arguments of `sql_table` with which a backend is at its best."""
    if backend == "connectorx":
        # A stream of Arrow batches: without it the whole table is in memory before anything is written.
        options = {"conn": url, "return_type": "arrow_stream", "batch_size": ROWS_PER_CHUNK}
        return {"backend": backend, "backend_kwargs": options}
    return {"backend": backend, "chunk_size": ROWS_PER_CHUNK}


def main(url: str, schema: str, table: str, file: str, folder: str, backend: str = "connectorx") -> None:
    """Run a pipeline that replaces the table in a new DuckDB file."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    import dlt
    from dlt.sources.sql_database import sql_table

    pipeline = dlt.pipeline(
        "bench", pipelines_dir=folder, destination=dlt.destinations.duckdb(file), dataset_name="raw"
    )
    resource = sql_table(
        url, table=table, schema=schema, reflection_level="full_with_precision", **backend_options(backend, url)
    )
    pipeline.run(resource, write_disposition="replace", loader_file_format="parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
