"""The steps of an erasure, in their order: each is whole or not at all, and may be repeated.

What needs a person's values comes before what they are read from goes; until the end they are also in
`erasures/pending.json`, for this user's eyes alone, so that an erasure that was killed goes on when it is typed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ingestion import erased
from ingestion.erased import Erased, Persons
from ingestion.errors import UserError
from ingestion.lake import Lake, connect
from ingestion.lake.checking import remove_leftovers
from ingestion.lake.definition import replace_file, streams
from ingestion.lake.erasure import Found, find, redact
from ingestion.settings import POSTGRES, Settings
from orchestration.erasure import building, files
from orchestration.erasure.declaration import Held, Looked, PersonTable, Wanted
from orchestration.erasure.duckdb_warehouse import DuckDBWarehouse, search_files
from orchestration.erasure.others import Others, held
from orchestration.erasure.values import IDENTIFYING, Search, Value, is_identifying, is_of_somebody


class Warehouse(Protocol):
    """A warehouse, whatever its engine."""

    name: str

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keep loads, builds, publishes, and who reads what they write out. Raises UserError while one is at work."""

    @property
    def is_built(self) -> bool:
        """Whether there are models to be made anew."""

    def versions(self) -> int:
        """How many versions there are that readers have or that can be brought back."""

    def held_of(self, wanted: Wanted) -> Held:
        """What raw, the models and what is published have of the persons, by their numbers; while held."""

    def count(self, wanted: Wanted) -> dict[str, int]:
        """By place: the rows beside those that have something of the persons, or any of the values; while held."""

    def rebuild(self, lake: Lake, wanted: Wanted) -> None:
        """Make raw and ops anew from the lake; what tells of past runs is kept, without the values."""

    def drop_marts(self) -> None:
        """Remove the marts, where the next build would leave anything of them."""

    def publish(self) -> None:
        """Publish the marts, and remove all other versions."""

    def forget(self, administrator: Mapping[str, str] | None) -> list[str]:
        """Have the server forget what it keeps beside the tables; returns what it cannot, and what to do."""

    def search(self, wanted: Wanted) -> Looked:
        """Look for anything of the persons and any of the values."""


@dataclass
class Pending:
    """What an erasure has to know until it ends; `counts` says what was touched, by place."""

    persons: list[str]
    values: list[Value] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    began_at: str = field(default_factory=lambda: _now())

    def save(self, file: Path) -> None:
        """For this user's eyes alone."""
        file.parent.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(file.with_name(f"{file.name}.next"), os.O_WRONLY | os.O_CREAT, 0o600))
        content = {
            "persons": self.persons,
            "values": [list(astuple(value)) for value in self.values],
            "counts": self.counts,
            "began_at": self.began_at,
        }
        replace_file(file, json.dumps(content) + "\n")

    @classmethod
    def read(cls, file: Path) -> Pending | None:
        """What an erasure left that did not end; None where there is none."""
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text())
            values = [Value(*value) for value in content["values"]]
            return cls(content["persons"], values, content["counts"], content["began_at"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file}, what an erasure left that did not end, cannot be read; bring it back from a backup, or"
                " move it away and type the same again: then values that stand in logs alone are not looked for"
            ) from error


class Erasure:
    """One erasure: of these persons, and of those whose erasure did not end."""

    def __init__(
        self,
        home: Settings,
        tables: Collection[PersonTable],
        streams_of: Mapping[str, Persons],
        administrator: Mapping[str, str] | None = None,
    ) -> None:
        """`administrator`: libpq's parameters of one of PostgreSQL's server."""
        self.home = home
        self._administrator = administrator
        self._tables = tables
        self._lake = Lake(home.lake)
        self._streams_of = streams_of
        self.warehouse = warehouse_of(home)
        self._pending_file = home.home / "erasures" / "pending.json"
        # Of nobody, until `look` has looked.
        self._known = self._list = Erased(b"\0" * 32)
        self.pending = Pending([])
        self.went_on = False
        """Whether an erasure of before did not end."""
        self.remarks: list[str] = []
        """What is not in our hands."""
        self.strangers: list[str] = []
        """Those of the persons of whom the lake has no row."""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep out who writes the lake. Raises UserError while one is at work."""
        with contextlib.ExitStack() as locks:
            for stream in streams(self._lake):
                locks.enter_context(self._lake.lock(stream))
            yield

    def look(self, persons: Collection[str], *, keyed: bool) -> None:
        """Find all that the warehouse has of the persons, and count it in `pending`; nothing is changed.

        `keyed`: with the key of the suppression list, which is made where there is none.
        """
        before = Pending.read(self._pending_file)
        wanted = [*dict.fromkeys([*(before.persons if before else []), *persons])]
        # Without a list there is nothing that another key's hashes could disagree with.
        has_key = keyed or self.home.erased_file.exists()
        self._known = erased.begin(self.home) if has_key else Erased(os.urandom(32))
        # Of these persons alone, not of those who were erased before.
        nobody = replace(self._known, persons=frozenset(), values=frozenset(), pending=frozenset())
        only = nobody.with_streams(self._streams_of).with_persons(wanted)
        with self._connected() as con:
            by_number = Wanted(self._tables, wanted, only, Search([]))
            in_warehouse = self.warehouse.held_of(by_number)
            # The lake may have forgotten what the warehouse has: its periods are over, or it was erased by way of the
            # other engine, whose files are searched in the end.
            personal = set(in_warehouse.values)
            if self.home.engine == POSTGRES:
                personal |= DuckDBWarehouse(self.home).held_of(by_number).values
            for each in self._found(con, only):
                for column, texts in each.values.items():
                    personal |= {(str(text), by_number.kinds.get(column, "")) for text in texts}
            values = self._values(con, only, personal)
            too_short = [
                text
                for text, kind in personal
                if kind in IDENTIFYING and is_of_somebody(text) and not is_identifying(text, kind)
            ]
            if before:
                again = {value.text for value in before.values}
                values = [*before.values, *(value for value in values if value.text not in again)]
            self._list = only.with_values(value.text for value in values)
            found = self._found(con, self._list)
            self.strangers = sorted(set(wanted) - held(self._lake, con, self._tables, self._list))
        self.pending = Pending(wanted, values)
        # The list knows it too, where somebody removed the file.
        self.went_on = before is not None or not self._known.pending.isdisjoint(map(self._known.person_hash, wanted))
        if before:
            self.pending.began_at, self.pending.counts = before.began_at, before.counts
        self._count("lake: rows", sum(count for each in found for count in each.rows.values()))
        self._count("lake: files", sum(len(each.rows) + len(each.quarantined) for each in found))
        self._count("lake: quarantined records", sum(count for each in found for count in each.quarantined.values()))
        self._count("values too short to look for", len(too_short))
        for place, count in in_warehouse.rows.items():
            self._count(place, count)
        for place, count in self.warehouse.count(self._wanted(self._search)).items():
            self._count(place, count)
        self._count("logs and the like", len(files.found(self.home, self._search)))

    @property
    def is_needed(self) -> bool:
        """Whether anything is to be changed, beside the suppression list."""
        return self.went_on or any(self.pending.counts.values())

    @property
    def _search(self) -> Search:
        """For all values, also those that others share; but for words of the project, of which its files are full."""
        return Search(value for value in self.pending.values if not value.is_projects)

    def _wanted(self, search: Search) -> Wanted:
        return Wanted(self._tables, self.pending.persons, self._list, search)

    def _count(self, place: str, count: int) -> None:
        """What was there at first, however often the erasure was begun."""
        self.pending.counts[place] = max(count, self.pending.counts.get(place, 0))

    # The steps

    def suppress(self) -> None:
        """From now on nothing of the persons comes in."""
        if self.is_needed:
            self._count("published versions removed", self.warehouse.versions())
            self.pending.save(self._pending_file)
        listed = self._known.with_streams(self._streams_of).with_persons(self.pending.persons)
        listed = listed.with_values(value.text for value in self.pending.values)
        (listed if self.is_needed else listed.without_pending()).save(self.home)

    def clean_files(self) -> None:
        """Logs, dbt's and Meltano's files, and what killed processes left."""
        remove_leftovers(self._lake)
        files.erase(self.home, self._search)

    def redact_lake(self) -> None:
        """Every file of the lake that has something of the persons is written anew without."""
        with self._connected() as con:
            for stream in streams(self._lake):
                redact(self._lake, con, stream, self._list)

    def rebuild(self) -> None:
        """Raw and the ledger from the lake."""
        self.warehouse.rebuild(self._lake, self._wanted(self._search))

    def build(self) -> None:
        """The marts from raw."""
        if self.warehouse.is_built:
            file = self.home.marts_file
            mode = file.stat().st_mode if file.exists() else None
            self.warehouse.drop_marts()
            building.build(self.home)
            if mode is not None:
                file.chmod(stat.S_IMODE(mode))

    def publish(self) -> None:
        """Readers see the new marts, and no version of before is left."""
        if self.warehouse.versions():
            self.warehouse.publish()

    def forget(self) -> None:
        """What a server keeps beside its tables."""
        self.remarks = self.warehouse.forget(self._administrator)

    def verify(self) -> dict[str, Any]:
        """Look for what should be gone, everywhere; returns what was looked at, and as `found` where it still is."""
        search = Search(value for value in self.pending.values if not value.is_shared)
        wanted = self._wanted(search)
        looked = Looked()
        with self._connected() as con:
            for stream, each in zip(streams(self._lake), self._found(con, self._list), strict=True):
                looked.found += [f"{path}: {count} rows of the persons" for path, count in each.rows.items()]
                looked.found += [f"{path}: {count} records of the persons" for path, count in each.quarantined.items()]
                paths = sorted((self._lake.root / stream.folder).glob("*.parquet"))
                looked.add(search_files(con, stream, paths, wanted))
        looked.add(self.warehouse.search(wanted))
        if self.home.engine == POSTGRES:
            # The same lake may have a warehouse in files too, which this erasure does not make anew.
            looked.add(DuckDBWarehouse(self.home).search(wanted))
        # What stands elsewhere in tables stands in their files' bytes too.
        of_others = search.without(looked.equal)
        of_bytes, of_others_bytes = search.without_parts(), of_others.without_parts()
        count, size = 0, 0
        for path in files.all_files(self.home):
            if path != self._pending_file:
                # Logs of other warehouses of this project may come and go meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    count, size = count + 1, size + path.stat().st_size
                of_tables = files.is_of_tables(self.home, path)
                of_file = (of_others, of_others_bytes) if of_tables else (search, of_bytes)
                looked.found += [str(path)] if files.contains(path, *of_file) else []
        return {
            "columns": looked.columns,
            "files": count,
            "bytes": size,
            "values": sum(not value.is_shared for value in self.pending.values),
            "values_that_others_share": sum(value.is_shared for value in self.pending.values),
            "found": looked.found,
            "elsewhere": looked.elsewhere,
        }

    def end(self, verified: Mapping[str, Any]) -> Path:
        """Write the certificate, and forget what was to be found; returns the certificate's file."""
        now = _now()
        certificate = {
            "shop": self.home.shop,
            "warehouse": self.warehouse.name,
            "engine": self.home.engine,
            "persons": [{"id": each, "hash": self._list.person_hash(each)} for each in self.pending.persons],
            "began_at": self.pending.began_at,
            "ended_at": now,
            "touched": self.pending.counts,
            "searched": dict(verified),
            "remarks": self.remarks,
        }
        folder = self._pending_file.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / f"{now.replace(':', '').replace('-', '')}.json"
        replace_file(file, json.dumps(certificate, indent=2) + "\n")
        if not verified["found"]:
            erased.begin(self.home).without_pending().save(self.home)
            self._pending_file.unlink(missing_ok=True)
        return file

    # What there is

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        with connect(self._lake.root / "_spill") as con:
            yield con

    def _found(self, con: Any, listed: Erased) -> list[Found]:
        return [find(self._lake, con, stream, listed) for stream in streams(self._lake)]

    def _values(self, con: Any, listed: Erased, personal: Collection[tuple[str, str]]) -> list[Value]:
        """What tells who the persons are, of texts and their kinds, and whether others have it too."""
        texts = {(text, kind) for text, kind in personal if is_identifying(text, kind)}
        others = Others(self._lake, con, self._tables, listed, Search(Value(*each) for each in texts))
        # Examples in the models' yml come into dbt's files with each build.
        examples = [files.in_project()]
        values = []
        for value in (Value(*each) for each in texts):
            is_projects = value.stands_in(examples)
            values.append(
                replace(
                    value,
                    is_shared=is_projects or others.have(value),
                    is_projects=is_projects,
                    is_within=value.is_part_of(examples) or others.have_part(value),
                )
            )
        return sorted(values)


def warehouse_of(home: Settings) -> Warehouse:
    """The warehouse of the settings, by its engine."""
    if home.engine == POSTGRES:
        from orchestration.erasure.postgres_warehouse import PostgresWarehouse

        return PostgresWarehouse(home)
    return DuckDBWarehouse(home)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
