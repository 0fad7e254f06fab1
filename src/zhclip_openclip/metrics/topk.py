"""The k best items of each query, from scores that come in tiles.

The full score matrix never exists: each query keeps its k best so far, and only scores that can still get among them
are looked at. The order is that of `rank.py`: falling score, equal scores in the order of the items.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from zhclip_openclip.metrics._errors import MetricError
from zhclip_openclip.metrics._exact import error_bound, full_float32
from zhclip_openclip.metrics._features import Features, FeatureSource, score_pairs
from zhclip_openclip.metrics._tile import Tile, TileBuffers, block_size, down

PairScores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class StreamingTopK:
    """Keeps the k best items of each query. For one query the tiles must come in the order of the items.

    float32 scores are off by up to `margin`, so besides the k best everything within two margins of the k-th is kept
    until `finish` settles the order; where that would be too much, it is settled on the way.

    Args:
        count: number of queries.
        k: how many to keep.
        score: scores of (n,) queries and (n,) items by `_features.score_pairs`.
    """

    def __init__(self, count: int, k: int, score: PairScores) -> None:
        self.k = k
        self._width = 2 * k + 6
        self._score = score
        self._value = torch.full((count, self._width), -torch.inf)
        self._item = torch.full((count, self._width), -1, dtype=torch.int64)
        self._sure = torch.ones(count, self._width, dtype=torch.bool)  # value is by the definition
        self._margin = torch.zeros(count, dtype=torch.float64)

    def join(self, other: StreamingTopK) -> None:
        """Takes in what another one has kept of the same queries, from items that all come after this one's."""
        self._margin = torch.maximum(self._margin, other._margin)
        query, place = (other._item >= 0).nonzero(as_tuple=True)
        if len(query):
            kept = query, place
            self._merge(query, other._item[kept], other._value[kept], other._sure[kept])

    def update(self, tile: Tile, axis: int, query0: int, item0: int, margin: torch.Tensor) -> None:
        """Takes in one tile whose first query and item are query0 and item0; margin: (queries,) float64 error bound."""
        size = tile.scores.shape[axis]
        here = slice(query0, query0 + size)
        self._margin[here] = torch.maximum(self._margin[here], margin)
        margin = self._margin[here]
        kth = self._value[here, self.k - 1].double()
        stored_margin = torch.where(self._sure[here].all(dim=1), 0.0, margin)

        scores, sure = tile.scores, False
        threshold = kth - stored_margin - margin
        if item0 < self.k:
            threshold = torch.maximum(threshold, _kth_at_least(scores, axis, self.k).double() - 2 * margin)
        mask = tile.mark_above(scores, down(threshold), axis)
        words = mask.nonzero_words()
        if len(words) > mask.words.numel() // 4:
            # So many near-ties (a collapsed model, or coarse features): take the tile's own k best by the definition.
            scores, sure = tile.exact, True
            keep = min(self.k, scores.shape[1 - axis])
            order = torch.sort(scores, dim=1 - axis, descending=True, stable=True).indices
            item = (order[:, :keep] if axis == 0 else order[:keep].t()).reshape(-1).cpu()
            query = torch.arange(size).repeat_interleave(keep)
        else:
            query, item = tile.pairs(words, axis)
        if len(query):
            value = tile.at(scores, query, item, axis)
            self._merge(query0 + query, item0 + item, value, torch.full(query.shape, sure))

    def _merge(self, query: torch.Tensor, item: torch.Tensor, value: torch.Tensor, sure: torch.Tensor) -> None:
        touched, inverse = torch.unique(query, return_inverse=True)
        settled = False
        old_row, old_place = (self._item[touched] >= 0).nonzero(as_tuple=True)
        old = touched[old_row], old_place
        row = torch.cat([old_row, inverse])
        item = torch.cat([self._item[old], item])
        value = torch.cat([self._value[old], value])
        sure = torch.cat([self._sure[old], sure])

        while True:
            # New items stand behind the stored ones, so up to a new score equal values are already in the items' order.
            order, place, kth = _order(row, item if settled else None, value, len(touched), self.k)
            row, item, value, sure = row[order], item[order], value[order], sure[order]
            unsure = torch.zeros(len(touched), dtype=torch.bool)
            unsure[row[~sure]] = True
            slack = torch.where(unsure, 2 * self._margin[touched], 0.0)
            keep = (place < self.k) | ((value.double() >= kth[row].double() - slack[row]) & unsure[row])
            row, item, value, sure, place = row[keep], item[keep], value[keep], sure[keep], place[keep]
            crowded = torch.zeros(len(touched), dtype=torch.bool)
            crowded[row[place >= self._width]] = True
            if not crowded.any():
                break
            redo = (crowded[row] & ~sure).nonzero().squeeze(1)
            value[redo] = self._score(touched[row[redo]], item[redo])
            sure[redo] = settled = True

        self._value[touched], self._item[touched], self._sure[touched] = -torch.inf, -1, True
        target = touched[row], place
        self._value[target], self._item[target], self._sure[target] = value, item, sure

    def finish(self) -> torch.Tensor:
        """(queries, k) int64: the items in order; -1 where there were fewer than k."""
        gap = (self._value[:, :-1].double() - self._value[:, 1:].double()) <= 2 * self._margin.unsqueeze(1)
        gap &= self._item[:, 1:] >= 0
        near = torch.zeros_like(self._sure)
        near[:, :-1] |= gap
        near[:, 1:] |= gap
        # Only what has a neighbour within two margins can change places with it.
        query, place = (near & ~self._sure).nonzero(as_tuple=True)
        if len(query):
            self._value[query, place] = self._score(query, self._item[query, place])
            self._sure[query, place] = True
        row, place = (self._item >= 0).nonzero(as_tuple=True)
        item = self._item[row, place]
        order, place, _ = _order(row, item, self._value[row, place], len(self._item), self.k)
        top = torch.full((len(self._item), self.k), -1, dtype=torch.int64)
        keep = place < self.k
        top[row[order][keep], place[keep]] = item[order][keep]
        return top


def blocked_topk(
    queries: FeatureSource,
    items: FeatureSource,
    k: int,
    block: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Positions of the k best items for each query.

    Args:
        queries: (q, d) features, or blocks of them (see `_features.Features`).
        items: (n, d) features, or blocks of them.
        k: how many.
        block: queries and items a tile, by default what suits the device; changes memory and speed, never the result.
        device: where the products are made; changes speed, never the result.

    Returns:
        (q, k) int64, best first; -1 where there are fewer than k items.
    """
    left, right = Features(queries, "queries"), Features(items, "items")
    if left.dim != right.dim:
        raise MetricError(f"queries have {left.dim} dimensions and items {right.dim}; take both from the same model")
    top = StreamingTopK(len(left), k, lambda q, i: score_pairs(left, right, q, i))
    rows, columns = block or block_size(device)
    buffers, bound = TileBuffers(device), error_bound(left.dim)
    norms = left.norms(0, len(left))
    with full_float32():
        for item0 in range(0, len(right), columns):
            held = right.block(item0, item0 + columns).to(device)
            largest = right.norms(item0, item0 + columns).max()
            for query0 in range(0, len(left), rows):
                tile = Tile(left.block(query0, query0 + rows), held, buffers)
                top.update(tile, 0, query0, item0, bound * largest * norms[query0 : query0 + rows])
        return top.finish()


def _order(
    row: torch.Tensor, item: torch.Tensor | None, value: torch.Tensor, rows: int, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sorts by row, then falling value, then item (without items: then as it comes).

    Returns:
        The order; each sorted element's place in its row; each row's k-th value, -inf where there are fewer.
    """
    # One integer key sorts in half the time of a sort by value and one by row: the bits of a float, with those of
    # negative ones flipped, sort as the float does. Adding zero makes -0.0 equal to 0.0.
    bits = (value + 0.0).view(torch.int32).long()
    key = row * 2**32 - torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    if item is None:
        order = torch.argsort(key, stable=True)
    else:
        order = torch.argsort(item, stable=True)
        order = order[torch.argsort(key[order], stable=True)]
    counts = torch.bincount(row, minlength=rows)
    starts = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(row)) - starts[row[order]]
    kth = torch.full((rows,), -torch.inf)
    last = place == k - 1
    kth[row[order][last]] = value[order][last]
    return order, place, kth


def _kth_at_least(scores: torch.Tensor, axis: int, k: int) -> torch.Tensor:
    """A value that at least k of each query's scores reach: the k-th best maximum of disjoint groups of items.

    Much cheaper than sorting, and with eight groups for each of the k close to the k-th score itself.
    """
    count = scores.shape[1 - axis]
    if count < k:
        return torch.full((scores.shape[axis],), -torch.inf)
    size = max(1, count // (8 * k))
    groups = count // size
    if axis == 0:
        best = scores[:, : groups * size].unflatten(1, (groups, size)).amax(dim=2)
    else:
        best = scores[: groups * size].unflatten(0, (groups, size)).amax(dim=1).t()
    return best.topk(k, dim=1).values[:, -1].cpu()
