"""The table that is measured: 12 columns of mixed types, the same in every run, made by the server itself."""

from __future__ import annotations

SCHEMA = "bench"

COLUMNS = {
    "id": "bigint",
    "user_id": "integer",
    "product_id": "integer",
    "quantity": "smallint",
    "amount": "decimal(12,2)",
    "rate": "decimal(18,4)",
    "status": "varchar",
    "email": "varchar",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "is_paid": "boolean",
    "payload": "varchar",
}
"""DuckDB's type of each column."""

_CHECKSUM = """
select count(*), sum(id), sum(user_id), sum(product_id), sum(quantity), sum(amount), sum(rate), sum(length(status)),
    sum(length(email)), {created_at}, {updated_at}, count(*) filter (where is_paid), count(payload)
from {relation}
"""


def table(rows: int) -> str:
    """The name, in `SCHEMA`, of the table of so many rows."""
    return f"orders_{rows}"


def create_sql(rows: int) -> str:
    """Statements that make and fill the table, keyed by `id` and indexed by `updated_at`.

    Values come from the row's number by multiplication with primes: spread, and the same wherever they are made.
    """
    name = f"{SCHEMA}.{table(rows)}"
    return f"""
create table {name} as
select
    n as id,
    (n * 7919 % 100003)::int as user_id,
    (n * 104729 % 977)::int as product_id,
    (1 + n * 7 % 50)::smallint as quantity,
    ((n * 37 % 1000003)::numeric / 100)::numeric(12, 2) as amount,
    ((n * 11 % 1000003)::numeric / 10000)::numeric(18, 4) as rate,
    (array['pending', 'completed', 'completed', 'completed', 'cancelled'])[(1 + n * 13 % 5)::int] as status,
    'user' || (n * 7919 % 100003) || '@example.com' as email,
    timestamptz '2022-01-01 00:00:00+00' + n * interval '3 seconds' as created_at,
    timestamptz '2022-01-01 00:00:00+00' + n * interval '3 seconds'
        + (n * 31 % 1000003) * interval '1.000001 seconds' as updated_at,
    n % 3 = 0 as is_paid,
    jsonb_build_object('channel', 'c' || n % 11, 'weight', n % 1009) as payload
from generate_series(1::bigint, {rows}) as n;
alter table {name} add primary key (id);
create index on {name} (updated_at);
analyze {name};
"""


def checksum_in_postgres(relation: str) -> str:
    """A query of one row that every way of loading must agree on with the source; exact, since amounts are decimals."""
    micros = "(extract(epoch from max({0})) * 1000000)::bigint"
    return _CHECKSUM.format(
        relation=relation, created_at=micros.format("created_at"), updated_at=micros.format("updated_at")
    )


def checksum_in_duckdb(relation: str) -> str:
    """The same query in DuckDB."""
    return _CHECKSUM.format(
        relation=relation, created_at="epoch_us(max(created_at))", updated_at="epoch_us(max(updated_at))"
    )
