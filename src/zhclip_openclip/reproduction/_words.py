"""Durations and figures in words, for plans and displays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhclip_openclip.reproduction.plan import Cell, Plan


def duration(seconds: float) -> str:
    """'20 s', '3 min', '2.5 h', '4 days': as rough as an estimate is."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def result_line(plan: Plan, cell: Cell) -> str:
    """The first figures of a result, in percent."""
    try:
        metrics = json.loads((plan.output / f"{cell.name}.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError):
        return "done"
    names = {
        "image_retrieval_recall@1": "text to image R@1",
        "text_retrieval_recall@1": "image to text R@1",
        "acc1": "acc1",
        "mean_average_precision": "mAP",
    }
    return ", ".join(f"{name} {100 * metrics[key]:.2f}" for key, name in names.items() if key in metrics) or "done"
