"""The SDK's own tests of taps, all of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).with_name("tap_postgres_sdk_suite.py")


def test_sdk_suite_passes_in_full(postgres, tmp_path):
    postgres.execute(
        "create table customers (id int primary key, name text not null, born date, updated_at timestamptz not null)",
        "insert into customers values (1, 'Ada', '1815-12-10', now()), (2, 'Grace', '1906-12-09', now())",
        "create table orders (id bigint primary key, customer_id int not null, amount numeric(12,2), is_gift boolean,"
        " tags text[], attributes jsonb, paid_at timestamp, weight double precision)",
        """insert into orders values (1, 1, 12.50, true, '{a,b}', '{"color": "red"}', '2026-01-01 12:00', 0.5)""",
        "create view big_orders as select * from orders where amount > 10",
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", str(SUITE)],
        env=os.environ | {"SUITE_URL": postgres.dsn, "SUITE_LAKE": str(tmp_path / "lake")},
        cwd=SUITE.parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) > 80
    assert "skipped" not in run.stdout
