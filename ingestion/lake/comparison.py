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
    columns: Sequence[str]
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
        names = ", ".join(identifier(name) for name in self.columns)
        yield from self.con.sql(
            f"select {names} from read_parquet({literal(str(self.file))}) where {_OPERATION} = {literal(operation)}"
        ).to_arrow_reader(self.fetch_rows)


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
    """Compare the Parquet file `new` with what is `held` and write the differences to `file`.

    `columns` are the data columns with DuckDB's types. With `keys`, each key's newest version counts; without, content
    does, with multiplicity. `skipped_keys` names a relation of `con` with keys that the extract has but `new` has not:
    they did not vanish. Without `deletes`, rows that only the lake has are no difference.
    """
    con.execute("set preserve_insertion_order = false")
    query = (_by_key if keys else _by_content)(con, new, held, columns, keys, skipped_keys, deletes)
    con.execute(f"copy ({query}) to {literal(str(file))} (format parquet, compression zstd, compression_level 1)")
    counts = con.execute(
        f"select count(*) filter (where {_OPERATION} = 'upsert'), count(*) filter (where {_OPERATION} = 'delete'), "
        f"count(*) filter (where is_new) from read_parquet({literal(str(file))})"
    ).fetchall()[0]
    upserted, deleted, unknown = counts
    width = max(1, new_bytes // max(1, new_rows))
    return Differences(
        con=con,
        file=file,
        columns=list(columns),
        upserts=upserted,
        deletes=deleted,
        held=new_rows - unknown + deleted,
        fetch_rows=max(1, min(50_000, _FETCH_BYTES // width)),
    )


def _held_rows(held: Sequence[Held], columns: Mapping[str, str], con: duckdb.DuckDBPyConnection) -> str:
    """A query for all versions that the lake holds, with today's columns and types."""
    values = [f"null::{kind} as {identifier(name)}" for name, kind in columns.items()]
    values += ["''::varchar as _sdc_operation", "0::bigint as _sdc_load_id", "0::bigint as _sdc_sequence"]
    queries = [f"select {', '.join(values)} where false"]
    for each in held:
        if not each.files:
            continue
        files = ", ".join(literal(str(path)) for path in each.files)
        source = f"read_parquet([{files}], union_by_name = true)"
        existing = {row[0].lower() for row in con.execute(f"describe from {source}").fetchall()}
        values = [
            f"{identifier(name) if name.lower() in existing else 'null'}::{kind} as {identifier(name)}"
            for name, kind in columns.items()
        ]
        queries.append(
            f"select {', '.join(values)}, _sdc_operation, _sdc_load_id, _sdc_sequence"
            f" from {source} where {each.condition}"
        )
    return " union all ".join(queries)


def _by_key(
    con: duckdb.DuckDBPyConnection,
    new: Path,
    held: Sequence[Held],
    columns: Mapping[str, str],
    keys: Sequence[str],
    skipped_keys: str | None,
    deletes: bool,
) -> str:
    key_list = ", ".join(identifier(key) for key in keys)
    on = " and ".join(f"new.{identifier(key)} = held.{identifier(key)}" for key in keys)
    differs = " or ".join(
        f"new.{identifier(name)} is distinct from held.{identifier(name)}" for name in columns if name not in keys
    )
    first = identifier(keys[0])
    values = ", ".join(
        f"case when new.{first} is null then held.{identifier(name)} else new.{identifier(name)} end"
        f" as {identifier(name)}"
        for name in columns
    )
    same_key = " and ".join(f"versions.{identifier(key)} = wanted.{identifier(key)}" for key in keys)
    wanted = f"select 1 from read_parquet({literal(str(new))}) as wanted where {same_key}"
    of_interest = "" if deletes else f" where exists ({wanted})"
    skipped = ""
    if skipped_keys:
        same = " and ".join(f"held.{identifier(key)} = skipped.{identifier(key)}" for key in keys)
        skipped = f" and not exists (select 1 from {skipped_keys} as skipped where {same})"
    vanished = f"new.{first} is null{skipped}" if deletes else "false"
    return f"""
        with versions as ({_held_rows(held, columns, con)}),
        held as (
            select * from versions{of_interest}
            qualify row_number() over (partition by {key_list} order by _sdc_load_id desc, _sdc_sequence desc) = 1
        ),
        live as (select * from held where _sdc_operation = 'upsert')
        select case when new.{first} is null then 'delete' else 'upsert' end as {_OPERATION},
            held.{first} is null as is_new, {values}
        from read_parquet({literal(str(new))}) as new
        {"full" if deletes else "left"} join live as held on {on}
        where {vanished} or (new.{first} is not null and (held.{first} is null or {differs or "false"}))"""


def _by_content(
    con: duckdb.DuckDBPyConnection,
    new: Path,
    held: Sequence[Held],
    columns: Mapping[str, str],
    keys: Sequence[str],
    skipped_keys: str | None,
    deletes: bool,
) -> str:
    names = ", ".join(identifier(name) for name in columns)
    wanted = "surplus <> 0" if deletes else "surplus > 0"
    return f"""
        with versions as ({_held_rows(held, columns, con)}),
        counted as (
            select {names}, 1 as times from read_parquet({literal(str(new))})
            union all
            select {names}, case _sdc_operation when 'upsert' then -1 else 1 end from versions
        ),
        surpluses as (select {names}, sum(times)::bigint as surplus from counted group by {names})
        select case when surplus > 0 then 'upsert' else 'delete' end as {_OPERATION}, surplus > 0 as is_new, {names}
        from (select *, unnest(range(abs(surplus))) as copy from surpluses where {wanted})"""
