"""What the fork server of `tests.kills.runner` imports once for all runs."""

import importlib
import sys

# DuckDB takes a program without a file for a shell when it is imported, and shows its progress on standard output.
sys.modules["__main__"].__file__ = __file__

for module in ("files", "postgres"):
    importlib.import_module(f"ingestion.taps.{module}")
importlib.import_module("ingestion.target.target")
