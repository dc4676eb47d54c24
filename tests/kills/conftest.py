"""The warehouses of the killed runs are those of the target's tests, on either engine."""

from tests.integration.conftest import engine, warehouse, warehouse_services

__all__ = ["engine", "warehouse", "warehouse_services"]
