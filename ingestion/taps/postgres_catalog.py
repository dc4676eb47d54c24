"""What a database has: tables, their columns and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingestion.lake import identifier
from ingestion.taps.postgres_connection import Connection
from ingestion.taps.postgres_types import Column

_KINDS = {"r": "table", "p": "partitioned table", "v": "view", "m": "materialized view", "f": "foreign table"}

# Partitions come with their table. The schemas are those of `filter_schemas`, or all but PostgreSQL's own.
_TABLES = """
select c.oid, n.nspname, c.relname, c.relkind::text,
    has_schema_privilege(n.oid, 'USAGE') and has_any_column_privilege(c.oid, 'SELECT')
        and (c.relkind <> 'm' or c.relispopulated)
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f')
    and not c.relispartition
    and c.relpersistence <> 't'
    and case when %(schemas)s::text[] = '{}' then n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
        else n.nspname = any(%(schemas)s::text[]) end
order by n.nspname, c.relname
"""

# A domain is read as the type below it.
_COLUMNS = """
with recursive base as (
    select a.attrelid, a.attnum, a.attname, a.attnotnull as not_null, a.atttypid as oid, a.atttypid as type_oid,
        a.atttypmod as modifier
    from pg_attribute as a
    where a.attrelid = any(%(tables)s::oid[]) and a.attnum > 0 and not a.attisdropped
        and has_column_privilege(a.attrelid, a.attnum, 'SELECT')
    union all
    select b.attrelid, b.attnum, b.attname, b.not_null or t.typnotnull, b.oid, t.typbasetype, t.typtypmod
    from base as b
    join pg_type as t on t.oid = b.type_oid and t.typtype = 'd'
)
select b.attrelid, b.attname, format_type(b.type_oid, b.modifier), b.oid, b.not_null
from base as b
join pg_type as t on t.oid = b.type_oid and t.typtype <> 'd'
order by b.attrelid, b.attnum
"""

# The primary key, else a unique index on columns that are not null: the replica identity, else the shortest.
_KEYS = """
select distinct on (i.indrelid) i.indrelid,
    (select array_agg(a.attname::text order by k.place)
     from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
     join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
     where k.place <= i.indnkeyatts)
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
where i.indrelid = any(%(tables)s::oid[]) and i.indisunique and i.indisvalid and i.indimmediate
    and i.indpred is null and i.indexprs is null
    and not exists (
        select from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where k.place <= i.indnkeyatts and not a.attnotnull
    )
order by i.indrelid, i.indisprimary desc, i.indisreplident desc, i.indnkeyatts, c.relname
"""


@dataclass(frozen=True)
class Table:
    """A relation that can be selected from, with the columns that this user may read."""

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    is_readable: bool = True

    @property
    def sql(self) -> str:
        """Its quoted name."""
        return f"{identifier(self.schema)}.{identifier(self.name)}"

    @property
    def label(self) -> str:
        """Its name for messages."""
        return f"{self.schema}.{self.name}"


def discover(connection: Connection, schemas: Sequence[str] = ()) -> list[Table]:
    """All tables, partitioned tables, views, materialized views and foreign tables of these schemas; none: of all.

    Raises psycopg2.Error.
    """
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, {"schemas": list(schemas)})
        found = cursor.fetchall()
        tables = {"tables": [row[0] for row in found]}
        cursor.execute(_KEYS, tables)
        keys = {oid: tuple(names) for oid, names in cursor.fetchall()}
        cursor.execute(_COLUMNS, tables)
        columns: dict[int, list[Column]] = {}
        for oid, name, kind, type_oid, not_null in cursor.fetchall():
            is_key = name in keys.get(oid, ())
            columns.setdefault(oid, []).append(Column(name, kind, type_oid, not not_null, is_key))
    connection.rollback()
    result = []
    for oid, schema, name, kind, is_readable in found:
        own = tuple(columns.get(oid, ()))
        # A key that this user may not read in full is none.
        key = keys.get(oid, ()) if set(keys.get(oid, ())) <= {column.name for column in own} else ()
        result.append(Table(oid, schema, name, _KINDS[kind], own, key, is_readable))
    return result
