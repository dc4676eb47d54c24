"""Chance that is a pure function of (seed, what is asked, whose): no state, the same on every machine.

Every fact of the demo shop is a roll of these dice for an id, so any day can be made again from nothing. Integers
only: no libm, whose last bits differ between machines, and no numpy generator, whose streams differ between versions.
"""

from __future__ import annotations

import hashlib

import numpy as np

_SHIFT = np.uint64(32)


class Dice:
    """Rolls for arrays of ids; the mixing function is splitmix64 (Steele, Lea, Flood 2014)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._keys: dict[str, np.uint64] = {}

    def _key(self, about: str) -> np.uint64:
        if about not in self._keys:
            digest = hashlib.sha256(f"{self._seed}/{about}".encode()).digest()
            self._keys[about] = np.uint64(int.from_bytes(digest[:8], "little"))
        return self._keys[about]

    def bits(self, about: str, ids: np.ndarray) -> np.ndarray:
        """32 random bits per id, as uint64."""
        mixed = np.atleast_1d(ids).astype(np.uint64)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed += self._key(about)
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return mixed >> _SHIFT

    def roll(self, about: str, ids: np.ndarray, sides: int | np.ndarray) -> np.ndarray:
        """A number from 0 to sides - 1 per id (int64); `sides` below 2**31, one for all or one per id."""
        return ((self.bits(about, ids) * np.asarray(sides).astype(np.uint64)) >> _SHIFT).astype(np.int64)

    def hit(self, about: str, ids: np.ndarray, one_in: int) -> np.ndarray:
        """True for about one in `one_in` of the ids."""
        return self.roll(about, ids, one_in) == 0


def spread(percents: dict[int, int]) -> np.ndarray:
    """A lookup table of 100 values in which each value occurs as often as its percentage says."""
    table = np.repeat(np.array(list(percents), dtype=np.int64), list(percents.values()))
    if len(table) != 100:
        raise ValueError(f"percentages sum to {len(table)}, not 100")
    return table
