"""A tile of the score matrix: some texts (rows) against some images (columns), used in both directions."""

from __future__ import annotations

import torch

from zhclip_openclip.metrics._exact import tile_scores
from zhclip_openclip.metrics._mask import MAX_COLUMNS, Mask

TILE_ROWS = 840
TILE_COLUMNS = MAX_COLUMNS  # 840 x 2040 float32 are 7 MB a thread: stays in the last-level cache


class TileBuffers:
    """Memory for the scores and the mask, reused from tile to tile (fresh pages cost more than the arithmetic)."""

    def __init__(self) -> None:
        self._scores = torch.empty(0)
        self._masks: dict[tuple[int, int], Mask] = {}

    def scores(self, rows: int, columns: int) -> torch.Tensor:
        if self._scores.numel() < rows * columns:
            self._scores = torch.empty(rows * columns)
        return self._scores[: rows * columns].view(rows, columns)

    def mask(self, rows: int, columns: int) -> Mask:
        if (rows, columns) not in self._masks:
            if len(self._masks) >= 4:  # full tiles, and the last row and column of tiles
                self._masks.clear()
            self._masks[rows, columns] = Mask(rows, columns)
        return self._masks[rows, columns]


class Tile:
    """Scores of (r, d) texts x (c, d) images in float32, good to the error bound; `exact` has them by the definition.

    `axis` says which side asks: 0 when the texts are the queries and the images the items, 1 the other way round.
    """

    def __init__(self, texts: torch.Tensor, images: torch.Tensor, buffers: TileBuffers) -> None:
        self.texts, self.images = texts, images
        self.scores = torch.mm(texts, images.t(), out=buffers.scores(len(texts), len(images)))
        self.mask = buffers.mask(len(texts), len(images))
        self._exact: torch.Tensor | None = None

    @property
    def exact(self) -> torch.Tensor:
        if self._exact is None:
            self._exact = tile_scores(self.texts, self.images)
        return self._exact

    def mark_above(self, scores: torch.Tensor, threshold: torch.Tensor, axis: int) -> Mask:
        """Mask of scores > threshold, one threshold a query."""
        torch.gt(scores, threshold.unsqueeze(1 - axis), out=self.mask.flags)
        return self.mask

    def pairs(self, words: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(query, item) of the mask's true elements, as positions in this tile."""
        row, column = self.mask.find(words)
        return (row, column) if axis == 0 else (column, row)

    def at(self, scores: torch.Tensor, query: torch.Tensor, item: torch.Tensor, axis: int) -> torch.Tensor:
        return scores[query, item] if axis == 0 else scores[item, query]


def down(values: torch.Tensor) -> torch.Tensor:
    """float64 -> float32, never larger than the value."""
    return torch.nextafter(values.float(), torch.tensor(-torch.inf))


def up(values: torch.Tensor) -> torch.Tensor:
    """float64 -> float32, never smaller than the value."""
    return torch.nextafter(values.float(), torch.tensor(torch.inf))
