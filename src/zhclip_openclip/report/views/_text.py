"""How the views that are text write the parts of a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar

from zhclip_openclip._errors import printable
from zhclip_openclip.report._model import Cell, Column, Comparison, Figure, Problem, Report, Row, Table

_Value = TypeVar("_Value")

#: Stands in a leaderboard with the best open model of at most a billion parameters.
LEADS = " ★"
#: What is said of a row that was run, line by line.
LINES: dict[str, Callable[[Cell], str]] = {
    "published": lambda cell: number(cell.published) + (LEADS if cell.leads else ""),
    "ours": lambda cell: number(cell.ours) + (LEADS if cell.leads and cell.published is None else ""),
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


def lines(row: Row, columns: list[Column], marks: dict[str, int], word: bool = False) -> dict[str, list[str]]:
    """What is said of the cells of a row, line by line: the published values alone of one that was not run, and of one
    that was what there is in any of these columns; and where others publish something else, that.

    marks, word: see :func:`figure`.
    """
    cells = [row.cells[column.key] for column in columns]
    if all(cell.ours is None for cell in cells):
        told = {"published": list(map(LINES["published"], cells))}
    else:
        told = {name: list(map(write, cells)) for name, write in LINES.items() if any(map(write, cells))}
    for number_of_them in range(max(len(elsewhere(cell)) for cell in cells)):
        others = [elsewhere(cell)[number_of_them : number_of_them + 1] for cell in cells]
        told[f"elsewhere {number_of_them}"] = ["".join(figure(one, marks, word) for one in its) for its in others]
    return told


# ---------------------------------------------------------------- what others publish


def marks_of(report: Report) -> dict[str, int]:
    """The number of each source in the report's list of them."""
    return {key: number for number, key in enumerate(report.sources, start=1)}


def elsewhere(cell: Cell) -> list[Figure]:
    """What others publish of a cell that is not the cell's own figure, and what is doubtful."""
    return [one for one in cell.also if one.differs or one.doubt]


#: How a figure of another source stands to ours, for a reader with little room.
SIGNS = {"reproduced": " ✓", "off": " ≠"}


def figure(one: Figure, marks: dict[str, int], word: bool = False) -> str:
    """`64.0 [2] ≠`: a figure, where it is from, and whether ours reproduces it; `word` says that in a word. A dagger
    stands with what is doubtful."""
    if one.doubt:
        return f"{one.value:.{one.decimals}f} [{marks[one.source]}]†"
    verdict = (f" {one.verdict}" if word else SIGNS[one.verdict]) if one.verdict in SIGNS else ""
    return f"{one.value:.{one.decimals}f} [{marks[one.source]}]{verdict}"


@dataclass(frozen=True)
class Disagreement:
    """Two sources publish different values of a model in a table.

    apart, of: in how many of their common values. figures: the two that are furthest apart, in `column`.
    """

    table: Table
    title: str
    sources: tuple[str, str]
    apart: int
    of: int
    column: Column
    figures: tuple[str, str]
    most: float

    def __str__(self) -> str:
        first, second = self.sources
        return (
            f"{self.table.title}, {self.title}: {first} and {second} differ in {self.apart} of {self.of} values, by up "
            f"to {self.most:.2f} ({heading(self.column)} {self.figures[0]} and {self.figures[1]})"
        )


def disagreements(report: Report) -> list[Disagreement]:
    """Where sources publish different values of one model: one for each table, model and pair of sources."""
    found = []
    for table in report.tables:
        for title, others in _told_by_several(table.rows).items():
            for source, told in others.items():
                apart = [entry for entry in told if entry[2].differs]
                if not apart:
                    continue
                key, cell, one = max(apart, key=lambda entry: abs(entry[2].value - entry[1].published))
                figures = number(cell.published), f"{one.value:.{one.decimals}f}"
                column = next(column for column in table.columns if column.key == key)
                most = abs(one.value - cell.published)
                sources = cell.source, source
                found.append(Disagreement(table, title, sources, len(apart), len(told), column, figures, most))
    return found


def _told_by_several(rows: list[Row]) -> dict[str, dict[str, list[tuple[str, Cell, Figure]]]]:
    """Title of a model -> other source -> (column, cell, its figure); variants of a model tell it no second time."""
    found: dict[str, dict[str, list[tuple[str, Cell, Figure]]]] = {}
    seen: set[str] = set()
    for row in rows:
        if row.title in seen:
            continue
        seen.add(row.title)
        for key, cell in row.cells.items():
            for one in cell.also:
                if cell.published is not None and not one.doubt:
                    found.setdefault(row.title, {}).setdefault(one.source, []).append((key, cell, one))
    return found


def notes(report: Report) -> dict[str, list[str]]:
    """What is said of published figures, by heading; none without anything to say."""
    said = {"Where sources disagree": list(map(str, disagreements(report))), "Doubtful figures": doubts(report)}
    return {title: lines for title, lines in said.items() if lines}


def doubts(report: Report) -> list[str]:
    """Why figures are not judged, each once."""
    return list(
        dict.fromkeys(
            f"{table.title}, {row.title}, {one.source}: {one.doubt}"
            for table in report.tables
            for row in table.rows
            for cell in row.cells.values()
            for one in cell.also
            if one.doubt
        )
    )


def name(row: Row, marks: dict[str, int] | None = None) -> str:
    """What stands before a row: its label; in a leaderboard its size too and, with `marks`, where it is published."""
    label = ", ".join(filter(None, (row.label, row.about)))
    sources = "".join(f"[{marks[key]}]" for key in row.sources) if marks else ""
    return f"{label} {sources}" if sources else label


def leaderboard_explanation() -> str:
    return (
        "From the best down by the first column, by the published value, or ours where nothing is published. Bold: the "
        "best of a column. ★: the best of the models whose weights can be had and that have at most a billion "
        "parameters. Values of different sources were measured in different ways: the notes of the sources say how."
    )


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
    if report.leaderboard and not report.runs:
        return f"Values are percent. {leaderboard_explanation()}"
    ranked = f" {leaderboard_explanation()}" if report.leaderboard else ""
    return (
        f"Values are percent. Intervals are {share(report.level)} bootstrap intervals over queries or images "
        f"({report.resamples:,} resamples, seed {report.seed}). reproduced: the published value, before it was "
        "rounded, can lie in the interval; off: it cannot; no interval: there are no outcomes of single samples."
        + ranked
    )


def beside_explanation() -> str:
    """What stands with the figures of other sources."""
    return (
        "A figure with a number in brackets is what that source publishes of the same model (✓ reproduced, ≠ off; † "
        "doubtful, and not judged)."
    )


def origin(comparison: Comparison, name: str) -> str:
    """'better' or 'worse' with what it is to the other one."""
    label = getattr(comparison, name)
    return f"{label}, which the other began from" if comparison.origin == name else label


def comparison_explanation(report: Report) -> str:
    return (
        "Pairs of our runs on the same samples, tested in pairs; p is corrected for the number of comparisons (Holm; "
        f"{report.corrected_for:,}), and a difference is significant where that is at most {1 - report.level:.2g}."
    )
