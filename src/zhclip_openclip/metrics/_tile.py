"""A tile of the score matrix: some texts (rows) against some images (columns), used in both directions."""

from __future__ import annotations

import torch

from zhclip_openclip.metrics._exact import tile_scores
from zhclip_openclip.metrics._mask import MAX_COLUMNS, Mask

TILE_ROWS = 840
TILE_COLUMNS = MAX_COLUMNS  # 840 x 2040 float32 are 7 MB a thread: stays in the last-level cache
#: Of a GPU: a tile of so many rows, and as many columns as the rest of this and of its memory allows.
_GPU_ROWS, _GPU_SCORES = 8192, 2**28
#: Bytes a score can take at the same time where nothing is certain: float32, float64 and its products' sorted copies.
_GPU_BYTES = 64


def block_size(device: torch.device | str) -> tuple[int, int]:
    """(texts, images) a tile, for the memory that is free on a device."""
    device = torch.device(device)
    if device.type != "cuda":
        return TILE_ROWS, TILE_COLUMNS
    free, _ = torch.cuda.mem_get_info(device)
    scores = max(TILE_ROWS * TILE_COLUMNS, min(_GPU_SCORES, free // _GPU_BYTES))
    rows = min(_GPU_ROWS, scores // TILE_COLUMNS)
    return rows, scores // rows


def scoring_device(device: torch.device | str) -> str:
    """Where the scores are made of features from a model on `device`: there if it is a GPU that knows float64, else on
    the CPU."""
    return str(device) if torch.device(device).type == "cuda" else "cpu"


class TileBuffers:
    """Memory for the scores and the mask, reused from tile to tile (fresh pages cost more than the arithmetic), on the
    device where the products are made."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._scores = torch.empty(0, device=self.device)
        self._masks: dict[tuple[int, int], Mask] = {}

    def scores(self, rows: int, columns: int) -> torch.Tensor:
        if self._scores.numel() < rows * columns:
            self._scores = torch.empty(rows * columns, device=self.device)
        return self._scores[: rows * columns].view(rows, columns)

    def mask(self, rows: int, columns: int) -> Mask:
        if (rows, columns) not in self._masks:
            if len(self._masks) >= 4:  # full tiles, and the last row and column of tiles
                self._masks.clear()
            self._masks[rows, columns] = Mask(rows, columns, self.device)
        return self._masks[rows, columns]


class Tile:
    """Scores of (r, d) texts x (c, d) images in float32, good to the error bound; `exact` has them by the definition.
    Both lie on the device of `buffers`; what is said of single elements, and asked about them, is on the CPU.

    `axis` says which side asks: 0 when the texts are the queries and the images the items, 1 the other way round.
    """

    def __init__(self, texts: torch.Tensor, images: torch.Tensor, buffers: TileBuffers) -> None:
        self.device = buffers.device
        texts, images = texts.to(self.device), images.to(self.device)
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
        torch.gt(scores, threshold.to(self.device).unsqueeze(1 - axis), out=self.mask.flags)
        return self.mask

    def mark_ties(self, best: torch.Tensor, best_item: torch.Tensor, item0: int, axis: int) -> Mask:
        """Mask of the exact scores that equal their query's best one, of items that stand before the best one.

        best, best_item: of each query. item0: the first item of this tile.
        """
        best, best_item = best.to(self.device), best_item.to(self.device)
        items = torch.arange(item0, item0 + self.scores.shape[1 - axis], device=self.device).unsqueeze(axis)
        tied = self.exact == best.unsqueeze(1 - axis)
        self.mask.flags.copy_(tied & (items < best_item.unsqueeze(1 - axis)))
        return self.mask

    def pairs(self, words: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(query, item) of the mask's true elements, as positions in this tile."""
        row, column = self.mask.find(words)
        return (row, column) if axis == 0 else (column, row)

    def at(self, scores: torch.Tensor, query: torch.Tensor, item: torch.Tensor, axis: int) -> torch.Tensor:
        query, item = query.to(self.device), item.to(self.device)
        return (scores[query, item] if axis == 0 else scores[item, query]).cpu()


def down(values: torch.Tensor) -> torch.Tensor:
    """float64 -> float32, never larger than the value."""
    return torch.nextafter(values.float(), torch.tensor(-torch.inf))


def up(values: torch.Tensor) -> torch.Tensor:
    """float64 -> float32, never smaller than the value."""
    return torch.nextafter(values.float(), torch.tensor(torch.inf))
