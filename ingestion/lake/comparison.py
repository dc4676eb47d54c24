"""Compares an extract with what the lake holds of its stream, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from ingestion.lake.rowhash import identifier, literal

# What a reader of differences holds in memory at a time.
_FETCH_BYTES = 16 * 1024 * 1024
# Texts and bytes of wider rows are compared by their md5, so that a comparison never holds them.
_WIDE_BYTES = 1024
_OPERATION = "_sdc_operation"


@dataclass(frozen=True)
class Held:
    """Files of the lake to compare with, and which of their rows count."""

    files: Sequence[Path]
    condition: str = "true"


@dataclass(frozen=True)
class Differences:
    """What an extract has that the lake has not, and the reverse."""

    con: duckdb.DuckDBPyConnection
    file: Path
    new: Path
    sources: _Sources
    upserts: int
    deletes: int
    held: int
    """Rows that the lake holds, of those looked at."""
    fetch_rows: int

    @property
    def vanished_share(self) -> float:
        """The share of held rows that the extract does not have."""
        return self.deletes / self.held if self.held else 0.0

    def rows(self, operation: str) -> Iterator[pa.RecordBatch]:
        """The new and changed rows (`upsert`), or the last content of those that vanished (`delete`)."""
        if operation == "upsert":
            values = ", ".join(f"rows.{identifier(name)}" for name in self.sources.columns)
            rows = f"read_parquet({literal(str(self.new))}, file_row_number = true)"
            query = f"select {values} from {rows} as rows join differences on rows.file_row_number = differences.place"
        else:
            query = self.sources.query(narrow=False)
            values = ", ".join(f"rows.{identifier(name)}" for name in self.sources.columns)
            query = (
                f"select {values} from ({query}) as rows join differences"
                " on rows.place = differences.place and rows.file = differences.file"
            )
        differences = (
            f"with differences as materialized (from read_parquet({literal(str(self.file))})"
            f" where {_OPERATION} = {literal(operation)})"
        )
        yield from self.con.sql(f"{differences} {query}").to_arrow_reader(self.fetch_rows)


def compare(
    con: duckdb.DuckDBPyConnection,
    *,
    new: Path,
    new_rows: int,
    new_bytes: int,
    held: Sequence[Held],
    columns: Mapping[str, str],
    keys: Sequence[str],
    file: Path,
    skipped_keys: str | None = None,
    deletes: bool = True,
) -> Differences:
    """Compare the Parquet file `new` with what is `held` and write to `file` where the differences are.

    `columns` are the data columns with DuckDB's types. With `keys`, each key's newest version counts; without, content
    does, with multiplicity. `skipped_keys` names a relation of `con` with keys that the extract has but `new` has not:
    they did not vanish. Without `deletes`, rows that only the lake has are no difference.
    """
    con.execute("set preserve_insertion_order = false")
    width = max(1, new_bytes // max(1, new_rows))
    sources = _Sources(con, held, columns, set(keys), is_wide=width > _WIDE_BYTES)
    extract = (
        f"select {sources.values(narrow=True)}, file_row_number as place"
        f" from read_parquet({literal(str(new))}, file_row_number = true)"
    )
    query = _by_key(extract, sources, keys, skipped_keys, deletes) if keys else _by_content(extract, sources, deletes)
    con.execute(f"copy ({query}) to {literal(str(file))} (format parquet, compression zstd, compression_level 1)")
    upserted, deleted, unknown = con.execute(
        f"select count(*) filter (where {_OPERATION} = 'upsert'), count(*) filter (where {_OPERATION} = 'delete'), "
        f"count(*) filter (where is_new) from read_parquet({literal(str(file))})"
    ).fetchall()[0]
    return Differences(
        con=con,
        file=file,
        new=new,
        sources=sources,
        upserts=upserted,
        deletes=deleted,
        held=new_rows - unknown + deleted,
        fetch_rows=max(1, min(50_000, _FETCH_BYTES // width)),
    )


class _Sources:
    """The lake's side of a comparison."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        held: Sequence[Held],
        columns: Mapping[str, str],
        keys: set[str],
        *,
        is_wide: bool,
    ) -> None:
        self.columns = columns
        self._keys = keys
        self._is_wide = is_wide
        self._held = []
        for each in held:
            if each.files:
                files = ", ".join(literal(str(path)) for path in each.files)
                source = f"read_parquet([{files}], union_by_name = true, filename = true, file_row_number = true)"
                names = {row[0].lower() for row in con.execute(f"describe from {source}").fetchall()}
                self._held.append((source, each.condition, names))

    def values(self, existing: set[str] | None = None, *, narrow: bool) -> str:
        """The columns in their types, null where a file has none of that name; `narrow`: what stands for them."""
        values = []
        for name, kind in self.columns.items():
            value = f"{identifier(name) if existing is None or name.lower() in existing else 'null'}::{kind}"
            if narrow and self._is_wide and kind in {"VARCHAR", "BLOB"} and name not in self._keys:
                value = f"md5({value})"
            values.append(f"{value} as {identifier(name)}")
        return ", ".join(values)

    def query(self, *, narrow: bool) -> str:
        """All versions that the lake holds, each with its place."""
        metadata = "_sdc_operation, _sdc_load_id, _sdc_sequence, filename as file, file_row_number as place"
        queries = [
            f"select {self.values(names, narrow=narrow)}, {metadata} from {source} where {condition}"
            for source, condition, names in self._held
        ]
        if not queries:
            none = "'' as _sdc_operation, 0 as _sdc_load_id, 0 as _sdc_sequence, '' as file, 0::bigint as place"
            return f"select {self.values(set(), narrow=narrow)}, {none} where false"
        return " union all ".join(queries)


def _by_key(extract: str, sources: _Sources, keys: Sequence[str], skipped_keys: str | None, deletes: bool) -> str:
    key_list = ", ".join(identifier(key) for key in keys)

    def same_key(left: str, right: str) -> str:
        return " and ".join(f"{left}.{identifier(key)} = {right}.{identifier(key)}" for key in keys)

    differs = " or ".join(
        f"new.{identifier(name)} is distinct from held.{identifier(name)}"
        for name in sources.columns
        if name not in keys
    )
    of_interest = "" if deletes else f" where exists (select 1 from new where {same_key('versions', 'new')})"
    vanished = "new.place is null" if deletes else "false"
    if skipped_keys:
        vanished += f" and not exists (select 1 from {skipped_keys} as skipped where {same_key('held', 'skipped')})"
    return f"""
        with new as ({extract}),
        versions as ({sources.query(narrow=True)}),
        held as (
            select * from versions{of_interest}
            qualify row_number() over (partition by {key_list} order by _sdc_load_id desc, _sdc_sequence desc) = 1
        ),
        live as (select * from held where _sdc_operation = 'upsert')
        select case when new.place is null then 'delete' else 'upsert' end as {_OPERATION},
            held.place is null as is_new, coalesce(new.place, held.place) as place, held.file as file
        from new
        {"full" if deletes else "left"} join live as held on {same_key("new", "held")}
        where {vanished} or (new.place is not null and (held.place is null or {differs or "false"}))"""


def _by_content(extract: str, sources: _Sources, deletes: bool) -> str:
    names = ", ".join(identifier(name) for name in sources.columns)
    return f"""
        with counted as (
            select {names}, 1 as times, place as new_place, null as file, null as held_place from ({extract})
            union all
            select {names}, case _sdc_operation when 'upsert' then -1 else 1 end, null, file, place
            from ({sources.query(narrow=True)})
        ),
        surpluses as (
            select sum(times)::bigint as surplus, any_value(new_place) as new_place,
                arg_min(file, held_place) as file, min(held_place) as held_place
            from counted
            group by {names}
        )
        select case when surplus > 0 then 'upsert' else 'delete' end as {_OPERATION}, surplus > 0 as is_new,
            case when surplus > 0 then new_place else held_place end as place, file
        from (select *, unnest(range(abs(surplus))) as copy from surpluses
            where {"surplus <> 0" if deletes else "surplus > 0"})"""
