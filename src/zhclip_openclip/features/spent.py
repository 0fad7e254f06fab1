"""Where the time of evaluations goes: seconds by stage, for whoever asks (`using(spent={})`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from zhclip_openclip.features.settings import current

#: In the order in which a table shows them. READING is what the towers wait for: workers read ahead of them.
STAGES = ("loading models", "reading pictures", "image tower", "text tower", "scoring")
LOADING, READING, IMAGES, TEXTS, SCORING = STAGES
REST = "the rest"  #: what is no stage
Item = TypeVar("Item")


@contextlib.contextmanager
def timed(stage: str) -> Iterator[None]:
    """Adds the seconds of the block to `stage` in `current().spent`; does nothing where nobody asked."""
    spent = current().spent
    if spent is None:
        yield
        return
    _wait_for_gpu()
    begun = time.perf_counter()
    try:
        yield
    finally:
        _wait_for_gpu()
        spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - begun


def timed_items(stage: str, items: Iterable[Item]) -> Iterator[Item]:
    """`items`; what one waits for each of them is added to `stage`."""
    iterator = iter(items)
    while True:
        with timed(stage):
            item = next(iterator, iterator)
        if item is iterator:
            return
        yield item


def _wait_for_gpu() -> None:
    """A GPU works on after a call has come back: its time would count to whoever waits for it first."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
