#!/usr/bin/env python3
"""A Singer target that does nothing but read to the end."""

import sys

sys.stdin.read()
