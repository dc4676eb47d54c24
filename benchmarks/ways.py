"""The ways of loading a table of PostgreSQL into DuckDB: ours and the alternatives, each as a user would run it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from benchmarks import source
from benchmarks.environment import ROOT, peers
from benchmarks.measure import Sample, run
from benchmarks.project import environment, make_project
from ingestion.errors import UserError
from orchestration.services.postgres import PostgresServer, programs

SLOT = "bench"
PUBLICATION = "bench"
# A big table is filled without waiting for checkpoints; the rest is as PostgreSQL comes.
_SERVER_OPTIONS = {"max_wal_size": "8GB"}


@dataclass(frozen=True)
class Bench:
    """A running server with the tables, and a folder for everything that is written."""

    server: PostgresServer
    folder: Path

    @property
    def project(self) -> Path:
        """The Meltano project."""
        return self.folder / "project"

    @property
    def logs(self) -> Path:
        """What the measured commands said, of the last run of each."""
        return self.folder / "logs"

    def execute(self, sql: str) -> list[tuple]:
        """Run SQL on the server, each statement in its own transaction; returns the last one's rows, if it has any."""
        with closing(psycopg2.connect(self.server.dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []

    def make_tables(self, sizes: Sequence[int]) -> None:
        """Make the tables that are not there yet."""
        self.execute(f"create schema if not exists {source.SCHEMA}")
        for rows in sorted(set(sizes)):
            name = f"{source.SCHEMA}.{source.table(rows)}"
            if not self.execute(f"select to_regclass('{name}') is not null")[0][0]:
                print(f"Making a table of {rows:,} rows ...", file=sys.stderr, flush=True)
                # One transaction: a table is whole or not there.
                self.execute(source.create_sql(rows))
                self.execute(f"vacuum {name}")

    def prepare_log_based(self, table: str) -> None:
        """What an administrator does for LOG_BASED: publish the table."""
        self.execute(f"create publication {PUBLICATION} for table {source.SCHEMA}.{table}")

    def forget_log_based(self) -> None:
        """Undo that, and drop the slot, which would hold back the server's log."""
        self.execute(f"drop publication if exists {PUBLICATION}")
        self.execute(
            f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like '{SLOT}%'"
        )

    # The ways of loading. Each writes into an empty folder, and returns what it took.

    def meltano(self, home: Path, method: str, table: str) -> Sample:
        """Ours: `meltano run tap-postgres target-warehouse` into the warehouse in `home`."""
        stream = f"{source.SCHEMA}-{table}"
        metadata = {stream: {"replication-method": method}}
        if method == "INCREMENTAL":
            metadata[stream]["replication-key"] = "updated_at"
        settings = {
            "HOST": self.server.host,
            "PORT": str(self.server.port),
            "USER": self.server.user,
            "PASSWORD": self.server.password,
            "DATABASE": "postgres",
            "FILTER_SCHEMAS": json.dumps([source.SCHEMA]),
            "REPLICATION_SLOT_NAME": SLOT,
            "PUBLICATION_NAME": PUBLICATION,
            "_SELECT": json.dumps([f"{stream}.*"]),
            "_METADATA": json.dumps(metadata),
        }
        ours = environment(home, **{f"TAP_POSTGRES_{name}": value for name, value in settings.items()})
        return run(("meltano", "run", "tap-postgres", "target-warehouse"), self.logs / "ours.log", ours, self.project)

    def idle(self) -> Sample:
        """A `meltano run` that moves nothing."""
        home = environment(self.folder / "idle")
        return run(("meltano", "run", "tap-idle", "target-idle"), self.logs / "idle.log", home, self.project)

    def copy(self, folder: Path, table: str) -> Sample:
        """The plain way: psql COPY to CSV, then DuckDB COPY into a table."""
        csv = folder / "table.csv"
        columns = ", ".join(f"{name} {kind}" for name, kind in source.COLUMNS.items())
        script = folder / "load.sql"
        # Columns are declared, so nothing is guessed; the order of rows is free, which is quicker.
        script.write_text(
            f"set preserve_insertion_order = false; create table orders ({columns});"
            f" copy orders from '{csv}' (format csv, header false, delimiter ',', quote '\"', escape '\"')"
        )
        out = f"copy {source.SCHEMA}.{table} to stdout (format csv)"
        log, env = self.logs / "copy.log", os.environ
        unload = run(
            ("sh", "-c", f"exec {_words(psql(self.server), self.server.dsn(), '-qXc', out)} > {csv}"), log, env, folder
        )
        load = (
            "sh",
            "-c",
            f"exec {_words(sys.executable, '-m', 'benchmarks.in_duckdb', folder / 'x.duckdb')} < {script}",
        )
        return unload + run(load, log, env, ROOT)

    def dlt(self, folder: Path, table: str) -> Sample:
        """dlt's fastest backend."""
        script = Path(__file__).with_name("peer_dlt.py")
        words = (peers() / "python", script, self.server.dsn(), source.SCHEMA, table, folder / "x.duckdb", folder)
        return run(words, self.logs / "dlt.log", environment(folder), folder)

    def singer(self, folder: Path, table: str) -> Sample:
        """MeltanoLabs' tap-postgres into target-duckdb, without Meltano around them."""
        stream = f"{source.SCHEMA}-{table}"
        tap = {"sqlalchemy_url": self.server.dsn(), "filter_schemas": [source.SCHEMA]}
        (folder / "tap.json").write_text(json.dumps(tap))
        target = {"path": str(folder / "x.duckdb"), "default_target_schema": "raw", "add_metadata_columns": False}
        (folder / "target.json").write_text(json.dumps(target))
        discover = (peers() / "tap-postgres", "--config", "tap.json", "--discover")
        catalog = json.loads(subprocess.run(discover, cwd=folder, check=True, capture_output=True).stdout)
        catalog["streams"] = [entry for entry in catalog["streams"] if entry["tap_stream_id"] == stream]
        for entry in catalog["streams"]:
            root = next(item["metadata"] for item in entry["metadata"] if not item["breadcrumb"])
            root |= {"selected": True, "replication-method": "FULL_TABLE"}
        (folder / "catalog.json").write_text(json.dumps(catalog))
        read = _words(peers() / "tap-postgres", "--config", "tap.json", "--catalog", "catalog.json")
        load = _words(peers() / "target-duckdb", "--config", "target.json")
        # Through a file where the tap's end is noted: sh has no pipefail.
        command = f"({read} && touch done) | {load} && test -e done"
        return run(("sh", "-c", command), self.logs / "singer.log", environment(folder), folder)

    # Checks: a way that loads something else is not measured but reported.

    def expected(self, table: str) -> list[str]:
        """The checksum of a table of the source."""
        row = self.execute(source.checksum_in_postgres(f"{source.SCHEMA}.{table}"))[0]
        return [str(value) for value in row]

    def loaded(self, file: Path, query: str) -> list[str]:
        """The one row of a query on a DuckDB file."""
        words = (sys.executable, "-m", "benchmarks.in_duckdb", str(file))
        done = subprocess.run(words, cwd=ROOT, input=query, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{file} cannot be checked: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(done.stdout)[0]

    def check(self, what: str, table: str, file: Path, relation: str) -> None:
        """Raise UserError unless a way has loaded exactly the source's rows."""
        expected, found = self.expected(table), self.loaded(file, source.checksum_in_duckdb(relation))
        if found != expected:
            raise UserError(f"{what} loaded other rows than the source has: {found} instead of {expected}")

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """An empty folder, removed afterwards."""
        folder = self.folder / "scratch" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
        shutil.rmtree(folder)


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """A bench in `folder`: its server runs until the end, its tables stay for the next time."""
    make_project(folder / "project")
    with PostgresServer.start(folder / "server", durable=False, temporary=True, options=_SERVER_OPTIONS) as server:
        yield Bench(server, folder)


def psql(server: PostgresServer) -> Path:
    """The server's own psql."""
    return programs(server.version) / "psql"


def _words(*words: str | Path) -> str:
    return shlex.join(str(word) for word in words)
