"""Every type of PostgreSQL: the same in the lake whether it is read by ADBC or comes as the text of the log."""

from __future__ import annotations

import io
import re
from contextlib import closing

import adbc_driver_postgresql.dbapi
import pytest

from ingestion.taps.postgres_catalog import discover
from ingestion.taps.postgres_connection import Server
from ingestion.taps.postgres_types import adbc_to_lake, json_token, select_list, text_to_arrow
from tests.integration.postgres_runs import Source

TYPES = [
    "create type mood as enum ('glad', 'it''s \"so\"')",
    "create domain price as numeric(12,2)",
    "create domain discounted as price check (value > 0)",
    "create type pair as (a int, b text)",
]
SINCE_15 = ("numeric(3,5)", "numeric(3,-2)")
# Values of each type, then its values in the lake as JSON where that is worth a look.
CASES: list[tuple[str, list[str | None], list[str] | None]] = [
    ("smallint", ["-32768", "32767", None], ["-32768", "32767", "null"]),
    ("integer", ["-2147483648"], None),
    ("bigint", ["-9223372036854775808", "9223372036854775807"], None),
    ("numeric(12,2)", ["1.5", "NaN", "-0.01", None], ["1.50", "-0.01", "null"]),
    ("numeric(38,10)", ["1234567890123456789012345678.0123456789"], ["1234567890123456789012345678.0123456789"]),
    ("numeric", ["NaN", "-Infinity", "1e131071", "0.10"], None),
    ("numeric(3,5)", ["0.00123"], ['"0.00123"']),
    ("numeric(3,-2)", ["12345"], ['"12300"']),
    ("real", ["NaN", "0.1", "3.4028235e38", "1e20", "-inf"], ['"NaN"', "0.1", "3.4028235e+38", "1e+20", '"-Infinity"']),
    ("double precision", ["NaN", "inf", "1e300", "0.1", "-0"], ['"NaN"', '"Infinity"', "1e+300", "0.1", "-0"]),
    ("boolean", ["t", "f", None], ["true", "false", "null"]),
    ("date", ["infinity", "-infinity", "5874897-12-31", "4713-01-01 BC", "2024-02-29"], None),
    ("timestamp", ["infinity", "0044-03-15 BC", "2024-01-01 24:00", "294276-12-31 23:59:59.999999"], None),
    ("timestamptz", ["-infinity", "2024-02-29 01:02:03.5+02", "294247-01-10 04:00:54.775806+00"], None),
    ("timestamptz(0)", ["2024-02-29 01:02:03.5+02"], ['"2024-02-28 23:02:04+00"']),
    ("text", ["", "\U0001f600 \uffff e\u0301", "a\tb\nc\\", None], None),
    ("varchar(3)", ["abc"], None),
    ("char(5)", ["ab", ""], ['"ab   "', '"     "']),
    ('"char"', ["a"], None),
    ("name", ["n"], None),
    ("bytea", ["\\x00ff", "\\x"], ['"\\\\x00ff"', '"\\\\x"']),
    ("uuid", ["F3BCFDE1-c6ba-4657-978c-36ed69c3f66c"], ['"f3bcfde1-c6ba-4657-978c-36ed69c3f66c"']),
    ("json", ['{"a":  1, "a":2}'], ['"{\\"a\\":  1, \\"a\\":2}"']),
    ("jsonb", ['{"b":1.50,"a":null}'], ['"{\\"a\\": null, \\"b\\": 1.50}"']),
    ("interval", ["1 year 2 mons -3 days 04:05:06.7"], ['"1 year 2 mons -3 days +04:05:06.7"']),
    ("time", ["24:00:00"], None),
    ("timetz", ["12:00:00+02"], ['"12:00:00+02"']),
    ("money", ["12.5"], None),
    ("inet", ["1.2.3.4", "10.0.0.0/8"], ['"1.2.3.4"', '"10.0.0.0/8"']),
    ("cidr", ["10.0.0.0/8"], None),
    ("macaddr", ["08:00:2b:01:02:03"], None),
    ("bit(3)", ["101"], None),
    ("varbit", ["1"], None),
    ("point", ["(1,2)"], None),
    ("int4range", ["[1,5)"], None),
    ("tsvector", ["a b"], None),
    ("oid", ["4294967295"], ['"4294967295"']),
    ("mood", ['it\'s "so"'], None),
    ("discounted", ["5.25"], ["5.25"]),
    ("pair", ['(1,"x y")'], None),
    (
        "integer[]",
        ["{1,null}", "{{1,2},{3,4}}", "{}", "[2:3]={7,8}"],
        ['"[1,null]"', '"[[1,2],[3,4]]"', '"[]"', '"[7,8]"'],
    ),
    ("text[]", ['{a,"b c",NULL,"NULL","","q\\"\\\\"}', '{"\n\t\x01é\u2028\U0001f600"}'], None),
    ("numeric(5,2)[]", ["{1.50,NaN}"], ['"[1.50,\\"NaN\\"]"']),
    ("double precision[]", ["{1e20,NaN,0.1,-0}"], None),
    ("boolean[]", ["{t,f,null}"], ['"[true,false,null]"']),
    ("timestamptz[]", ["{2024-01-01,infinity}"], None),
    ("jsonb[]", ['{"{\\"a\\": 1}","[1]"}'], ['"[{\\"a\\": 1},[1]]"']),
    ("bytea[]", ['{"\\\\x00ff"}'], None),
    ("char(3)[]", ["{a}"], ['"[\\"a  \\"]"']),
    ("mood[]", ["{glad,NULL}"], None),
    ("pair[]", ['{"(1,\\"x y\\")"}'], None),
    ("box[]", ["{(1,1),(0,0);(2,2),(1,1)}"], None),
]
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b", "r": "\r", "f": "\f", "v": "\v"}


def _texts(copied: str) -> list[str | None]:
    """The values of a column in COPY's text format, which is that of the log."""
    lines = copied.split("\n")[:-1]
    return [
        None if line == "\\N" else re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), line)
        for line in lines
    ]


def cases_of(postgres):
    """The cases of all types that the server knows."""
    return [case for case in CASES if postgres.server.version >= 15 or case[0] not in SINCE_15]


def test_adbc_and_log_give_the_same(postgres):
    postgres.execute(*TYPES)
    cases = cases_of(postgres)
    server = Server({"sqlalchemy_url": postgres.dsn})
    with closing(server.connect()) as connection, closing(server.connect_arrow()) as arrow:
        with connection.cursor() as cursor:
            for number, (kind, texts, _) in enumerate(cases):
                cursor.execute(f"create table t{number:03d} (place serial, v {kind})")
                for text in texts:
                    cursor.execute(f"insert into t{number:03d} (v) values (%s)", [text])
        connection.commit()
        tables = [table for table in discover(connection) if table.name.startswith("t0")]
        assert len(tables) == len(cases)
        for table, (kind, texts, expected) in zip(tables, cases, strict=True):
            columns = [column for column in table.columns if column.name == "v"]
            with connection.cursor() as cursor:
                copied = io.StringIO()
                cursor.copy_expert(f"copy (select v from {table.sql} order by place) to stdout", copied)
            log = text_to_arrow(columns, [_texts(copied.getvalue())])
            with arrow.cursor() as cursor:
                cursor.execute(f"select {select_list(columns)} from {table.sql} order by place")
                read = adbc_to_lake(columns, cursor.fetch_arrow_table().combine_chunks().to_batches()[0])
            tokens = [json_token(value) for value in read.rows.column(0)]
            assert tokens == [json_token(value) for value in log.rows.column(0)], kind
            assert read.rows.schema == log.rows.schema, kind
            assert read.unfit == log.unfit, kind
            assert len(tokens) + len(read.unfit) == len(texts), kind
            assert expected is None or tokens == expected, kind


def test_all_types_reach_raw_and_stay_equal(postgres, warehouse):
    postgres.execute(*TYPES)
    cases = cases_of(postgres)
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _, _) in enumerate(cases))
    postgres.execute(f"create table everything (id int primary key, {columns})")
    with closing(postgres.connect()) as connection, connection, connection.cursor() as cursor:
        for row in range(5):
            values = [texts[row] if row < len(texts) else None for _, texts, _ in cases]
            slots = ", ".join(["%s"] * (len(values) + 1))
            cursor.execute(f"insert into everything values ({slots})", [row, *values])
    shop = Source(postgres, warehouse)
    shop.run()
    loaded, quarantined = shop.warehouse.query("select rows_loaded, rows_quarantined from ops.loads")[0]
    assert loaded + quarantined == 5 and loaded >= 1
    assert shop.run().of_type("BATCH") == []


@pytest.mark.parametrize("kind", ["numeric(12,2)", "numeric(38,10)", "numeric", "double precision"])
def test_number_is_the_same_in_raw(postgres, warehouse, kind):
    numbers = ["0", "-1.5", "9999999999.99", "0.01"]
    postgres.execute(
        f"create table t (id int, v {kind})",
        *[f"insert into t values ({number}, {text})" for number, text in enumerate(numbers)],
    )
    shop = Source(postgres, warehouse)
    shop.run()
    # `numeric` itself is text in raw, as the database writes it.
    raw = shop.warehouse.query("select v::varchar from raw_shop.t order by id")
    assert [float(value) for (value,) in raw] == [float(text) for text in numbers]
    source = postgres.query("select v::text from t order by id")
    assert kind == "double precision" or raw == source


def test_driver_wraps_infinity_around(postgres):
    """What `postgres_types` undoes: a driver that does otherwise needs another rule there."""
    with (
        closing(adbc_driver_postgresql.dbapi.connect(postgres.dsn)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("select 'infinity'::timestamptz as v")
        (value,) = cursor.fetch_arrow_table().column(0).chunk(0).view("int64").to_pylist()
    assert value == (1 << 63) - 1 + 946_684_800_000_000 - (1 << 64)
