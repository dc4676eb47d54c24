"""Value by value, both engines read the same: DuckDB by its casts, PostgreSQL by the functions of this project."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.cli.main import dbtRunnerResult

from tests.integration.dbt_warehouse import DbtWarehouse
from tests.integration.postgres_twin import PostgresTwin
from tests.postgres import Database, create_database, drop_database

DAYS = [
    "2024-02-29",
    "2023-02-29",
    "2023-02-28",
    "1900-02-29",
    "2000-02-29",
    "2024-04-31",
    "2024-12-31",
    "2024-13-01",
    "2024-00-10",
    "2024-06-00",
    "0000-01-01",
    "0000-02-29",
    "0001-01-01",
    "1969-12-31",
    "9999-12-31",
    "2024-6-05",
    "24-01-01",
    "10000-01-01",
    "2011-03-27",
    "2011-10-30",
]
TIMES = [
    "01:30",
    "9:08",
    "09:8",
    "9:8:7",
    "09:08:07",
    "23:59:59",
    "24:00",
    "24:00:00",
    "24:00:00.1",
    "24:00:01",
    "24:01",
    "09:08:07.",
    "09:08:07.5",
    "09:08:7.25",
    "09:08:07.123456",
    "09:08:07.1234567",
    "09:08:07.999999999",
    "09:08:60",
    "09:60",
    "25:00",
    "9",
]
OFFSETS = ["", "Z", "+02", "-02:30", "+14:00", "+15:59", "+00", "-00:30", "+1", "z", " Z", " +02"]
OTHER_DAYS = [
    *("05/03/2024", "5/3/2024", "31/02/2024", "29/02/2024", "29/02/2023", "12/31/2024", "31/12/24", "31/02/24"),
    *("24/3/5", "99/3/5", "2024/03/05", "2024/3/5", "2024/02/30", "2024/13/01", "0000/01/01", "01/01/0000"),
    *("Mar 05, 2024", "mar 5, 2024", "MAR 31, 24", "Feb 29, 2023", "Feb 29, 2024", "Xyz 05, 2024", "Mar 05,2024"),
    *("Mar  05,  2024", "Mar 5 2024", "Sept 5, 2024", "Dec 31, 9999", "Jan 01, 0", "27/03/2011", "Oct 30, 2011"),
]
OTHER_TIMES = ["", "1:30", "01:30", "09:08:07", "24:00", "23:60", "23:59:59", "23:59:60", "09:08:07.5", "09:08Z"]
MOMENTS = [
    *(
        day + gap + time + offset
        for day in DAYS
        for gap in (" ", "T", "  ", "t", "")
        for time in TIMES
        for offset in OFFSETS
    ),
    *(day + offset for day in DAYS for offset in OFFSETS),
    *(day + gap + time for day in OTHER_DAYS for gap in (" ", "  ") for time in OTHER_TIMES),
    *("1709629687", "0000000000", "9999999999", "170962968", "-1709629687", "1709629687.5", "1709629687123"),
    *("9999999999999", "0000000000001", "17096296875001", "", "now", "yesterday", "2024", "2024-", "\u0662024-03-05"),
]
NUMBERS = [
    sign + whole + fraction + exponent
    for sign in ("", "+", "-", "--", " ", "\u00a0")
    for whole in ("", "0", "00", "7", "12345678", "2147483647", "2147483648", "9223372036854775808", "1_0", "9" * 13)
    for fraction in ("", ".", ".00", ".5", ".00005", ".00004999", ".99995", ".1_2", "._1")
    for exponent in ("", "e0", "E-3", "e+02", "e")
] + ["inf", "nan", "NaN", "Infinity", "0x1F", "1,000", "$5", "true", "1e400", "-1e400", "1e-400", "\u0665", "9" * 2000]


class Engines:
    """The SQL of macros, run by both engines over the same texts."""

    def __init__(self, folder: Path, database: Database, services: Path, shop: str) -> None:
        folder.mkdir()
        self._warehouses = (
            DbtWarehouse(folder / "duckdb", shop=shop),
            PostgresTwin(folder / "postgres", database, services, shop),
        )
        for warehouse in self._warehouses:
            warehouse.parse()
        self._warehouses[1].dbt("run-operation", "create_functions")
        self._database = database

    def both(self, macros: str, texts: list[str]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Rows of `v` and what the macros, a list of SQL columns over `v`, say of it."""
        one, two = (
            self._sql(warehouse, f"select v, {macros} from received order by n") for warehouse in self._warehouses
        )
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            connection.execute(
                "create table received as select unnest(?) as v, generate_subscripts(?, 1) as n", [texts] * 2
            )
            rows = connection.execute(one).fetchall()
        with closing(self._database.connect()) as connection, connection.cursor() as cursor:
            # None of what a server or a role may be set to makes a difference.
            cursor.execute("set timezone = 'Asia/Kolkata'")
            cursor.execute(
                "create temp table received as select * from unnest(%s) with ordinality as texts (v, n)", (texts,)
            )
            cursor.execute(two)
            return rows, cursor.fetchall()

    @staticmethod
    def _sql(warehouse: DbtWarehouse, query: str) -> str:
        result: dbtRunnerResult = warehouse.dbt("compile", "--inline", query)
        return result.result[0].node.compiled_code


@pytest.fixture(scope="module")
def engines(
    postgres_server: Any,
    warehouse_services: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engines]:
    """Of the shop whose source's clocks change."""
    database = create_database(postgres_server)
    yield Engines(tmp_path_factory.mktemp("engines") / "homes", database, warehouse_services, "online_retail")
    drop_database(database)


def unlike(rows: tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """Pairs of rows that differ; there is one row of each text."""
    one, two = rows
    assert len(one) == len(two)
    return [pair for pair in zip(one, two, strict=True) if pair[0] != pair[1]]


def test_moments(engines: Engines) -> None:
    # As text, and what lies before the year 1 as none: nothing reads it, and drivers cannot.
    rows = engines.both(
        "case when {{ to_utc_timestamp('v') }} >= timestamp '0001-01-02'"
        " then cast({{ to_utc_timestamp('v') }} as text) end,"
        " {{ to_utc_timestamp('v') }} is null",
        MOMENTS,
    )
    assert unlike(rows) == []
    assert sum(1 for row in rows[0] if row[1]) > 1000


def test_numbers(engines: Engines) -> None:
    rows = engines.both(
        "{{ to_integer('v') }}, {{ to_whole_number('v', 'bigint') }}, {{ to_decimal('v') }}, {{ clean_age('v') }},"
        " {{ money_or_null(quantity_times_price(to_integer('v'), to_decimal('v'))) }}",
        NUMBERS,
    )
    assert unlike(rows) == []
    assert all(any(row[column] is not None for row in rows[0]) for column in range(1, 6))


def test_letters_and_spaces(engines: Engines) -> None:
    every = [chr(code) for code in itertools.chain(range(1, 0xD800), range(0xE000, 0x110000))]
    letters = [each for each in every if each.lower() != each or each.upper() != each or each.isspace()] + every[:2000]
    rows = engines.both(
        "{{ lower_case('v') }}, {{ upper_case('v') }}, {{ trimmed(\"' ' || v || 'x' || v || ' '\") }},"
        " {{ digits_of('v') }}, {{ md5_of('v') }}",
        letters,
    )
    assert unlike(rows) == []


def test_days_and_hours(engines: Engines) -> None:
    """Each hour of the years around the changes of rules, and each minute around the changes of clocks."""
    moments = [
        f"{year}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:00"
        for year in (1971, 1995, 1996, 2011, 2024, 2038, 2099)
        for month in range(1, 13)
        for day in (1, 15, *range(24, 29))
        for hour in range(24)
        for minute in ((0, 15, 29, 59) if month in (3, 10) else (7,))
    ]
    moment = "cast(v as timestamp)"
    macros = (
        f"shop_day('{moment}')",
        f"date_id('{moment}')",
        f"start_of_shop_day(shop_day('{moment}'))",
        f"click_window('{moment}')",
        f"spans_since_1970('{moment}', 15)",
        f"spans_since_1970('{moment}', 5)",
        f"first_of_week(shop_day('{moment}'))",
        f"last_of_month(shop_day('{moment}'))",
        f"days_between(shop_day('{moment}'), \"cast('2024-03-31' as date)\")",
        "to_utc_timestamp('v')",
    )
    rows = engines.both(", ".join(f"{{{{ {macro} }}}}" for macro in macros), moments)
    assert unlike(rows) == []


def fingerprint(*columns: str) -> str:
    """The macro's call."""
    return "{{ fingerprint([" + ", ".join(f"'{column}'" for column in columns) + "]) }}"


def count_of(condition: str) -> str:
    """SQL of the number of rows for which it is true."""
    return f"sum(case when {condition} then 1 else 0 end)"


def repeated(*columns: str) -> str:
    """SQL of the number of rows whose fingerprint an earlier row has."""
    return f"count(*) - count(distinct {fingerprint(*columns)})"


MONEY = "cast({} as decimal(18, 4))".format
#: By which differences that fingerprints weigh could sum to 0: how many of a million numbers follow such a rule.
RULES = {
    "the same": repeated("n"),
    "the same of times": repeated("1", "moment"),
    "the same of two": repeated("n - n % 1000", "n % 1000"),
    "none": count_of(f"{fingerprint('n')} = 0"),
    "twice": count_of(f"{fingerprint('2 * n')} = 2 * {fingerprint('n')}"),
    "twice of two": count_of(f"{fingerprint('2 * n', '2 * n')} = 2 * {fingerprint('n', 'n')}"),
    "opposite": count_of(f"abs({fingerprint('-1 - n')}) = abs({fingerprint('n + 1')})"),
    "without a sign": count_of(f"{fingerprint(MONEY('-1 - n'))} = {fingerprint(MONEY('n + 1'))}"),
    "swapped": count_of(
        f"{fingerprint('n', 'n + 1')} + {fingerprint('n + 1', 'n')}"
        f" = {fingerprint('n', 'n')} + {fingerprint('n + 1', 'n + 1')}"
    ),
    "alike apart": "count(*) - count(distinct "
    f"abs({fingerprint('n', MONEY('1.25'))} - {fingerprint('n', MONEY('-1.25'))}))",
    "null as 0": count_of(f"{fingerprint('n', 'nothing')} = {fingerprint('n', '0')}"),
}
NUMBERS_AND_TIMES = """
    select
        cast(i as integer) as n,
        -- A million of them all over a year, so that no two are of one second.
        timestamp '2024-01-01'
        + cast(cast(i as bigint) * 7919 % 31536000 as integer) * interval '1.000001 second' as moment,
        cast(null as integer) as nothing
    from generate_series(0, 999999) as numbers (i)
"""


def test_fingerprints_follow_no_rule(engines: Engines) -> None:
    counts = ", ".join(RULES.values())
    span = f"max({fingerprint('n')}) - min({fingerprint('n')})"
    rows = engines.both(f"(select concat_ws(' ', {counts}, {span}) from ({NUMBERS_AND_TIMES}) as numbers)", ["any"])
    for [(_, said)] in rows:
        *found, of_all = map(int, said.split())
        assert dict(zip(RULES, found, strict=True)) == dict.fromkeys(RULES, 0)
        assert of_all > 2**61  # of 62 bits
