#!/usr/bin/env python3
"""A Singer tap that does nothing: what `meltano run` costs around any tap."""

print('{"type": "STATE", "value": {}}')
