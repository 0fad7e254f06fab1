"""One score for one pair, whatever the batch.

A matrix product adds up its terms in an order that depends on the sizes it is called with, so the same two vectors can
score differently in the last bit in two batches. Ranks would then depend on the block size, and equal pictures would
not tie. Here the score of a pair is *defined* as the float64 sum of the float32 products, rounded to float32
(`pair_scores`); fast float32 products only decide what is certain (`error_bound`), and what they leave open is scored
by the definition.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

UNIT_ROUNDOFF = 2.0**-24


def pair_scores(queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Scores of n pairs by the definition above.

    Args:
        queries: (n, d) float32.
        items: (n, d) float32.

    Returns:
        (n,) float32.
    """
    return queries.double().mul_(items.double()).sum(dim=1).float()


def tile_scores(queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """All scores of (r, d) queries x (c, d) items by the definition: (r, c) float32. Twice the cost of float32."""
    return (queries.double() @ items.double().t()).float()


def error_bound(dim: int) -> float:
    """Largest |float32 product - pair score| in units of |query| |item|, for any order of summation.

    A sum of d products in arithmetic with unit roundoff u is off by at most d u / (1 - d u) times the sum of their
    magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), which Cauchy-Schwarz
    bounds by |query| |item|. Four more roundoffs cover the rounding of the definition and of the thresholds.
    """
    return (dim + 4) * UNIT_ROUNDOFF / (1.0 - dim * UNIT_ROUNDOFF)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Products in real float32: `error_bound` holds for neither TF32 nor bfloat16, which a caller may have allowed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def one_thread_each() -> Iterator[int]:
    """Makes torch compute with one thread in whatever thread calls it; yields how many threads it used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
