"""A table's changes on their way from the log into the lake.

An update leaves a large value (TOAST) that it did not touch out of the log. Such a value is that of the row's version
before: in the log where the whole row before is sent (`replica identity full`), else in the rows read so far, else in
the lake. A row that the lake does not hold as it was (it waits in quarantine, or the column was not selected then) is
read again from the table: as it is now, which is what it was, or what a later change will say of it. Where the table
has it no more, the version is quarantined.

A table whose definition changed is compared as a whole, and its log up to that comparison is read before (`unsure`).
There, what is not certain is left out, for the comparison brings what it led to: versions with such a large value, and
deletes by another key than today's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion.errors import UserError
from ingestion.lake import Batch, connect, identifier, literal, make_folder
from ingestion.taps.postgres_connection import Server
from ingestion.taps.postgres_extracts import TableLake, without_erased
from ingestion.taps.postgres_log import Change, LogColumn, Relation, Rows, Texts, decode
from ingestion.taps.postgres_types import Column, Converted, Unfit, payload, text_to_arrow

COMPARE_ALL = (
    "run once with TAP_POSTGRES_COMPARE_ALL=true: the tap then compares whole tables with the lake and adds every"
    " difference"
)
# Changes decoded at a time.
_CHUNK_ROWS = 20_000
_CHUNK_BYTES = 4 * 1024 * 1024
_SMALL_ROWS = 5_000
"""The same where values are to be looked up."""
# What is kept in memory of a batch that is not closed yet, to find the rows before in.
_OPEN_BYTES = 64 * 1024 * 1024
_UPDATE, _DELETE, _WHOLE_ROW = ord("U"), ord("D"), ord("O")
_OPERATION, _SEQUENCE = "_sdc_operation", "_sdc_sequence"

Key = tuple[str | None, ...]


@dataclass(frozen=True)
class _Versions:
    """Decoded changes as versions for raw, in order: a change of a key is two of them."""

    texts: list[pa.StringArray]
    """One per column of the lake; a value that the log does not have is null."""
    unchanged: dict[int, np.ndarray]
    """Where a value is that of the version before, by the column's place; only columns where there is one."""
    changes: np.ndarray
    """The change that each version is from."""
    is_delete: np.ndarray


@dataclass
class ChangedTable:
    """Collects a table's changes and closes them as batches. The caller holds the stream's lock."""

    server: Server
    target: TableLake
    folder: Path
    """For its own use while it is open."""
    unsure: Set[str] | None = None
    """Before a comparison: columns of which the lake may not have what the table had. None: no comparison follows."""
    left_out: int = 0
    """Versions before the comparison of which the log does not have all."""
    _relation: Relation | None = None
    _columns_then: list[Column] = field(default_factory=list)
    """The lake's columns with the types that the relation has for them."""
    _lacks_key: bool = False
    """Whether the relation's deletes and changes of its key do not say which row they are of."""
    _payloads: list[bytes] = field(default_factory=list)
    _lsns: list[int] = field(default_factory=list)
    _times: list[datetime] = field(default_factory=list)
    _bytes: int = 0
    _open: list[pa.RecordBatch] = field(default_factory=list)
    open_bytes: int = 0
    """Memory that the rows of the open batch take."""
    _spilled: list[Path] = field(default_factory=list)
    _is_emptied: bool = False
    """Whether the table was truncated since the last batch was closed: then the lake's versions are no longer held."""
    _unfit_keys: set[Key] = field(default_factory=set)

    # Taking changes

    @property
    def columns(self) -> Sequence[Column]:
        """The columns as the lake keeps them."""
        return self.target.lake_columns

    @property
    def has_rows(self) -> bool:
        """Whether there is anything that no closed batch has."""
        return bool(self._payloads or self.target.writer.is_open)

    @property
    def is_full(self) -> bool:
        """Whether the batch should close at the next end of a transaction."""
        writer = self.target.writer
        rows = writer.rows + writer.unfit + len(self._payloads)
        return writer.is_full or rows >= self.target.options.batch_size_rows or self.open_bytes >= _OPEN_BYTES

    def describe(self, relation: Relation, type_of: Callable[[LogColumn], str]) -> list[str]:
        """Take up how the following changes are laid out; the columns that are not known yet, which `widen` adds.

        `type_of` names the type of a column that has another one than today.
        """
        if relation == self._relation:
            return []
        self._convert()
        self._relation = relation
        then = {column.name: column for column in relation.columns}
        self._columns_then = [
            replace(column, type=type_of(then[column.name])).holding(column.warehouse_type)
            if column.name in then and then[column.name].type_oid != column.oid
            else column
            for column in self.columns
        ]
        names = {column.name for column in self.target.columns}
        missing = [key for key in self.target.keys if not self._has(relation, key)]
        self._lacks_key = bool(missing)
        if missing and self.unsure is None:
            raise UserError(
                f"stream {self.target.stream.id}: at some point of the log its key column {missing[0]} was not in the"
                f" replica identity of {self.target.table.label}; {COMPARE_ALL}"
            )
        return [column.name for column in relation.columns if column.name not in names]

    @staticmethod
    def _has(relation: Relation, key: str) -> bool:
        is_whole = relation.replica_identity == "f"
        return any(column.name == key and (column.key or is_whole) for column in relation.columns)

    def widen(self, columns: Sequence[Column]) -> None:
        """Add columns to the stream. The batch that is open is given up."""
        self.abandon()
        self.target = replace(self.target, columns=[*self.target.columns, *columns])

    def take(self, change: Change, committed_at: datetime) -> None:
        """Take one change of a transaction."""
        self._payloads.append(change.payload)
        self._lsns.append(change.lsn)
        self._times.append(committed_at)
        self._bytes += len(change.payload)
        if len(self._payloads) >= _CHUNK_ROWS or self._bytes >= _CHUNK_BYTES:
            self._convert()

    def truncate(self, lsn: int, committed_at: datetime) -> None:
        """Every held key is deleted."""
        self._convert()
        keys = ", ".join(identifier(key) for key in self.target.keys)
        latest = f"arg_max({_OPERATION}, (place, _sdc_load_id, {_SEQUENCE}))"
        # A column that became a key may be null in the lake's older rows.
        has_key = " and ".join(f"{identifier(key)} is not null" for key in self.target.keys)
        query = (
            f"select {keys} from ({self._versions_sql(self.target.keys)}) where {has_key}"
            f" group by {keys} having {latest} = 'upsert'"
        )
        extracted_at = datetime.now(UTC)
        for rows in self._con.sql(query).to_arrow_reader(50_000):
            values = {name: rows.column(name) for name in self.target.keys}
            arrays = [
                values[column.name].cast(column.arrow_type)
                if column.name in values
                else pa.nulls(rows.num_rows, column.arrow_type)
                for column in self.columns
            ]
            self.target.writer.add(
                pa.RecordBatch.from_arrays(arrays, schema=self.target.schema),
                extracted_at=extracted_at,
                operation="delete",
                sequence=lsn,
                deleted_at=committed_at,
            )
            self.target.counts.read += rows.num_rows
        self._forget()
        self._is_emptied = True

    def close(self, position: Mapping[str, Any]) -> Batch | None:
        """Close the batch, if there is anything in it."""
        self._convert()
        if not self.target.writer.is_open:
            return None
        batch = self.target.close(position)
        self._forget()
        self._is_emptied = False
        return batch

    def abandon(self) -> None:
        """Give up what no closed batch has."""
        self._payloads, self._lsns, self._times, self._bytes = [], [], [], 0
        if "writer" in self.target.__dict__ and self.target.writer.is_open:
            self.target.writer.abandon()
        self._forget()
        self._is_emptied = False
        self._relation = None

    def _forget(self) -> None:
        self._open, self.open_bytes = [], 0
        for file in self._spilled:
            file.unlink()
        self._spilled = []

    def spill(self) -> None:
        """Put the rows of the open batch on disk where they take too much memory."""
        if self.open_bytes >= _OPEN_BYTES:
            file = self.folder / f"{len(self._spilled)}.parquet"
            make_folder(self.folder)
            pq.write_table(pa.Table.from_batches(self._open), file, compression="zstd")
            self._spilled.append(file)
            self._open, self.open_bytes = [], 0

    # From changes to versions

    def _convert(self) -> None:
        """Append what was taken to the batch."""
        if self._payloads:
            payloads, lsns, times = self._payloads, self._lsns, self._times
            self._payloads, self._lsns, self._times, self._bytes = [], [], [], 0
            self._append(payloads, lsns, times)

    def _append(self, payloads: Sequence[bytes], lsns: Sequence[int], times: Sequence[datetime]) -> None:
        """Decode changes and append them to the batch."""
        assert self._relation is not None
        try:
            rows = decode(payloads, len(self._relation.columns))
        except UnicodeDecodeError as error:
            raise UserError(
                f"stream {self.target.stream.id}: {self.target.table.label} has text that is not in the database's"
                " encoding; mend it in the source"
            ) from error
        if len(payloads) > _SMALL_ROWS and any(texts.unchanged is not None for texts in rows.new):
            # Small in the log and large once their values are there again.
            for start in range(0, len(payloads), _SMALL_ROWS):
                part = slice(start, start + _SMALL_ROWS)
                self._append(payloads[part], lsns[part], times[part])
            return
        versions = self._versions(rows)
        sequences = np.array(lsns, np.int64)[versions.changes]
        committed = pa.array(times, pa.timestamp("us", "UTC"))
        texts = versions.texts
        uncertain = self._uncertain(versions)
        sources, lookups = self._sources(versions) if versions.unchanged else ({}, [])
        count = len(versions.changes)
        for place, source in sources.items():
            known = source < count
            texts[place] = texts[place].take(pa.array(source, pa.int64(), mask=~known))
        converted = text_to_arrow(self._columns_then, texts)
        if lookups:
            converted = self._filled(converted, sources, lookups, texts, count)
        if uncertain.any():
            converted = self._without(converted, uncertain, texts)
        converted = without_erased(self.target.erased, self.target.stream.id, converted)
        kept = np.arange(count) if converted.kept is None else converted.kept.to_numpy()
        is_delete = versions.is_delete[kept]
        deleted_at = committed.take(pa.array(versions.changes[kept], mask=~is_delete))
        operation = pc.if_else(pa.array(is_delete), "delete", "upsert")
        sequence = pa.array(sequences[kept])
        writer = self.target.writer
        writer.add(
            converted.rows,
            extracted_at=datetime.now(UTC),
            operation=operation,
            sequence=sequence,
            deleted_at=deleted_at,
        )
        writer.quarantine([(bad.reason, bad.column, bad.payload) for bad in converted.unfit])
        self.target.counts.read += count - int(uncertain.sum())
        if converted.unfit:
            self._unfit_keys.update(self._keys(texts, [bad.row for bad in converted.unfit]))
        held = converted.rows.append_column(_OPERATION, operation).append_column(_SEQUENCE, sequence)
        self._open.append(held)
        self.open_bytes += held.nbytes
        self.spill()

    def _versions(self, rows: Rows) -> _Versions:
        assert self._relation is not None
        places = {column.name: place for place, column in enumerate(self._relation.columns)}
        count = len(rows.operations)
        new, deleted, moved = rows.new, rows.operations == _DELETE, np.zeros(count, bool)
        if rows.old is not None:
            new = [_with_known(after, before) for after, before in zip(rows.new, rows.old, strict=True)]
            for key in self.target.keys:
                if key not in places:
                    continue
                before, after = rows.old[places[key]].values, new[places[key]].values
                moved |= pc.fill_null(pc.not_equal(before, after), False).to_numpy(zero_copy_only=False)
            moved &= rows.operations == _UPDATE
        removes = deleted | moved
        times = np.ones(count, np.int64) + moved
        changes = np.repeat(np.arange(count), times)
        is_first = np.ones(len(changes), bool)
        is_first[1:] = changes[1:] != changes[:-1]
        is_delete = removes[changes] & is_first
        texts, unchanged = [], {}
        for number, column in enumerate(self.columns):
            place = places.get(column.name)
            if place is None:
                texts.append(pa.nulls(len(changes), pa.string()))
                continue
            if rows.old is None:
                texts.append(new[place].values)
            else:
                both = pa.concat_arrays([rows.old[place].values, new[place].values])
                texts.append(both.take(pa.array(np.where(is_delete, changes, changes + count))))
            mask = new[place].unchanged
            if mask is not None and (mask := mask[changes] & ~is_delete).any():
                unchanged[number] = mask
        return _Versions(texts, unchanged, changes, is_delete)

    def _uncertain(self, versions: _Versions) -> np.ndarray:
        """Where a version is not all in the log, nor certainly in the lake: only before a comparison."""
        found = np.zeros(len(versions.changes), bool)
        if self.unsure is None:
            return found
        for number, column in enumerate(self.columns):
            if self._lacks_key or column.name in self.unsure:
                found |= versions.unchanged.pop(number, False)
            if self._lacks_key and column.name in self.target.keys:
                # So comes a delete, too.
                found |= ~versions.texts[number].is_valid().to_numpy(zero_copy_only=False)
        return found

    def _without(self, converted: Converted, uncertain: np.ndarray, texts: Sequence[pa.StringArray]) -> Converted:
        """The rows that are certain. What later changes left untouched is not to be had from the versions before."""
        places = np.arange(len(uncertain)) if converted.kept is None else converted.kept.to_numpy()
        stay = ~uncertain[places]
        self.left_out += int(uncertain.sum())
        self._unfit_keys.update(self._keys(texts, np.flatnonzero(uncertain).tolist()))
        unfit = [bad for bad in converted.unfit if not uncertain[bad.row]]
        return Converted(converted.rows.filter(pa.array(stay)), unfit, pa.array(places[stay]))

    def _keys(self, texts: Sequence[pa.StringArray], rows: Sequence[int] | None = None) -> list[Key]:
        numbers = [number for key in self.target.keys for number, each in enumerate(self.columns) if each.name == key]
        values = [texts[number] if rows is None else texts[number].take(pa.array(rows)) for number in numbers]
        return list(zip(*[each.to_pylist() for each in values], strict=True))

    def _sources(self, versions: _Versions) -> tuple[dict[int, np.ndarray], list[Key]]:
        """Which version each value is to be taken from, by column: from `count` on they are the keys returned."""
        count = len(versions.changes)
        keys = self._keys(versions.texts)
        sources = {number: np.arange(count) for number in versions.unchanged}
        is_delete = versions.is_delete.tolist()
        changes = versions.changes.tolist()
        wanted = np.logical_or.reduce(list(versions.unchanged.values())).tolist()
        latest: dict[Key, int | None] = {}
        lookups: dict[Key, int] = {}
        for row, key in enumerate(keys):
            if is_delete[row]:
                last_key, last = key, latest.pop(key, None)
                continue
            if wanted[row]:
                if row and is_delete[row - 1] and changes[row - 1] == changes[row]:
                    before_key, before = last_key, last  # The key was changed.
                else:
                    before_key, before = key, latest.get(key)
                for number, mask in versions.unchanged.items():
                    if mask[row]:
                        source = sources[number]
                        if before is not None:
                            source[row] = source[before]
                        else:
                            source[row] = count + lookups.setdefault(before_key, len(lookups))
            latest[key] = row
        return sources, list(lookups)

    def _filled(
        self,
        converted: Converted,
        sources: Mapping[int, np.ndarray],
        lookups: Sequence[Key],
        texts: Sequence[pa.StringArray],
        count: int,
    ) -> Converted:
        """The rows with the values that only the lake or the table has; those that nobody has are unfit."""
        found = self._before(lookups, list(sources))
        rows, kept = converted.rows, converted.kept
        places = np.arange(count) if kept is None else kept.to_numpy()
        lost: dict[int, str] = {}
        for number, source in sources.items():
            source = source[places]
            is_found = source >= count
            if not is_found.any():
                continue
            own = np.arange(rows.num_rows)
            both = pa.concat_arrays([rows.column(number), found[number]])
            filled = both.take(pa.array(np.where(is_found, source - count + rows.num_rows, own)))
            name = self.columns[number].name
            rows = rows.set_column(number, self.target.schema.field(number), filled)
            if (is_erased := self._is_erased(rows, name)) is not None:
                # Of an erased person the lake has none, and the version is whole without it.
                is_found &= ~is_erased
            for row in np.flatnonzero(is_found & ~filled.is_valid().to_numpy(zero_copy_only=False)).tolist():
                lost.setdefault(row, name)
        if not lost:
            return Converted(rows, converted.unfit, kept)
        reason = (
            "the log does not have this value, which an earlier change wrote, and the row is no longer in the table"
        )
        unfit = list(converted.unfit)
        for row, name in lost.items():
            unfit.append(Unfit(int(places[row]), name, reason, payload(self.columns, rows, row, {})))
        stay = np.ones(rows.num_rows, bool)
        stay[list(lost)] = False
        return Converted(rows.filter(pa.array(stay)), unfit, pa.array(places[stay]))

    def _is_erased(self, rows: pa.RecordBatch, name: str) -> np.ndarray | None:
        """Of which rows a column is not to be had, being personal; None: of none."""
        erased, stream = self.target.erased, self.target.stream.id
        persons = erased and erased.rows_of(stream)
        if not erased or not persons or not persons.personal([name]):
            return None
        mask = erased.mask(stream, rows)
        return None if mask is None else mask.to_numpy(zero_copy_only=False)

    # Versions before

    @cached_property
    def _con(self) -> duckdb.DuckDBPyConnection:
        make_folder(self.folder)
        return connect(self.folder, memory_limit=self.target.options.memory_limit)

    def _versions_sql(self, names: Sequence[str]) -> str:
        """A query for all versions so far, with these columns and what orders them."""
        wanted = {column.name: column.warehouse_type for column in self.columns if column.name in names}
        parts = []
        batches = [] if self._is_emptied else self.target.lake.manifest(self.target.stream)
        files = list(dict.fromkeys(batch.file for batch in batches if batch.rows_loaded))
        if files:
            parts.append(self._stored_sql(files, wanted, place=0))
        if self._spilled:
            parts.append(self._stored_sql(self._spilled, wanted, place=1))
        if self._open:
            self._con.register("open_rows", pa.Table.from_batches(self._open))
            values = ", ".join(identifier(name) for name in wanted)
            parts.append(f"select {values}, {_OPERATION}, {_SEQUENCE}, 0 as _sdc_load_id, 2 as place from open_rows")
        if not parts:
            values = ", ".join(f"null::{kind} as {identifier(name)}" for name, kind in wanted.items())
            return f"select {values}, '' as {_OPERATION}, 0 as {_SEQUENCE}, 0 as _sdc_load_id, 0 as place where false"
        return " union all ".join(parts)

    def _stored_sql(self, files: Sequence[Path], wanted: Mapping[str, str], place: int) -> str:
        source = f"read_parquet([{', '.join(literal(str(file)) for file in files)}], union_by_name = true)"
        existing = {row[0].lower() for row in self._con.execute(f"describe from {source}").fetchall()}
        values = ", ".join(
            f"{identifier(name) if name.lower() in existing else 'null'}::{kind} as {identifier(name)}"
            for name, kind in wanted.items()
        )
        load_id = "_sdc_load_id" if "_sdc_load_id" in existing else "0 as _sdc_load_id"
        return f"select {values}, {_OPERATION}, {_SEQUENCE}, {load_id}, {place} as place from {source}"

    def _before(self, keys: Sequence[Key], numbers: Sequence[int]) -> dict[int, pa.Array]:
        """The values of the newest version of each key, by the columns' places; null where nobody has one.

        Null is not such a value: what the log leaves out is large.
        """
        columns = [self.columns[number] for number in numbers]
        found = self._held(keys, columns)
        missing = [row for row in range(len(keys)) if any(not values[row].is_valid for values in found)]
        if missing:
            again = self._read_again([keys[row] for row in missing], columns)
            places = np.arange(len(keys))
            places[missing] = len(keys) + np.arange(len(missing))
            found = [
                pc.if_else(values.is_valid(), values, pa.concat_arrays([values, more]).take(pa.array(places)))
                for values, more in zip(found, again, strict=True)
            ]
        return dict(zip(numbers, found, strict=True))

    def _key_columns(self) -> list[Column]:
        by_name = {column.name: column for column in self.columns}
        return [by_name[key] for key in self.target.keys]

    def _held(self, keys: Sequence[Key], columns: Sequence[Column]) -> list[pa.Array]:
        """The values of the newest held version of each key."""
        key_columns = self._key_columns()
        typed = text_to_arrow(key_columns, [pa.array(each, pa.string()) for each in zip(*keys, strict=True)])
        numbers = pa.array(range(len(keys)), pa.int64()) if typed.kept is None else typed.kept
        unknown = self._quarantined() | self._unfit_keys
        names = [f"key{number}" for number in range(len(key_columns))]
        wanted = pa.Table.from_arrays([numbers, *typed.rows.columns], names=["wanted", *names])
        if unknown:
            wanted = wanted.filter(pa.array([keys[number] not in unknown for number in numbers.to_pylist()]))
        self._con.register("wanted_keys", wanted)
        on = " and ".join(
            f"versions.{identifier(column.name)} = wanted_keys.{name}"
            for column, name in zip(key_columns, names, strict=True)
        )
        # Which version is the newest needs no values; only its own are read then, for they are large.
        order = f"place, _sdc_load_id, {_SEQUENCE}, {_OPERATION}"
        fields = ", ".join(f"{name}: {name}" for name in order.split(", "))
        self._con.execute(
            f"create or replace temp table newest as select wanted, unnest(max({{{fields}}}))"
            f" from (select wanted, {order} from ({self._versions_sql(self.target.keys)}) as versions"
            f" join wanted_keys on {on}) group by wanted"
        )
        every = list(dict.fromkeys([*self.target.keys, *(column.name for column in columns)]))
        values = ", ".join(f"versions.{identifier(column.name)} as value{n}" for n, column in enumerate(columns))
        result = self._con.sql(
            f"select wanted, {values} from ({self._versions_sql(every)}) as versions join wanted_keys on {on}"
            f" join newest using (wanted, {order}) where {_OPERATION} = 'upsert'"
        ).to_arrow_table()
        places = np.full(len(keys), -1, np.int64)
        places[result.column("wanted").to_numpy()] = np.arange(result.num_rows)
        indices = pa.array(places, mask=places < 0)
        return [
            result.column(f"value{n}").combine_chunks().cast(column.arrow_type).take(indices)
            for n, column in enumerate(columns)
        ]

    def _quarantined(self) -> set[Key]:
        """The keys of rows in quarantine, as the log writes them: versions that the lake's rows do not show."""
        files = [batch.quarantine_file for batch in self.target.lake.manifest(self.target.stream)]
        present = [file for file in files if file is not None and file.exists()]
        if not present:
            return set()
        paths = [literal('$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"') for key in self.target.keys]
        listed = ", ".join(literal(str(file)) for file in present)
        values = ", ".join(f"json_extract_string(payload, {path})" for path in paths)
        return set(self._con.execute(f"select distinct {values} from read_parquet([{listed}])").fetchall())

    def _read_again(self, keys: Sequence[Key], columns: Sequence[Column]) -> list[pa.Array]:
        """The values of these keys as the table has them now."""
        table, key_columns = self.target.table, self._key_columns()
        current = {column.name for column in table.columns}
        readable = [column for column in columns if column.name in current]
        texts: dict[str, list[str | None]] = {column.name: [None] * len(keys) for column in columns}
        names = [f"wanted{number}" for number in range(len(key_columns))]
        arrays = ", ".join(f"%s::text[]::{column.type}[]" for column in key_columns)
        on = " and ".join(
            f"{identifier(column.name)} = {name}" for column, name in zip(key_columns, names, strict=True)
        )
        values = "".join(f", {column.text_sql}" for column in readable)
        query = (
            f"select wanted{values} from {table.sql} join"
            f" unnest(%s::integer[], {arrays}) as wanted_rows(wanted, {', '.join(names)}) on {on}"
        )
        parameters = [list(range(len(keys))), *(list(each) for each in zip(*keys, strict=True))]
        with closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query, parameters)
            for number, *found in cursor.fetchall():
                for column, text in zip(readable, found, strict=True):
                    texts[column.name][number] = text
        converted = text_to_arrow(columns, [texts[column.name] for column in columns])
        if converted.kept is None:
            return list(converted.rows.columns)
        # A value that does not fit is as good as none: its row waits in quarantine.
        places = np.full(len(keys), -1, np.int64)
        places[converted.kept.to_numpy()] = np.arange(converted.rows.num_rows)
        indices = pa.array(places, mask=places < 0)
        return [values.take(indices) for values in converted.rows.columns]


def _with_known(after: Texts, before: Texts) -> Texts:
    """The values after an update, with those that it left unchanged and that the log has of the row before."""
    if after.unchanged is None:
        return after
    is_known = after.unchanged & before.values.is_valid().to_numpy(zero_copy_only=False)
    if not is_known.any():
        return after
    rest = after.unchanged & ~is_known
    return Texts(pc.if_else(pa.array(is_known), before.values, after.values), rest if rest.any() else None)
