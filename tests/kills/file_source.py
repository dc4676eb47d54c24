"""A folder of files that come and change all the time, and what raw must hold of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import yaml

from tests.integration.conftest import TargetHome


class FileSource:
    """CSV files of two streams; one step writes or replaces one of them."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.data = folder / "data"
        self.streams_file = folder / "streams.yml"
        self.chance = chance
        self._next = 0
        streams = [
            {"name": "shop-orders", "path": "orders/*.csv", "format": "csv", "keys": ["id"]},
            {"name": "shop-visits", "path": "visits/*.csv", "format": "csv", "keys": []},
        ]
        for name in ("orders", "visits"):
            (self.data / name).mkdir(parents=True)
        self.streams_file.write_text(yaml.safe_dump({"streams": streams}))

    def fill(self, files: int) -> None:
        """Write the first files."""
        for _ in range(files):
            self._new()

    def step(self) -> None:
        """A new file, or another version of one."""
        files = sorted(self.data.glob("*/*.csv"))
        if self.chance.random() < 0.4 and len(files) < 60:
            self._new()
        else:
            file = self.chance.choice(files)
            lines = file.read_text().splitlines()[1:]
            kept = [line for line in lines if self.chance.random() < 0.8]
            self._put(file, kept + self._lines(file.parent.name))
        time.sleep(self.chance.uniform(0.01, 0.2))

    def _new(self) -> None:
        self._next += 1
        name = self.chance.choice(["orders", "visits"])
        self._put(self.data / name / f"{self._next}.csv", self._lines(name))

    def _lines(self, name: str) -> list[str]:
        lines = []
        for _ in range(self.chance.randrange(1, 300)):
            self._next += 1
            # Visits have no key: equal lines are data.
            number = self._next if name == "orders" else self._next % 7
            lines.append(f"{number},{self.chance.randrange(1000)}")
        return lines

    def _put(self, file: Path, lines: list[str]) -> None:
        beside = file.with_suffix(".next")
        beside.write_text("\n".join(["id,value", *lines]) + "\n")
        beside.replace(file)

    def check(self, warehouse: TargetHome) -> int:
        """Every file's rows are in raw as they are now, and no row came or went twice; returns how many there are."""
        total = 0
        with warehouse.connect() as ask:
            for name in ("orders", "visits"):
                rows = ask(
                    "select _sdc_source_file, _sdc_row_hash, _sdc_occurrence, _sdc_operation, concat(id, ',', value)"
                    f" from raw_shop.{name} order by _sdc_load_id"
                )
                current: dict[tuple[str, str, int], str | None] = {}
                for file, row_hash, occurrence, operation, text in rows:
                    row = (file, row_hash, occurrence)
                    is_there = current.get(row) is not None
                    assert is_there == (operation == "withdraw"), f"{row} {operation} twice"
                    current[row] = text if operation == "upsert" else None
                held: dict[str, Counter[str]] = {}
                for (file, _, _), text in current.items():
                    if text is not None:
                        held.setdefault(file, Counter())[text] += 1
                on_disk = {
                    f"{name}/{file.name}": Counter(file.read_text().splitlines()[1:])
                    for file in (self.data / name).glob("*.csv")
                }
                assert held == {file: lines for file, lines in on_disk.items() if lines}
                total += sum(lines.total() for lines in on_disk.values())
        return total
