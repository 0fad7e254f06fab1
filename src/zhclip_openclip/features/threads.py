"""How many of torch's threads a tower takes beside the processes that read its images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from zhclip_openclip._cores import cores

#: Parameters. The embedded model's image tower has 0.3 million, that of the smallest other model of ours 22 million.
_SMALL = 2_000_000


def is_small(tower: torch.nn.Module) -> bool:
    """Its threads wait for one another longer than they compute as soon as others use the same cores, for each waits as
    long as a reader holds a core: 10,000 pictures of 500 x 375 take the embedded model and two readers on two cores 38
    seconds with two threads and 23 with one (benchmarks/whole_reproduction.py). ViT-B/32 is faster with both."""
    return sum(parameter.numel() for parameter in tower.parameters()) < _SMALL


def crowded(readers: int, threads: int, there: int | None = None) -> bool:
    """There are too few cores for all of them. there: how many; by default those of this process."""
    return readers > 0 and threads + readers > (cores() if there is None else there)


@contextlib.contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """While it lasts, if it is wanted. The numbers that torch computes do not depend on it."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
