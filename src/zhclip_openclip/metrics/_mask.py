"""Finding and counting the few true elements of large masks, eight bytes at a time."""

from __future__ import annotations

import torch

MAX_COLUMNS = 2040  # 255 words of eight flags: a byte lane counts to 255 without overflowing


class Mask:
    """A reusable (rows, columns) mask whose rows are padded to whole 8-byte words, on any device; what it tells is on
    the CPU.

    torch sums bools by widening each to int64; read as int64 words the same bytes are added eight at a time, each in
    its own lane, and words of zeros are skipped when looking for the true ones. A GPU sums them as they are, and so is
    done with masks of more columns than a lane can count.
    """

    def __init__(self, rows: int, columns: int, device: torch.device | str = "cpu") -> None:
        self.rows, self.columns, self.device = rows, columns, torch.device(device)
        self._store = torch.zeros(rows, -(-columns // 8) * 8, dtype=torch.bool, device=self.device)
        self._words = self._store.view(torch.int64)
        self._in_lanes = self.device.type == "cpu" and columns <= MAX_COLUMNS

    @property
    def flags(self) -> torch.Tensor:
        """(rows, columns) bool, to be written into; the padding stays false."""
        return self._store[:, : self.columns]

    @property
    def words(self) -> torch.Tensor:
        return self._words

    def count(self, dim: int) -> torch.Tensor:
        """Number of true elements along dim (0 or 1), int64."""
        if not self._in_lanes:
            return self.flags.sum(dim=dim).cpu()
        if dim == 1:
            return self._words.sum(dim=1).unsqueeze(1).view(torch.uint8).sum(dim=1)
        total = torch.zeros(self._store.shape[1], dtype=torch.int64)
        for start in range(0, self.rows, 255):
            total += self._words[start : start + 255].sum(dim=0).view(torch.uint8)
        return total[: self.columns]

    def find(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(row, column) of each true element, in row-major order, given the nonzero words' flat positions."""
        flat = (words.unsqueeze(1) * 8 + torch.arange(8, device=self.device)).flatten()
        flat = flat[self._store.view(-1)[flat]].cpu()
        width = self._store.shape[1]
        return torch.div(flat, width, rounding_mode="floor"), flat % width

    def nonzero_words(self) -> torch.Tensor:
        """Flat positions of the words with a true element, (m,) int64, on the device of the mask."""
        return self._words.view(-1).nonzero().squeeze(1)
