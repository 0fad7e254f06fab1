"""Rank of the first right item.

In words: sort all items by falling score, equal scores in the order in which the items are given; the rank of a query
is the place, counted from 1, of the first item that is right for it. Recall at every k, the median rank and the
reciprocal rank follow from it.

    rank(q) = 1 + |{i : s(q, i) > s(q, b)}| + |{i < b : s(q, i) = s(q, b)}|,   b = the best scored right item of q

The order of ties is that of Chinese-CLIP's `make_topk_predictions.py` (Python's sort with reverse=True is stable).
A query without any right item has rank 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch

from zhclip_openclip.metrics._tile import Tile, down, up

PairScores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class FirstHitRank:
    """Counts, tile by tile, the items that stand before the best right item of each query. Tiles in any order.

    Args:
        right_items: for each query the positions of its right items.
        score: scores of (n,) queries and (n,) items by `_features.score_pairs`.
    """

    def __init__(self, right_items: Sequence[Sequence[int]], score: PairScores) -> None:
        self._score = score
        self._best, self._best_item = _best_right_item(right_items, score)
        self._before = torch.zeros(len(right_items), dtype=torch.int64)

    @property
    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and position of each query's best right item, (queries,) float32 and int64; infinity and -1 without
        any."""
        return self._best, self._best_item

    @property
    def before(self) -> torch.Tensor:
        """(queries,) int64: how many items have been counted."""
        return self._before

    def count_before(self, best: torch.Tensor, best_item: torch.Tensor) -> None:
        """Count what stands before these instead: best right items that are not among the items of this counter. Their
        positions are relative to its first item, and can be negative."""
        self._best, self._best_item = best, best_item

    def fork(self) -> FirstHitRank:
        """Another counter for the same queries, to be given other tiles (in another thread) and then joined."""
        other = copy.copy(self)
        other._before = torch.zeros_like(self._before)
        return other

    def join(self, other: FirstHitRank) -> None:
        """Adds what the other has counted."""
        self._before += other._before

    def update(self, tile: Tile, axis: int, query0: int, item0: int, margin: torch.Tensor) -> None:
        """Takes in one tile whose first query and item are query0 and item0; margin: (queries,) float64 error bound."""
        size = tile.scores.shape[axis]
        best = self._best[query0 : query0 + size]
        best_item = self._best_item[query0 : query0 + size]
        before = self._before[query0 : query0 + size]

        low, high = down(best.double() - margin), up(best.double() + margin)
        mask = tile.mark_above(tile.scores, low, axis)
        words = mask.nonzero_words()
        many = mask.words.numel() // 16
        if len(words) <= many:  # a good model: few items come near the right one
            query, item = tile.pairs(words, axis)
            certain = tile.at(tile.scores, query, item, axis) > high[query]
            before.index_add_(0, query[certain], torch.ones_like(query[certain]))
            self._settle(query[~certain], item[~certain], before, query0, item0)
            return

        possible = mask.words.clone()
        counted = tile.mark_above(tile.scores, high, axis).count(1 - axis)
        mask.words.bitwise_xor_(possible)
        words = mask.nonzero_words()
        if len(words) <= 4 * many:
            before += counted
            query, item = tile.pairs(words, axis)
            self._settle(query, item, before, query0, item0)
            return

        # Hardly anything is certain (a collapsed model, or coarse features): score the whole tile by the definition.
        before += tile.mark_above(tile.exact, best, axis).count(1 - axis)
        before += tile.mark_ties(best, best_item, item0, axis).count(1 - axis)

    def _settle(self, query: torch.Tensor, item: torch.Tensor, before: torch.Tensor, query0: int, item0: int) -> None:
        if not len(query):
            return
        best, best_item = self._best[query0 + query], self._best_item[query0 + query]
        exact = self._score(query0 + query, item0 + item)
        ahead = (exact > best) | ((exact == best) & (item0 + item < best_item))
        before.index_add_(0, query, ahead.long())

    def ranks(self) -> torch.Tensor:
        """(queries,) int64, counted from 1; 0 for a query without any right item."""
        return torch.where(self._best_item >= 0, self._before + 1, 0)


def _best_right_item(right_items: Sequence[Sequence[int]], score: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Score and position of each query's best right item (the earliest of equals); infinity and -1 without any."""
    count = len(right_items)
    lengths = torch.tensor([len(items) for items in right_items], dtype=torch.int64)
    query = torch.repeat_interleave(torch.arange(count), lengths)
    item = torch.tensor([item for items in right_items for item in items], dtype=torch.int64)
    scores = score(query, item) if len(query) else torch.empty(0)
    best = torch.full((count,), -torch.inf).scatter_reduce_(0, query, scores, "amax")
    first = scores == best[query]
    best_item = torch.full((count,), torch.iinfo(torch.int64).max)
    best_item.scatter_reduce_(0, query[first], item[first], "amin")
    none = lengths == 0
    return best.masked_fill(none, torch.inf), best_item.masked_fill(none, -1)
