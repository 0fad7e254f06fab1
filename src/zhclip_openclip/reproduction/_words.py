"""Durations and figures in words, for plans and displays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._reading import read_json

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
        metrics = read_json(plan.output / f"{cell.name}.json").get("metrics")
    except ZhclipError as error:
        return f"finished, and gone again: {error}"
    if not isinstance(metrics, dict):
        return "finished"
    names = {
        "image_retrieval_recall@1": "text to image R@1",
        "text_retrieval_recall@1": "image to text R@1",
        "acc1": "acc1",
        "mean_average_precision": "mAP",
    }
    figures = {key: metrics[key] for key in names if isinstance(metrics.get(key), (int, float))}
    return ", ".join(f"{names[key]} {100 * value:.2f}" for key, value in figures.items()) or "finished"


def cells(count: int) -> str:
    """'1 cell', '2 cells'."""
    return f"{count} cell{'s' * (count != 1)}"
