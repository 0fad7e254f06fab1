"""The report for a terminal: tables as wide as it is, five lines a model that was run and one for any other."""

from __future__ import annotations

import io

from rich.console import Console, Group
from rich.table import Table as Grid
from rich.text import Text

from zhclip_openclip.report._model import Cell, Column, Report, Table
from zhclip_openclip.report.views import _text

#: Of text that goes into a file.
WIDTH = 120
_CELL = 15  # characters of a column with its margin: "95.44–96.51" and "not published"
_COLOURS = {"reproduced": "green", "off": "bold red", "no interval": "yellow"}


def render(report: Report) -> str:
    """The report as plain text of 120 columns."""
    file = io.StringIO()
    show(report, Console(file=file, width=WIDTH, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def show(report: Report, console: Console) -> None:
    """Prints the report as wide and colourful as the console is."""
    report = _text.cleaned(report)
    for table in report.tables:
        console.print(_grids(table, report, console.width), "")
    if report.tables:
        console.print(Text(_text.explanation(report), style="dim"))
    for (key, source), mark in zip(report.sources.items(), _text.marks_of(report).values(), strict=True):
        console.print(Text(f"[{mark}] {key}: {source}", style="dim"))
    if any(_text.elsewhere(cell) for table in report.tables for row in table.rows for cell in row.cells.values()):
        console.print(Text(_text.beside_explanation(), style="dim"))
    for title, notes in _text.notes(report).items():
        console.print("", Text(title, style="bold"))
        for note in notes:
            console.print(Text(note))
    if report.comparisons:
        console.print("", _comparisons(report), Text(_text.comparison_explanation(report), style="dim"))
    if report.problems:
        console.print("", Text("Problems", style="bold"))
        for problem in report.problems:
            console.print(Text(str(problem)))


def _grids(table: Table, report: Report, width: int) -> Group:
    """The table in parts that fit beside each other, each with the models in front."""
    names = max(len(_text.name(row, _marks(report))) for row in table.rows)
    parts = _parts(table.columns, max(1, (width - min(names, 34) - 14) // _CELL))
    grids = [part for columns in parts for part in ("", _grid(table, columns, report))]
    return Group(Text(table.title, style="bold"), *grids[1:])


def _marks(report: Report) -> dict[str, int] | None:
    """Where the figures are from is said with each row of a leaderboard."""
    return _text.marks_of(report) if report.leaderboard else None


def _parts(columns: list[Column], most: int) -> list[list[Column]]:
    """Columns in runs of at most `most`; a group is not torn apart if it fits."""
    parts: list[list[Column]] = []
    for column in columns:
        group = [other for other in columns if other.group == column.group]
        starts = column is group[0] and column.group and len(group) <= most
        needed = len(group) if starts else 1
        if not parts or len(parts[-1]) + needed > most:
            parts.append([])
        parts[-1].append(column)
    return parts


def _grid(table: Table, columns: list[Column], report: Report) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    groups = {column.group for column in columns}
    title = groups.pop() if len(groups) == 1 else ""
    grid.add_column("Model", overflow="fold", max_width=34)
    grid.add_column(Text(title), style="dim", no_wrap=True)
    for column in columns:
        heading = column.title if title or not column.group else f"{column.group}\n{column.title}"
        grid.add_column(Text(heading), justify="right", no_wrap=True, min_width=_CELL - 2)
    for row in table.rows:
        label = _text.name(row, _marks(report))
        cells = [row.cells[column.key] for column in columns]
        for name, texts in _text.lines(row, columns, _text.marks_of(report)).items():
            what = f"{_text.share(report.level)} interval" if name == "interval" else name.partition(" ")[0]
            grid.add_row(Text(label), what, *map(_styled, [name] * len(cells), cells, texts))
            label = ""
    return grid


def _styled(name: str, cell: Cell, said: str) -> Text:
    text = Text(said)
    if (name == "published" and cell.best_published) or (name == "ours" and cell.best):
        text.stylize("bold")
    if name == "verdict":
        text.stylize(_COLOURS.get(cell.verdict, "dim"))
    return text


def _comparisons(report: Report) -> Grid:
    grid = Grid(title="Comparisons of our runs", title_justify="left", title_style="bold", box=None, pad_edge=False)
    grid.add_column("Compared by", overflow="fold")
    grid.add_column("Better", overflow="fold")
    grid.add_column("Worse", overflow="fold")
    for title in ("Difference", f"{_text.share(report.level)} interval", "p", "corrected", "Significant"):
        grid.add_column(title, justify="right", no_wrap=True)
    for one in report.comparisons:
        decided = Text("yes", style="bold green") if one.significant else Text("no", style="dim")
        ends = _text.interval(one.low, one.high)
        sides = (_text.origin(one, side) for side in ("better", "worse"))
        grid.add_row(
            *(Text(text) for text in (_text.where(report, one), *sides, f"+{one.difference:.2f}", ends)),
            *(_text.p_value(one.p), _text.p_value(one.p_corrected), decided),
        )
    return grid
