"""The SDK's own tests of taps for tap-postgres; test_tap_postgres_sdk.py runs them.

The SDK wants the streams while pytest collects, when the tests' server is not there yet.
"""

from __future__ import annotations

import os

from singer_sdk.testing import get_tap_test_class

from ingestion.taps.postgres import TapPostgres

_URL = os.environ["SUITE_URL"]
_LAKE = os.environ["SUITE_LAKE"]

TestRecords = get_tap_test_class(
    TapPostgres, config={"sqlalchemy_url": _URL, "source": "shop", "wire": "records"}, parse_env_config=False
)
TestRecordsByKey = get_tap_test_class(
    TapPostgres,
    config={
        "sqlalchemy_url": _URL,
        "source": "shop",
        "wire": "records",
        "dates_as_string": True,
        "json_as_object": True,
        "filter_schemas": ["public"],
    },
    parse_env_config=False,
)
# Rows are in files here, so there are no records for the SDK's tests of streams to look at.
TestLake = get_tap_test_class(
    TapPostgres,
    config={"sqlalchemy_url": _URL, "source": "shop", "lake_path": _LAKE},
    include_stream_tests=False,
    include_stream_attribute_tests=False,
    parse_env_config=False,
)
