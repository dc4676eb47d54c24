"""Taps: one module per kind of source system, speaking Singer."""
