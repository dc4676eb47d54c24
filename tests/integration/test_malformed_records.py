"""Ten thousand malformed records over every stream of the demo shop, and one of RECORD messages: all of them wait in
quarantine with their reason, and after the schema is corrected a replay brings in those that it admits, no others.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ingestion import settings
from tests.integration.tap_files_runs import Shop
from tests.integration.test_target_loading import record, schema

PER_FILE_STREAM = 1200
OF_RECORDS = 1600
SEED = 20260701

TIME = "2026-07-01T10:00:00Z"
BAD_VALUES = {
    "integer": [("seven", "is not an integer"), ("1.5", "is not an integer"), ("99999999999", "does not fit a 32-bit")],
    "decimal": [("12,50", "is not a decimal"), ("1.00001", "is not exact as decimal(18,4)")],
    "timestamp": [("yesterday", "is not a timestamp"), ("2150-01-01T00:00:00Z", "is not between 1970-01-01 and")],
}


@dataclass
class Expected:
    """What a stream's quarantine must hold: (reason starts so, payload names this marker) -> admitted later or not."""

    reasons: Counter = field(default_factory=Counter)
    admitted: int = 0


def good(config: dict, number: int) -> dict[str, str]:
    """A record that passes; its first key column holds `number`."""
    values = {"integer": "1", "decimal": "1.50", "timestamp": TIME}
    names = dict.fromkeys(
        [*config.get("keys", []), *config["columns"], *config.get("required", []), *config.get("not_empty", [])]
    )
    row = {name: values.get(config["columns"].get(name, ""), "text") for name in names}
    if deleted_at := config.get("deleted_at"):
        row[deleted_at] = ""
    row[config["keys"][0]] = str(number)
    return row


def malformed(config: dict, number: int, chance: random.Random, expected: Expected) -> dict[str, str]:
    """A record with one fault: a value that breaks its column's type, or an absent value where one must be."""
    row = good(config, number)
    obligatory = [*config["keys"], *config.get("not_empty", [])]
    if chance.random() < 0.3:
        name = chance.choice(obligatory)
        row[name] = chance.choice(["", "  "])
        expected.reasons[f"key {name} is missing" if name in config["keys"] else f"{name} is empty"] += 1
        return row
    name = chance.choice(list(config["columns"]))
    value, reason = chance.choice(BAD_VALUES[config["columns"][name]])
    row[name] = value
    expected.reasons[f"{name} {reason}"] += 1
    expected.admitted += 1
    return row


def torn(config: dict, number: int, chance: random.Random, expected: Expected) -> bytes:
    """A line that is no record at all."""
    row = list(good(config, number).values())
    if config["format"] == "jsonl":
        line, reason = chance.choice(
            [(b'{"torn": ', "not JSON"), (b"[1, 2]", "not a JSON object"), (b"17", "not a JSON object")]
        )
    else:
        line, reason = chance.choice(
            [
                (",".join(row[:-1]).encode(), "fields"),
                (",".join([*row, "more"]).encode(), "fields"),
                (",".join(row).encode().replace(b"1", b"\xff\xfe", 1), "not in the stream's encoding"),
                (",".join(row).encode().replace(b"1", b"\x00", 1), "NUL"),
            ]
        )
    expected.reasons[reason] += 1
    return line


def write_file(shop: Shop, config: dict, expected: Expected, chance: random.Random) -> int:
    """One file of the stream with a good record after every fifth malformed one; returns how many are good."""
    path = (
        config["path"]
        .replace("*.csv*", "malformed.csv")
        .replace("*.jsonl*", "malformed.jsonl")
        .replace("*", "malformed")
    )
    lines: list[bytes] = []
    rows: list[dict[str, str]] = []
    count = 0
    for number in range(1, PER_FILE_STREAM + 1):
        if config["format"] != "parquet" and chance.random() < 0.2:
            lines.append(torn(config, number, chance, expected))
        else:
            row = malformed(config, number, chance, expected)
            rows.append(row)
            lines.append(line(config, row))
        if number % 5 == 0:
            count += 1
            row = good(config, 1_000_000 + number)
            rows.append(row)
            lines.append(line(config, row))
    if config["format"] == "parquet":
        (shop.data / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), shop.data / path)
        return count
    header = [",".join(good(config, 0)).encode()] if config["format"] == "csv" else []
    shop.put(path, b"\n".join([*header, *lines]) + b"\n")
    return count


def line(config: dict, row: dict[str, str]) -> bytes:
    if config["format"] == "jsonl":
        return json.dumps(row).encode()
    return ",".join(f'"{value}"' if "," in value else value for value in row.values()).encode()


def bad_records(chance: random.Random, expected: Expected) -> list[dict]:
    """RECORD messages that break their stream's schema."""
    messages = []
    for number in range(OF_RECORDS):
        row = {"id": number, "note": "ok", "amount": 1.5}
        fault = chance.choice(["long note", "amount as text", "no key", "unknown word"])
        if fault == "long note":
            row["note"] = "much too long"
            expected.reasons["breaks the schema's maxLength"] += 1
            expected.admitted += 1
        elif fault == "amount as text":
            row["amount"] = "1.5 EUR"
            expected.reasons["breaks the schema's type"] += 1
        elif fault == "no key":
            del row["id"]
            expected.reasons["key is missing or null"] += 1
        else:
            row["word"] = "unheard of"
            expected.reasons["breaks the schema's enum"] += 1
            expected.admitted += 1
        messages.append(record("web-reviews", **row))
    return messages


def reviews(**constraints):
    word, note = {"type": ["string", "null"]}, {"type": "string"}
    properties = {
        "id": {"type": "integer"},
        "note": note | ({"maxLength": 5} if constraints.get("strict") else {}),
        "amount": {"type": ["number", "null"]},
        "word": word | ({"enum": ["good", "bad", None]} if constraints.get("strict") else {}),
    }
    return schema(properties, stream="web-reviews")


def waiting(warehouse) -> dict[str, list[tuple[str, str]]]:
    """Reason and payload of what waits, by stream."""
    found: dict[str, list[tuple[str, str]]] = {}
    query = "select source || '-' || stream, reason, payload from ops.quarantine where replayed_load_id is null"
    for stream, reason, payload in warehouse.query(query):
        found.setdefault(stream, []).append((reason, payload))
    return found


def matches(reasons: list[str], expected: Counter) -> bool:
    """Whether each reason contains one of those expected, as often as expected."""
    kinds = {reason: [each for each in expected if each in reason] for reason in set(reasons)}
    assert all(len(each) == 1 for each in kinds.values()), {
        reason: each for reason, each in kinds.items() if len(each) != 1
    }
    return Counter(kinds[reason][0] for reason in reasons) == expected


def test_ten_thousand_malformed_records_wait_and_the_corrected_schema_admits_what_it_can(
    warehouse, run_replay, monkeypatch, tmp_path
):
    chance = random.Random(SEED)
    configs = yaml.safe_load(settings.load().streams_file.read_text())["streams"]
    shop = Shop(tmp_path / "shop", streams=configs)
    shop.lake = warehouse.lake
    monkeypatch.setattr("ingestion.settings.Settings.streams_file", shop.streams_file)
    expected = {config["name"]: Expected() for config in configs}
    passed = {config["name"]: write_file(shop, config, expected[config["name"]], chance) for config in configs}
    expected["web-reviews"] = Expected()
    records = bad_records(chance, expected["web-reviews"])
    passed["web-reviews"] = 0
    assert sum(item.reasons.total() for item in expected.values()) == 10_000

    run = shop.run()
    assert run.faults == []
    warehouse.load([*run.messages, reviews(strict=True), *records], max_quarantine_share=1)

    found = waiting(warehouse)
    assert set(found) == set(expected)
    for stream, item in expected.items():
        assert matches([reason for reason, _ in found[stream]], item.reasons), stream
        assert all(payload for _, payload in found[stream])
    table = "raw_{}.{}".format
    for stream, count in passed.items():
        assert warehouse.query(f"select count(*) from {table(*stream.split('-', 1))}") == [(count,)], stream
    warehouse.check_identities()

    # The correction: no types, no word list, notes of any length. Keys and what orders versions are still needed.
    shop.streams_file.write_text(yaml.safe_dump({"streams": [config | {"columns": {}} for config in configs]}))
    warehouse.load([reviews()])
    run_replay()

    after = waiting(warehouse)
    for stream, item in expected.items():
        (count,) = warehouse.query(f"select count(*) from {table(*stream.split('-', 1))}")[0]
        assert count == passed[stream] + item.admitted, stream
        assert len(after[stream]) == item.reasons.total() - item.admitted, stream
        # What still waits has the reason it had.
        assert not Counter(after[stream]) - Counter(found[stream]), stream
    warehouse.check_identities()
    before = warehouse.query("select count(*) from ops.loads")
    run_replay()
    assert warehouse.query("select count(*) from ops.loads") == before
