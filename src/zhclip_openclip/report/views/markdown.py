"""The report in Markdown, as GitHub shows it: a table a benchmark, what is known of a cell line by line."""

from __future__ import annotations

import re
from collections.abc import Iterable

from zhclip_openclip.report._model import Cell, Report, Table
from zhclip_openclip.report.views import _text


def render(report: Report) -> str:
    report = _text.cleaned(report)
    title = "# Leaderboard" if report.leaderboard else "# Results beside the published figures"
    parts = [title, _text.explanation(report)]
    if report.runs or not report.leaderboard:
        parts.append(
            "A cell has: ours, the difference to the published value, the interval, the verdict, the published value, "
            "and what other sources publish of the model where it differs (✓ reproduced, ≠ off; † doubtful, and not "
            "judged)."
        )
    parts += tables(report)
    if report.sources and not report.leaderboard:
        parts += ["## Sources", _list(f"{_code(key)}: {_escaped(text)}" for key, text in report.sources.items())]
    for title, notes in _text.notes(report).items():
        parts += [f"## {title}", listed(notes)]
    if report.comparisons:
        parts += ["## Comparisons of our runs", _text.comparison_explanation(report), _comparisons(report)]
    if report.problems:
        parts += ["## Problems", _list(_escaped(str(problem)) for problem in report.problems)]
    if report.leaderboard:
        parts.append(footnotes(report))
    return "\n\n".join(parts) + "\n"


def tables(report: Report) -> list[str]:
    """Heading and table, one after another."""
    marks = _text.marks_of(report) if report.leaderboard else None
    return [part for one in report.tables for part in (f"## {_escaped(one.title)}", _table(one, marks))]


def footnotes(report: Report) -> str:
    """The sources as footnotes, which the rows of a leaderboard refer to."""
    marks = _text.marks_of(report)
    return "\n".join(
        f"[^{_anchor(key, marks)}]: {_code(key)}: {_escaped(text)}" for key, text in report.sources.items()
    )


def listed(texts: Iterable[str]) -> str:
    return _list(map(_escaped, texts))


def _anchor(key: str, marks: dict[str, int]) -> str:
    """What a footnote is called: its source, or the number of one that is no word."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else str(marks[key])


def _table(table: Table, marks: dict[str, int] | None) -> str:
    """marks: of a leaderboard, whose rows refer to footnotes."""
    lines = [["Model", "Published in", *(_escaped(_text.heading(column)) for column in table.columns)]]
    lines.append(["---", "---", *["---:"] * len(table.columns)])
    for row in table.rows:
        source = ", ".join(f"{_code(key)}[^{_anchor(key, marks)}]" if marks else _code(key) for key in row.sources)
        lines.append([_escaped(_text.name(row)), source, *(_cell(row.cells[column.key]) for column in table.columns)])
    return _rows(lines)


def _cell(cell: Cell) -> str:
    published = _bold(_text.LINES["published"](cell), cell.best_published)
    others = [
        f"{one.value:.{one.decimals}f} {_code(one.source)}" + ("†" if one.doubt else _text.SIGNS.get(one.verdict, ""))
        for one in _text.elsewhere(cell)
    ]
    if cell.ours is None:
        return "<br>".join(filter(None, (published, *others)))
    said = [_bold(_text.LINES["ours"](cell), cell.best)]
    said += [_text.LINES[name](cell) for name in ("difference", "interval")]
    said += [f"*{cell.verdict}*", f"published {published}" if published else "", *others]
    return "<br>".join(filter(None, said))


def _comparisons(report: Report) -> str:
    interval = f"{_text.share(report.level)} interval"
    lines = [["Compared by", "Better", "Worse", "Difference", interval, "p", "corrected", "Significant", "Test"]]
    lines.append([*["---"] * 3, *["---:"] * 4, "---", "---"])
    for one in report.comparisons:
        names = (_text.where(report, one), _text.origin(one, "better"), _text.origin(one, "worse"))
        figures = (_text.p_value(one.p), _text.p_value(one.p_corrected), "yes" if one.significant else "no")
        ends = _text.interval(one.low, one.high)
        lines.append([*map(_escaped, names), f"+{one.difference:.2f}", ends, *map(_escaped, (*figures, one.test))])
    return _rows(lines)


def _rows(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _list(items) -> str:
    return "\n".join(f"- {item}" for item in items)


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best and text else text


def _escaped(text: str) -> str:
    """Text with what Markdown and HTML would read as markup taken literally."""
    text = re.sub(r"([\\`*_~$&\[\]<>|#])", r"\\\1", text)
    return re.sub(r"^(\s*)(\d+(?=[.)])|(?=[-+=]))", r"\1\2\\", text)  # a list, a rule, a heading


def _code(name: str) -> str:
    return _escaped(name) if re.search(r"[`|\\]", name) else f"`{name}`"
