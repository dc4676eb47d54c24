"""The Online Retail files, or a small folder of the same shape and the same mess where they are not at hand."""

from __future__ import annotations

import csv
import gzip
import random
from collections import defaultdict
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

from tests.pipeline import ROOT

REAL_FOLDER = ROOT.parent / "shared" / "data" / "online_retail"
HEADER = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]
MONTHS = [(2010, 12), (2011, 2), (2011, 3), (2011, 4), (2011, 7)]
DAYS_PER_MONTH = 3


def real_or_generated(folder: Path) -> Path:
    """The folder of the real files; `folder`, newly filled, where there is none."""
    return REAL_FOLDER if (REAL_FOLDER / "README.md").exists() else generate(folder)


def generate(folder: Path, seed: int = 20101201) -> Path:
    """Fill `folder` with daily files of five months, all the mess of the real ones in each month, and their README.

    Cases that the real files lack are there too: two shipping lines on one invoice, a line that two files share,
    a negative price on a sale, a cancellation of positive value, times in the last hour of winter time.
    """
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    months: dict[str, list[Decimal]] = defaultdict(list)
    number = 536000
    shared: list[str] | None = None
    for year, month in MONTHS:
        # The clocks went forward on 2011-03-27.
        first = date(year, month, 26 if (year, month) == (2011, 3) else 1)
        for offset in range(DAYS_PER_MONTH):
            day = first + timedelta(days=offset)
            rows, number = _day(chance, day, number)
            if shared:
                rows.append(shared)
            shared = rows[0] if offset == 0 else None
            _write(folder / f"{day}.csv.gz", rows)
            for row in rows:
                months[row[4][:7]].append(int(row[3]) * Decimal(row[5]))
    lines = [f"| {month} | {len(values)} | {sum(values)} |" for month, values in sorted(months.items())]
    (folder / "README.md").write_text("| month | lines | net value |\n|---|---|---|\n" + "\n".join(lines) + "\n")
    return folder


def month_table(folder: Path) -> dict[str, tuple[int, Decimal]]:
    """Lines and net value by month, as the folder's README states them."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (folder / "README.md").read_text().splitlines()
        if line.startswith("| 20")
    ]
    return {month: (int(lines), Decimal(value)) for month, lines, value in cells}


def rewrite(file: Path, change: dict[int, list[str] | None]) -> None:
    """Write a file anew with some of its rows (by number, from 0) replaced, or removed where None."""
    with gzip.open(file, "rt", newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))[1:]
    file.unlink()  # a copy of a read-only file cannot be written in place
    replaced = [change.get(number, row) for number, row in enumerate(rows)]
    _write(file, [row for row in replaced if row is not None])


def _write(file: Path, rows: list[list[str]]) -> None:
    # No name and no time in the gzip header: equal rows make equal files.
    with (
        file.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
    ):
        text = "\n".join([",".join(HEADER), *(_csv_line(row) for row in rows)]) + "\n"
        packed.write(text.encode())


def _csv_line(row: list[str]) -> str:
    return ",".join(f'"{cell}"' if "," in cell else cell for cell in row)


def _day(chance: random.Random, day: date, number: int) -> tuple[list[list[str]], int]:
    """Rows of one day, and the next invoice number."""
    rows: list[list[str]] = []

    def invoice(prefix: str, customer: str, country: str, *lines: tuple[str, str, int, str]) -> None:
        nonlocal number
        number += 1
        minute = datetime.combine(day, time(chance.randrange(24), chance.randrange(58), 0))
        if minute.date() == date(2011, 3, 27) and minute.hour == 1:
            minute = minute.replace(hour=0)  # 01:00 to 02:00 did not exist that day
        for position, (code, name, quantity, price) in enumerate(lines):
            # The last line of a long invoice is a minute later.
            at = minute + timedelta(minutes=1 if position > 5 else 0)
            rows.append([f"{prefix}{number}", code, name, str(quantity), f"{at}", price, customer, country])

    def goods(count: int) -> list[tuple[str, str, int, str]]:
        picked = [chance.randrange(40) for _ in range(count)]
        return [
            (
                f"{20000 + item}{chance.choice(['', 'A', 'a'])}",
                chance.choice([f"LANTERN No {item}", f"LANTERN, No {item} ", f"Lantern no {item}"]),
                chance.randrange(1, 13),
                f"{chance.randrange(1, 2000) / 100}",
            )
            for item in picked
        ]

    for _ in range(6):
        customer = f"{chance.randrange(12346, 12360)}.0"
        country = chance.choice(["United Kingdom", "France", "EIRE"])
        lines = goods(chance.randrange(1, 9))
        invoice("", customer, country, *lines, lines[0], ("POST", "POSTAGE", 1, "18.0"))
        invoice(
            "", "", "United Kingdom", *goods(3), ("DOT", "DOTCOM POSTAGE", 1, "10.01"), ("C2", "CARRIAGE", 2, "50.0")
        )
    returned = goods(1)[0]
    invoice("C", "12350.0", "France", (returned[0], returned[1], -2, returned[3]), ("POST", "POSTAGE", -1, "18.0"))
    invoice("C", "12350.0", "France", ("D", "Discount", -1, "7.5"), ("20099", "RETURNED ONLY", -1, "3.25"))
    invoice("C", "", "United Kingdom", ("AMAZONFEE", "AMAZON FEE", -1, "130.55"), ("20001", "LANTERN No 1", 1, "1.1"))
    invoice("A", "", "United Kingdom", ("B", "Adjust bad debt", 1, "-110.62"))
    invoice("", "", "United Kingdom", (f"{20100 + day.day}", "damaged", -5, "0.0"))
    invoice("", "", "United Kingdom", ("20003", "", 30, "0.0"), ("DOT", "", 1000, "0.0"))
    invoice(
        "", "12351.0", "EIRE", *goods(2), ("20004", "LANTERN No 4", 4, "0.0"), ("PADS", "PADS TO MATCH", 1, "0.001")
    )
    invoice("", "12352.0", "Italy", ("m", "Manual", 1, "2.55"), ("20005", "LANTERN No 5", 1, "-1.5"))
    invoice("", "", "Unspecified", ("POST", "POSTAGE", 1, "4.95"))
    return rows, number
