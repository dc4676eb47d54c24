"""Options of the test suite."""

from __future__ import annotations

import pytest

from tests.pipeline import Pipeline, differences, read_truth

pytest_plugins = ["tests.postgres"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full` runs the slow suites in their full size; CI runs the quick size of the same tests."""
    parser.addoption("--full", action="store_true", help="run slow suites in their full size")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the slow suites run in their full size."""
    return request.config.getoption("--full")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A small demo shop, published and equal to its truth (in `home/truth`). Copy it before you change it."""
    pipeline = Pipeline(tmp_path_factory.mktemp("built") / "home")
    pipeline.run("demo-shop", "init", "--seed", "3", "--lines", "3000", "--days", "90")
    pipeline.ingest()
    pipeline.dbt("build")
    pipeline.run("warehouse-publish")
    pipeline.run("demo-shop", "truth", "--out", str(pipeline.home / "truth"))
    assert differences(pipeline.marts(), read_truth(pipeline.home / "truth")) == []
    return pipeline


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests first, so that a broken checkout is red within seconds; then the longest files, side by side."""
    order = {
        "unit": 0,
        "acceptance": 1,
        "test_run.py": 2,
        "test_erasure.py": 3,
        "test_online_retail.py": 3,
        "faults": 4,
    }
    items.sort(key=lambda item: order.get(item.path.parent.name, order.get(item.path.name, 5)))
