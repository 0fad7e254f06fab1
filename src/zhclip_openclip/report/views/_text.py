"""How the views that are text write the parts of a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from zhclip_openclip._errors import printable
from zhclip_openclip.report._model import Cell, Column, Comparison, Problem, Report, Row

_Value = TypeVar("_Value")

#: What is said of a row that was run, line by line.
LINES: dict[str, Callable[[Cell], str]] = {
    "published": lambda cell: number(cell.published),
    "ours": lambda cell: number(cell.ours),
    "difference": lambda cell: "" if cell.difference is None else signed(cell.difference),
    "interval": lambda cell: interval(cell.low, cell.high),
    "verdict": lambda cell: cell.verdict if cell.ours is not None or cell.published is not None else "",
}


def cleaned(value: _Value) -> _Value:
    """A report, or a part of it, in which every text can be seen: control characters and bytes that are no UTF-8 spelt
    out, so that no name reaches a terminal, a file or a page as anything but a name. Every view begins with it.

    The sentences of a problem are one line. Addresses of galleries stay: they are quoted where they become links.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(cleaned, value))
    if isinstance(value, dict):
        return {cleaned(key): cleaned(one) for key, one in value.items()}
    if not is_dataclass(value):
        return value
    texts = {one.name: getattr(value, one.name) for one in fields(value) if one.name != "gallery"}
    if isinstance(value, Problem):
        texts = {name: " ".join(text.split()) for name, text in texts.items()}
    return replace(value, **{name: cleaned(text) for name, text in texts.items()})


def number(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"


def signed(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"  # without the sum -0.004 were -0.00


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f}–{high:.2f}"


def p_value(p: float) -> str:
    """Two significant digits; what is smaller than 0.0001 says so."""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"


def lines(row: Row, columns: list[Column]) -> dict[str, list[Cell]]:
    """What is said of a row, line by line: the published values alone of one that was not run, and of one that was
    what there is in any of these columns."""
    cells = [row.cells[column.key] for column in columns]
    if all(cell.ours is None for cell in cells):
        return {"published": cells}
    return {name: cells for name, write in LINES.items() if any(map(write, cells))}


def share(level: float) -> str:
    return f"{100 * level:g}%"


def heading(column: Column) -> str:
    """The title of a column with its group."""
    return f"{column.group} {column.title}" if column.group else column.title


def where(report: Report, comparison: Comparison) -> str:
    """What was compared: the data set, and the column of its table."""
    table = next(table for table in report.tables if table.key == comparison.table)
    column = next(column for column in table.columns if column.key == comparison.column)
    return column.title if column.key == column.dataset else f"{column.dataset}, {heading(column)}"


def explanation(report: Report) -> str:
    """What the words of the tables mean, in one paragraph."""
    return (
        f"Values are percent. Intervals are {share(report.level)} bootstrap intervals over queries or images "
        f"({report.resamples:,} resamples, seed {report.seed}). reproduced: the published value, before it was "
        "rounded, can lie in the interval; off: it cannot; no interval: there are no outcomes of single samples."
    )


def comparison_explanation(report: Report) -> str:
    return (
        "Pairs of our runs on the same samples, tested in pairs; p is corrected for the number of comparisons (Holm; "
        f"{report.corrected_for:,}), and a difference is significant where that is at most {1 - report.level:.2g}."
    )
