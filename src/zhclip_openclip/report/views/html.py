"""The report as one HTML file that opens offline: tables to sort, a dot chart for each benchmark, and what was run.

The page is written by `data/report.html.j2` and asks the network for nothing: its content security policy forbids
everything but its own styles and one script, named by its hash, so that no name in a result can run. All that the
script does is sorting and two switches (light or dark, English or Chinese); the rest is there without it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, urlsplit

from zhclip_openclip.report import _names
from zhclip_openclip.report._model import VERDICTS, Cell, Column, Comparison, Report, Row, Table
from zhclip_openclip.report.views import _text, charts
from zhclip_openclip.report.views._pages import pages

TEMPLATE = "report.html.j2"
PANELS = 4  # charts side by side
_MINUS = "\N{MINUS SIGN}"

# Metric keys, longest beginning first, and what they mean; the exact definitions are in `metrics/`.
DEFINITIONS = {
    "image_retrieval_mean_recall": (
        "Mean, Text-to-Image: the mean of R@1, R@5 and R@10.",
        "文搜图平均召回率：R@1、R@5、R@10 三者的平均。",
    ),
    "text_retrieval_mean_recall": (
        "Mean, Image-to-Text: the mean of R@1, R@5 and R@10.",
        "图搜文平均召回率：R@1、R@5、R@10 三者的平均。",
    ),
    "image_retrieval_recall@": (
        "R@k, Text-to-Image: the share of texts with a right image among the k images that score highest.",
        "文搜图 R@k：一条文本得分最高的 k 张图片里有正确图片，就算命中；取命中的文本所占的比例。",
    ),
    "text_retrieval_recall@": (
        "R@k, Image-to-Text: the share of images with a right text among the k texts that score highest.",
        "图搜文 R@k：一张图片得分最高的 k 条文本里有正确文本，就算命中；取命中的图片所占的比例。",
    ),
    "acc1": (
        "Accuracy (acc1): the share of images whose class scores highest.",
        "准确率（acc1）：一张图片得分最高的类别正确，就算答对；取答对的图片所占的比例。",
    ),
    "acc5": (
        "Accuracy within five (acc5): the share of images whose class is among the five that score highest.",
        "前五准确率（acc5）：一张图片得分最高的五个类别里有正确类别，就算答对；取答对的图片所占的比例。",
    ),
    "mean_per_class_": (
        "Accuracy per class (mean_per_class_…): the accuracy of each class, then the mean over the classes.",
        "各类平均准确率（mean_per_class_…）：先算每个类别的准确率，再对类别取平均。",
    ),
    "lp_": (
        "Linear probe (lp_…): a linear classifier trained on image features of the train split; it has no prompts, and "
        "its figures are none to compare with zero-shot ones.",
        "线性探测（lp_…）：用训练集的图像特征训练一个线性分类器；不用提示词，与零样本的数值不可直接比较。",
    ),
    "mean_average_precision": (
        "Mean average precision: the average precision of each class, then the mean over the classes.",
        "平均精度均值：先算每个类别的平均精度，再对类别取平均。",
    ),
    "map_11_points": (
        "11-point mean average precision: for each class the highest precision at a recall of at least 0, 0.1, …, 1, "
        "averaged; then the mean over the classes.",
        "11 点平均精度均值：每个类别在召回率不低于 0、0.1、……、1 时所能达到的最高精度取平均，再对类别取平均。",
    ),
}


#: What the tests between runs are called in Chinese.
TESTS = {
    "McNemar, exact": "McNemar 精确检验",
    "paired permutation": "配对置换检验",
    "paired permutation, exact": "配对置换精确检验",
}


def render(report: Report) -> str:
    """The whole page. The same report gives the same text, with the same version of matplotlib."""
    from zhclip_openclip import __version__

    report, environment = _text.cleaned(report), pages()
    folder = common_folder(run.path for run in report.runs)
    environment.filters.update(
        number=number,
        signed=signed,
        probability=probability,
        beside=beside,
        translated=lambda column: _translated(column.title, column.title_zh),
        exact=lambda value: "" if value is None else repr(float(value)),
        elsewhere=_text.elsewhere,
        mark=_text.marks_of(report).get,
        thousands=lambda value: f"{value:,}",
        here=lambda text: inside(str(text), folder),
        file=lambda path: file_name(path, folder),
        sha256=lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode("ascii"),
    )
    cells = [cell for table in report.tables for row in table.rows for cell in row.cells.values()]
    return environment.get_template(TEMPLATE).render(
        report=report,
        version=__version__,
        counts={verdict: sum(cell.verdict == verdict for cell in cells) for verdict in VERDICTS},
        models=len({run.model for run in report.runs}),
        datasets=len({run.dataset for run in report.runs}),
        level=f"{100 * report.level:g}%",
        nothing=Cell(),
        decimals=_decimals(report.tables),
        tables=sorted(
            (_table(report, *one) for one in enumerate(report.tables)),
            key=lambda one: not (one["run"] or report.leaderboard),
        ),
        comparisons=_comparisons(report),
        disagreements=_text.disagreements(report),
        doubts=_text.doubts(report),
        marks=_text.marks_of(report),
        definitions=_definitions(report.tables),
        tests={one.test: TESTS.get(one.test) for one in report.comparisons},
        chart={"row": charts.ROW, "top": charts.TOP, "foot": charts.FOOT, "width": charts.WIDTH},
    )


# ---------------------------------------------------------------- numbers in words


def number(value: float, decimals: int = 2) -> str:
    """A percentage or a number of percentage points, '68.00'."""
    return f"{value:.{decimals}f}".replace("-", _MINUS)


def signed(value: float) -> str:
    """A difference, '+0.19'; what rounds to nothing has no sign."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", _MINUS)


def probability(value: float) -> str:
    """A p value: 'p = 0.012', 'p < 0.001', never 'p = 0'."""
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def beside(column: Column) -> str:
    """The Chinese title without the name that stands before it already: of 'DTD' and 'DTD 纹理' the latter half."""
    return "" if column.title_zh == column.title else column.title_zh.removeprefix(f"{column.title} ")


def _translated(title: str, title_zh: str) -> bool:
    """Whether the Chinese title says what the English one does, so that a page in Chinese can do without the latter."""
    return bool(title_zh) and not title_zh.startswith(title)


# ---------------------------------------------------------------- paths


def common_folder(paths: Iterable[str]) -> str:
    """The folder that all results are below, or ''."""
    folders = [os.path.dirname(path) for path in paths]
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative ones, or two drives
        return ""


def inside(text: str, folder: str) -> str:
    """A text without the folder that all results share: a page is for showing around, and says no more than it must."""
    above = folder.rstrip(os.sep) + os.sep
    return text.replace(above, "") if os.path.isabs(folder) else text.removeprefix(above if folder else "")


def file_name(path: str, folder: str) -> str:
    """A file below the folder by its way from there, one elsewhere by its name; tags are no paths and stay."""
    path = inside(path, folder)
    return PurePath(path).name if os.path.isabs(path) else path


def link(address: str | None) -> str | None:
    """A gallery's address as a link if it is one beside the page; None for anything that leads elsewhere, or runs."""
    if not address:
        return None
    try:
        parts, quoted = urlsplit(address.strip()), quote(os.fsencode(address))  # bytes that are no UTF-8 stay
    except ValueError:
        return None
    return None if parts.scheme or parts.netloc or address.startswith(("/", "\\")) else quoted


# ---------------------------------------------------------------- what the template takes


def _table(report: Report, place: int, table: Table) -> dict[str, Any]:
    cells = [cell for row in table.rows for cell in row.cells.values()]
    return {
        "id": f"table-{place + 1}",
        "short": (table.title.partition(" (")[0], table.title_zh.partition("（")[0]),
        "table": table,
        "published": any(cell.published is not None for cell in cells),
        "off": any(cell.verdict == "off" for cell in cells),
        "run": any(cell.ours is not None for cell in cells),
        "groups": [_group(*group) for group in groupby(table.columns, lambda column: (column.group, column.group_zh))],
        "metrics": len({one.metric for one in table.columns}) > 1 < len({one.dataset for one in table.columns}),
        "samples": {column.key: _samples(table, column) for column in table.columns},
        "bands": list(_bands(table, f"table-{place + 1}")),
        "galleries": _galleries(report, table),
        "sources": _sources(report, table),
    }


def _decimals(tables: Sequence[Table]) -> dict[str, int]:
    """How many decimals each source is published with: 42.6 of a source with one is not 42.60."""
    cells = [(row, cell) for table in tables for row in table.rows for cell in (*row.cells.values(), Cell())]
    decimals = dict.fromkeys((cell.source or row.source for row, cell in cells), 1)
    for row, cell in cells:
        if cell.published is not None and round(cell.published, 1) != round(cell.published, 2):
            decimals[cell.source or row.source] = 2
    return decimals


def _galleries(report: Report, table: Table) -> list[tuple[str, str]]:
    """What each gallery of the table is called, and where it is."""
    several = len({column.dataset for column in table.columns}) > 1
    runs = {cell.run: row.label for row in table.rows for cell in row.cells.values() if cell.run is not None}
    found = [
        (f"{label}, {report.runs[run].dataset}" if several else label, link(report.runs[run].gallery))
        for run, label in runs.items()
    ]
    return [(name, address) for name, address in found if address]


def _sources(report: Report, table: Table) -> list[tuple[list[str], str, str]]:
    """The titles of the rows of each source, its text and its key."""
    titles: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for source in filter(report.sources.get, row.sources):
            titles.setdefault(source, {})[row.title] = None
    found = [(list(rows), report.sources[source], source) for source, rows in titles.items()]
    marks = _text.marks_of(report)
    return sorted(found, key=lambda one: marks[one[2]]) if report.leaderboard else found


def _group(names: tuple[str, str], columns: Iterable[Column]) -> dict[str, Any]:
    return {"title": names[0], "title_zh": names[1], "columns": list(columns)}


def _cell(row: Row, column: Column) -> Cell:
    return row.cells.get(column.key) or Cell()


def _samples(table: Table, column: Column) -> int | None:
    """What all of a column was measured on; None where nothing was, or the cells differ."""
    numbers = {_cell(row, column).samples for row in table.rows} - {None}
    return numbers.pop() if len(numbers) == 1 else None


@dataclass(frozen=True)
class _Line:
    """A line of charts. name, small, small_zh: what stands beside it; label: what it is called in full. translated:
    whether small_zh is the name in Chinese."""

    name: str
    label: str
    small: str = ""
    small_zh: str = ""
    translated: bool = False


@dataclass(frozen=True)
class _Panel:
    title: str
    title_zh: str
    svg: str
    translated: bool = False


@dataclass(frozen=True)
class _Band:
    """Panels over the same lines, side by side."""

    lines: list[_Line]
    panels: list[_Panel]
    title: str = ""
    title_zh: str = ""


def _bands(table: Table, name: str) -> Iterator[_Band]:
    """A column group, or as many data sets as stand side by side; the lines are the models.

    Of one model alone such panels would have one line each: there the columns are the lines, and the groups the panels.
    """
    groups = [
        (*names, [column for column in columns if any(_cell(row, column).ours is not None for row in table.rows)])
        for names, columns in groupby(table.columns, lambda column: (column.group, column.group_zh))
    ]
    rows = [
        row for row in table.rows if any(_has_value(_cell(row, column)) for *_, shown in groups for column in shown)
    ]
    if len(rows) == 1:
        yield from _bands_of_one(table, rows[0], groups, name)
        return
    lines = [_Line(row.title, row.label, small=row.variant) for row in rows]
    for title, title_zh, shown in groups:
        for start in range(0, len(shown), PANELS):
            panels = []
            for column in shown[start : start + PANELS]:
                about = " ".join(filter(None, (table.title, title, column.title)))
                svg = _svg([_cell(row, column) for row in rows], lines, f"{name} {column.key}", about)
                translated = _translated(column.title, column.title_zh)
                panels.append(_Panel(column.title, beside(column), svg, translated))
            yield _Band(lines, panels, title, title_zh)


def _bands_of_one(table: Table, row: Row, groups: list[tuple[str, str, list[Column]]], name: str) -> Iterator[_Band]:
    """Groups with the same columns share the lines."""
    for titles, same in groupby(groups, lambda group: [column.title for column in group[2]]):
        if not titles:
            continue
        lines, panels = [], []
        for title, title_zh, columns in same:
            lines = [
                _Line(
                    *(one.title, f"{row.label} {one.title}"),
                    small_zh=beside(one),
                    translated=_translated(one.title, one.title_zh),
                )
                for one in columns
            ]
            about = " ".join(filter(None, (table.title, title)))
            svg = _svg([_cell(row, column) for column in columns], lines, f"{name} {columns[0].key}", about)
            panels.append(_Panel(title or row.label, title_zh, svg, bool(title) and _translated(title, title_zh)))
        yield _Band(lines, panels)


def _has_value(cell: Cell) -> bool:
    return cell.ours is not None or cell.published is not None


def _svg(cells: Sequence[Cell], lines: Sequence[_Line], name: str, about: str) -> str:
    said = [
        f"{line.label} {charts.describe(cell)}"
        for line, cell in zip(lines, cells, strict=True)
        if cell.ours is not None
    ]
    return charts.panel(cells, [line.label for line in lines], name, f"Dot chart. {about}, percent: {'; '.join(said)}")


def _comparisons(report: Report) -> list[dict[str, Any]]:
    """By table, with its titles and those of the columns."""
    groups: dict[str, list[Comparison]] = {table.key: [] for table in report.tables}
    for one in report.comparisons:
        groups.setdefault(one.table, []).append(one)
    tables = {table.key: table for table in report.tables}
    return [
        {
            "table": tables.get(key) or Table(key, key, "", [], []),
            "significant": sum(one.significant for one in comparisons),
            "rows": [(one, _column(tables.get(key), one)) for one in comparisons],
        }
        for key, comparisons in groups.items()
        if comparisons
    ]


def _column(table: Table | None, one: Comparison) -> Column:
    columns = table.columns if table else []
    return next((column for column in columns if column.key == one.column), Column(one.column, "", "", one.column, ""))


def _definitions(tables: Sequence[Table]) -> list[tuple[str, str]]:
    """Of the metrics on the page, in the order of `DEFINITIONS`."""
    metrics = {column.metric for table in tables for column in table.columns}
    metrics |= {metric.removeprefix(_names.PROBE_PREFIX) for metric in metrics}
    return [text for key, text in DEFINITIONS.items() if any(metric.startswith(key) for metric in metrics)]
