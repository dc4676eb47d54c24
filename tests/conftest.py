"""Options of the test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full` runs the slow suites in their full size; CI runs the quick size of the same tests."""
    parser.addoption("--full", action="store_true", help="run slow suites in their full size")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the slow suites run in their full size."""
    return request.config.getoption("--full")
