"""How the views that are text write the parts of a report."""

from __future__ import annotations

from collections.abc import Callable

from zhclip_openclip.report._model import Cell, Column, Comparison, Report, Row

#: What is said of a row that was run, line by line.
LINES: dict[str, Callable[[Cell], str]] = {
    "published": lambda cell: number(cell.published),
    "ours": lambda cell: number(cell.ours),
    "difference": lambda cell: "" if cell.difference is None else signed(cell.difference),
    "interval": lambda cell: interval(cell.low, cell.high),
    "verdict": lambda cell: cell.verdict if cell.ours is not None or cell.published is not None else "",
}


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
        f"{len(report.comparisons)}), and a difference is significant where that is at most {1 - report.level:.2g}."
    )
