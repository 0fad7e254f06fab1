"""The report as one CSV table for other programs: a line for each cell, then for each comparison and problem, then for
each value that further sources publish of a cell.

`record` says which of the four a line is; what does not apply is empty. Values are percent with all their digits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from zhclip_openclip.report._model import Cell, Report, Row
from zhclip_openclip.report.views import _text

COLUMNS = (
    *("record", "table", "column", "dataset", "metric", "model", "title", "variant", "source"),
    *(
        "published",
        "ours",
        "low",
        "high",
        "difference",
        "verdict",
        "best_published",
        "best",
        "samples",
        "run",
        "leads",
        "about",
    ),
    *("better", "worse", "p", "p_corrected", "significant", "test", "origin"),
    *("where", "what", "way_out"),
)


#: What formulas begin with, in Chinese and Japanese spreadsheets too. Tabs and ends of lines are spelt out before.
_FORMULA = tuple("=+-@＝＋－＠")


def render(report: Report) -> str:
    report, file = _text.cleaned(report), io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for record in (*_cells(report), *_comparisons(report), *_problems(report), *_published(report)):
        writer.writerow({key: plain(value) for key, value in record.items()})
    return file.getvalue()


def _places(report: Report) -> Iterator[tuple[dict[str, Any], Row, Cell]]:
    for table in report.tables:
        for row in table.rows:
            for column in table.columns:
                place = {
                    "table": table.key,
                    "column": column.key,
                    "dataset": column.dataset,
                    "metric": column.metric,
                    "model": row.model,
                    "title": row.title,
                    "variant": row.variant,
                    "about": row.about,
                }
                yield place, row, row.cells[column.key]


def _cells(report: Report) -> Iterator[dict[str, Any]]:
    for place, row, cell in _places(report):
        yield {
            "record": "cell",
            **place,
            **{key: value for key, value in vars(cell).items() if key != "also"},
            "source": cell.source or row.source,
            "run": None if cell.run is None else report.runs[cell.run].path,
        }


def _published(report: Report) -> Iterator[dict[str, Any]]:
    for place, _, cell in _places(report):
        for one in cell.also:
            said = {"source": one.source, "published": one.value, "verdict": one.verdict, "what": one.doubt}
            yield {"record": "published", **place, **said}


def _comparisons(report: Report) -> Iterator[dict[str, Any]]:
    for comparison in report.comparisons:
        yield {"record": "comparison", **vars(comparison)}


def _problems(report: Report) -> Iterator[dict[str, Any]]:
    for problem in report.problems:
        yield {"record": "problem", **vars(problem)}


def plain(value: Any) -> Any:
    """True and False as JSON writes them; floats with the digits that give the same float again; texts as they are,
    but with an apostrophe before those that a spreadsheet would compute."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value
