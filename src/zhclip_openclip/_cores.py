"""The processors that are there for this process."""

from __future__ import annotations

import os


def cores() -> int:
    """How many of them it may use, which are fewer than the machine has where somebody said so; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
