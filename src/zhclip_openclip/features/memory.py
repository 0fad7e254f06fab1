"""Memory that layers give back stays with this process, for the next layer."""

from __future__ import annotations

import functools

import torch


@functools.cache
def keep_freed() -> None:
    """The C library of Linux hands a large block back to the system as soon as it is free, and the next layer gets its
    memory in pages that the system has to clear first. What counts as large grows to the size of the largest block that
    was given back, up to 32 MiB: this gives one of almost that size back, which was never written to and costs nothing.

    What it is worth: benchmarks/freed_memory.py. With other C libraries nothing happens.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")
