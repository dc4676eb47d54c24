"""Columns of RECORD messages: types as narrow as the values allow."""

from __future__ import annotations

import pytest

from ingestion.target.columns import LARGE_INTEGER, needed_type


@pytest.mark.parametrize(("kind", "bits"), [("TINYINT", 8), ("SMALLINT", 16), ("INTEGER", 32), ("BIGINT", 64)])
def test_an_integer_type_takes_all_of_its_range(kind, bits):
    assert needed_type(kind, -(2 ** (bits - 1))) == kind
    assert needed_type(kind, 2 ** (bits - 1) - 1) == kind


def test_an_integer_beyond_the_widest_type_is_a_large_one():
    assert needed_type("BIGINT", -(2**63) - 1) == LARGE_INTEGER
    assert needed_type("BIGINT", 2**63) == LARGE_INTEGER
