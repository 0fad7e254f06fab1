"""Features as rows of float32, wherever they lie: a tensor, an array, a memory-mapped file, a stream of blocks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

import numpy as np
import torch

from zhclip_openclip.features.finite import FiniteError
from zhclip_openclip.metrics._errors import MetricError
from zhclip_openclip.metrics._exact import pair_scores

FeatureSource = torch.Tensor | np.ndarray | Iterable
_PAIRS = 512  # 512 x 768 doubles are 3 MB: stays in the cache
_IN_MEMORY = 256 * 2**20  # a longer stream goes to a file


class Features:
    """(n, d) features with random access; a block is the only thing that has to fit in memory.

    Args:
        source: a (n, d) tensor or array of any float type (np.memmap included), or an iterable of (m, d) blocks. An
            iterable is read once: up to 256 MiB stay in memory, more goes to a temporary file that has no name any
            more and is gone with the process.
        name: what to call it in errors.
    """

    def __init__(self, source: FeatureSource, name: str) -> None:
        self.name = name
        if isinstance(source, Features):
            source = source._data
        if not isinstance(source, (torch.Tensor, np.ndarray)):
            source = _gather(source, name)
        if source.ndim != 2:
            raise MetricError(f"{name}: features have shape {tuple(source.shape)}; (n, dimensions) is needed")
        if isinstance(source, torch.Tensor):
            source = source.detach()
        self._data = source

    def __len__(self) -> int:
        return int(self._data.shape[0])

    @property
    def dim(self) -> int:
        return int(self._data.shape[1])

    def block(self, start: int, stop: int) -> torch.Tensor:
        """Rows start..stop as (m, d) float32 on the CPU."""
        return _float32(self._data[start:stop])

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows of a (m,) int64 index as (m, d) float32 on the CPU."""
        if isinstance(self._data, torch.Tensor):
            return _float32(self._data[index.to(self._data.device)])
        return _float32(self._data[index.numpy()])

    def norms(self, start: int, stop: int) -> torch.Tensor:
        """Euclidean norms of rows start..stop, (m,) float64. FiniteError: NaN or infinity, which have no rank."""
        norms = torch.linalg.vector_norm(self.block(start, stop), dim=1, dtype=torch.float64)
        bad = (~torch.isfinite(norms)).nonzero()
        if len(bad):
            raise FiniteError(
                f"{self.name}: row {start + int(bad[0])} is not finite; "
                "check the model's outputs (mixed precision overflows first: try --no_amp)"
            )
        return norms


def score_pairs(left: Features, right: Features, row: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Pair scores of rows of `left` and rows of `right`, (n,) int64 each -> (n,) float32; a few at a time."""
    scores = torch.empty(len(row))
    for start in range(0, len(row), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores[part] = pair_scores(left.rows(row[part]), right.rows(other[part]))
    return scores


def _float32(rows: torch.Tensor | np.ndarray) -> torch.Tensor:
    if isinstance(rows, torch.Tensor):
        return rows.to(device="cpu", dtype=torch.float32)
    # asarray copies only what has to be converted; torch refuses to share read-only memory without a warning
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def _gather(blocks: Iterable, name: str) -> torch.Tensor | np.ndarray:
    held: list[torch.Tensor] = []
    size, file, dim, count = 0, None, None, 0
    try:
        for block in blocks:
            block = _float32(block)
            if block.ndim != 2 or (dim is not None and block.shape[1] != dim):
                raise MetricError(
                    f"{name}: a block has shape {tuple(block.shape)}; (n, {dim or 'dimensions'}) is needed"
                )
            dim, count = block.shape[1], count + len(block)
            if file is None and size + block.nbytes > _IN_MEMORY:
                file = tempfile.TemporaryFile(prefix="zhclip-features-")  # noqa: SIM115, closed below
                for earlier in held:
                    file.write(memoryview(earlier.contiguous().numpy()).cast("B"))
                held.clear()
            if file is None:
                size += block.nbytes
                held.append(block)
            else:
                file.write(memoryview(block.contiguous().numpy()).cast("B"))
        if dim is None:
            raise MetricError(f"{name}: the stream of features is empty")
        if file is None:
            return torch.cat(held)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return np.memmap(file, dtype=np.float32, mode="r", shape=(count, dim))
    finally:
        if file is not None:
            file.close()  # the mapping keeps the data alive
