"""A lost warehouse comes back from the lake: raw, the ledger, and with a plain `dbt build` the marts."""

from __future__ import annotations

import json

from tests.pipeline import Pipeline, differences


def test_marts_and_state_of_a_rebuilt_warehouse_are_the_lost_ones(built: Pipeline, tmp_path):
    pipeline = built.copy(tmp_path / "home")
    marts = pipeline.marts()
    pipeline.run("warehouse-lake", "compact")
    pipeline.run("warehouse-lake", "retain", "--days", "0")
    (pipeline.home / "warehouse.duckdb").unlink()
    pipeline.run("warehouse-lake", "rebuild")
    pipeline.run("warehouse-lake", "check")
    state = json.loads(pipeline.run("warehouse-lake", "state", "tap-files").stdout)
    assert state["singer_state"] == json.loads((pipeline.home / "singer_state.json").read_text())
    # What was published before is not published again from a warehouse whose models are not built.
    assert pipeline.run("warehouse-publish", check=False).returncode != 0
    pipeline.dbt("build")
    assert differences(pipeline.marts(), marts) == []
    pipeline.run("warehouse-publish")
