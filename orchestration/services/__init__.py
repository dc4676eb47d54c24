"""Servers for trying the warehouse with real systems, and for the tests: no Docker, nothing installed system-wide."""
