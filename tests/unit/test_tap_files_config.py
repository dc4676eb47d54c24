"""The list of streams says clearly what is wrong with it."""

from __future__ import annotations

import pytest
import yaml

from ingestion.errors import UserError
from ingestion.settings import PROJECT_ROOT
from ingestion.taps.file_config import load_streams

STREAM = {"name": "shop-orders", "path": "orders/*.csv", "format": "csv"}


def load(tmp_path, *streams):
    path = tmp_path / "streams.yml"
    path.write_text(yaml.safe_dump({"streams": list(streams)}))
    return load_streams(path)


def test_a_stream_needs_name_path_and_format(tmp_path):
    (config,) = load(tmp_path, STREAM)
    assert (config.stream.schema, config.keys, config.delimiter, config.encoding) == ("raw_shop", (), ",", "utf-8")


def test_keys_and_checked_columns_are_required(tmp_path):
    (config,) = load(
        tmp_path,
        STREAM
        | {
            "keys": ["id"],
            "columns": {"n": "integer"},
            "required": ["s", "id"],
            "not_empty": ["u"],
            "deleted_at": "d",
        },
    )
    assert config.required_columns == ["id", "n", "s", "u", "d"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": None}, "path is missing"),
        ({"format": "xlsx"}, "format 'xlsx' is not one of csv, jsonl, parquet"),
        ({"colour": "red"}, "unknown setting colour"),
        ({"keys": "id"}, "keys must be a list"),
        ({"not_empty": "id"}, "not_empty must be a list"),
        ({"columns": {"n": "number"}}, "columns must map column names to one of integer"),
        ({"path": "/etc/*"}, "below the data folder"),
        ({"path": "../*"}, "below the data folder"),
        ({"delimiter": ";;"}, "must be one ASCII character"),
        ({"delimiter": '"'}, "must be one ASCII character"),
        ({"encoding": "utf-99"}, "unknown encoding 'utf-99'"),
        ({"name": "a/b"}, "not a usable name"),
    ],
)
def test_a_wrong_setting_is_named_with_its_stream(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, STREAM | change)


def test_a_stream_is_listed_once(tmp_path):
    with pytest.raises(UserError, match="files-orders is listed twice"):
        load(tmp_path, STREAM | {"name": "orders"}, STREAM | {"name": "files-orders"})


@pytest.mark.parametrize("text", ["", "streams: []", "- a", "streams: [x]", "a: [", "\0"])
def test_what_is_no_list_of_streams_is_refused(tmp_path, text):
    path = tmp_path / "streams.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"streams\.yml"):
        load_streams(path)


@pytest.mark.parametrize("shop", ["demo_shop", "online_retail"])
def test_the_shops_lists_load(shop):
    assert load_streams(PROJECT_ROOT / "ingestion" / "shops" / f"{shop}.yml")
