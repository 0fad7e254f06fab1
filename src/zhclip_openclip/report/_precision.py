"""Mean average precision of many samples of the same images at once, for the bootstrap and the permutation test.

The definitions are those of `metrics/classification.py`. There a sample is sorted anew; here the images are sorted once
for each class, and a sample is how often it holds each of them. Its places and hits are sums along that order, so that
hundreds of samples cost a few sums over arrays. What is drawn twice stands twice, one beside the other.

Shapes: images (n,), samples (b,); counts are (n, b), so that a step along the order adds rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_POINTS = np.linspace(1, 0, 11)  # from 1 downwards, as in `map_11_points`


class Precision:
    """One run. scores, target: (n, classes). metric: 'mean_average_precision' or 'map_11_points'."""

    def __init__(self, scores: np.ndarray, target: np.ndarray, metric: str) -> None:
        self._classes, self._metric = list(_sorted(scores, target, len(target), metric)), metric

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """(b,) the metric of samples that hold each image (n, b) times, 255 at most."""
        counts = counts.astype(np.uint8)
        drawn = (np.take(counts, one.images, axis=0) for one in self._classes)
        values = [_of_class(one, _along(one, mine)) for one, mine in zip(self._classes, drawn, strict=True)]
        return _mean(values, self._metric)


class Exchanged:
    """Two runs on the same images, whose answers are exchanged for some of them."""

    def __init__(self, first: np.ndarray, second: np.ndarray, target: np.ndarray, metric: str) -> None:
        both = np.concatenate([first, second]), np.concatenate([target, target])
        self._images, self._metric = len(target), metric
        self._classes = list(_sorted(*both, self._images, metric))

    def __call__(self, exchanged: np.ndarray) -> np.ndarray:
        """(b,) first minus second, where the answers to the images that are true in (n, b) are exchanged."""
        swapped = exchanged.astype(np.uint8)
        values = [], []
        for one in self._classes:
            mine = np.take(swapped, one.images % self._images, axis=0)
            mine ^= (one.images < self._images)[:, None]
            first = _along(one, mine)
            values[0].append(_of_class(one, first))
            values[1].append(_of_class(one, first.of_the_others(one)))
        return _mean(values[0], self._metric) - _mean(values[1], self._metric)


class _Class:
    """One class of a metric. images: (m,) images, best first, as far as the last place that counts. right: places of
    those that have the class. places: where precision is looked at: of average precision at the right ones; of the 11
    points, where equal scores are taken together, at the last of each run of equal scores with a right one in it.
    """

    def __init__(self, scores: np.ndarray, target: np.ndarray, order: np.ndarray, metric: str) -> None:
        self.right = self.places = np.flatnonzero(target[order])
        self.together = metric == "map_11_points"
        if self.together:
            last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
            self.places = np.unique(last[np.searchsorted(last, self.right)])
        self.images = order[: self.places[-1] + 1 if len(self.places) else 0]
        self.hits_at = np.searchsorted(self.right, self.places, side="right") - 1  # the last right one up to a place


@dataclass(frozen=True)
class _Along:
    """Samples along the order of a class. copies, hits: (right, b) how often each right image is drawn, and how many
    are up to it. found: (places, b) how many images are up to each place."""

    copies: np.ndarray
    hits: np.ndarray
    found: np.ndarray

    def of_the_others(self, one: _Class) -> _Along:
        """Of the images that are not drawn, where each is drawn once or not at all."""
        right = np.arange(1, len(self.hits) + 1, dtype=np.int32)[:, None]
        places = (one.places + 1).astype(np.int32)[:, None]
        return _Along(1 - self.copies, right - self.hits, places - self.found)


def _sorted(scores: np.ndarray, target: np.ndarray, images: int, metric: str) -> Iterator[_Class]:
    """Each class; among equal scores images stand as they are given."""
    number = np.arange(len(target)) % images
    for c in range(target.shape[1]):
        yield _Class(scores[:, c], target[:, c], np.lexsort((number, -scores[:, c])), metric)


def _along(one: _Class, drawn: np.ndarray) -> _Along:
    copies = drawn[one.right]
    return _Along(copies, copies.cumsum(axis=0, dtype=np.int32), _up_to(drawn, one.places))


def _up_to(drawn: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(places, b) how many are drawn up to each place, it included. drawn: (m, b) uint8."""
    if not len(places):
        return np.empty((0, drawn.shape[1]), np.int32)
    # Eight samples are added at once, as the bytes of one number; a byte must not overflow, so that long ways between
    # two places are cut.
    most = max(1, int(drawn.max()))
    cuts = np.union1d(np.r_[0, places[:-1] + 1], np.arange(0, places[-1] + 1, 255 // most))
    lanes = np.zeros((len(drawn), -(-drawn.shape[1] // 8) * 8), np.uint8)
    lanes[:, : drawn.shape[1]] = drawn
    sums = np.add.reduceat(lanes.view(np.uint64), cuts, axis=0).view(np.uint8)[:, : drawn.shape[1]]
    ends = np.r_[cuts[1:] - 1, places[-1]]
    return sums.cumsum(axis=0, dtype=np.int32)[np.searchsorted(ends, places)]


def _of_class(one: _Class, along: _Along) -> np.ndarray:
    """(b,) the metric of one class, nan where no right image is drawn."""
    if not len(one.right):
        return np.full(along.copies.shape[1], np.nan)
    value = _11_points(along.hits[one.hits_at], along.found) if one.together else _average_precision(along)
    return np.where(along.hits[-1] > 0, value, np.nan)


def _average_precision(along: _Along) -> np.ndarray:
    total = np.zeros(along.copies.shape[1])
    for copy in range(int(along.copies.max())):  # the copies of one image, from the last to the first
        precision = (along.hits - copy) / np.maximum(along.found - copy, 1)
        total += (precision * (along.copies > copy)).sum(axis=0)
    return total / np.maximum(along.hits[-1], 1)


def _11_points(hits: np.ndarray, found: np.ndarray) -> np.ndarray:
    best_from = np.maximum.accumulate((hits / np.maximum(found, 1))[::-1], axis=0)[::-1]
    recall = hits / np.maximum(hits[-1], 1)
    total = np.ones(hits.shape[1])  # at recall 0 the precision is 1, that of nothing found
    for point in _POINTS[:-1]:
        first = np.minimum((recall < point).sum(axis=0), len(recall) - 1)
        total += np.take_along_axis(best_from, first[None], axis=0)[0]
    return total / len(_POINTS)


def _mean(values: list[np.ndarray], metric: str) -> np.ndarray:
    """Mean over classes; those without a right image count as 0, or among the 11 points not at all."""
    every = np.stack(values)
    occurs = ~np.isnan(every)
    classes = np.maximum(occurs.sum(axis=0), 1) if metric == "map_11_points" else len(every)
    return np.where(occurs, every, 0.0).sum(axis=0) / classes
