"""Files and rows of features by their content: which row is of which file, for hundred thousands of them at once."""

from __future__ import annotations

import numpy as np


class Contents:
    """Digests in their order. digests: (n, 32) uint8, SHA-256."""

    def __init__(self, digests: np.ndarray):
        self._digests = np.ascontiguousarray(digests, np.uint8)
        heads = _heads(self._digests)
        self._order = np.argsort(heads, kind="stable")
        self._heads = heads[self._order]

    def places(self, digests: np.ndarray) -> np.ndarray:
        """(m,) where each of these is first, -1 for those that are not here. digests: (m, 32) uint8."""
        places = np.full(len(digests), -1, np.int64)
        if not len(self._digests) or not len(digests):
            return places
        heads = _heads(digests)
        at = np.searchsorted(self._heads, heads).clip(max=len(self._heads) - 1)
        alike = self._heads[at] == heads
        found = self._order[at]
        same = alike & (self._digests[found] == digests).all(axis=1)
        places[same] = found[same]
        for number in np.flatnonzero(alike & ~same):  # eight bytes in common: somebody has made them so
            here = np.flatnonzero((self._digests == digests[number]).all(axis=1))
            places[number] = here[0] if len(here) else -1
        return places


def _heads(digests: np.ndarray) -> np.ndarray:
    """The first eight bytes of each, by which they are sorted."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
