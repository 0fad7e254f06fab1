"""The report in LaTeX, to be \\input: one `table` a benchmark, ruled by booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from zhclip_openclip.report._model import Cell, Column, Report, Row, Table
from zhclip_openclip.report.views import _text

_PREAMBLE = r"""% \usepackage{booktabs,longtable,graphicx}"""
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "†": r"\dag{}",
    "★": r"$\star$",
}


def render(report: Report) -> str:
    report = _text.cleaned(report)
    marks = _text.marks_of(report)
    sources = [f"Published values [{marks[key]}], {key}: {text}." for key, text in report.sources.items()]
    said = "\n\n".join(escaped(text) for text in (_text.explanation(report), *sources))
    parts = [_preamble(report), said, *(_table(table, report.level, marks) for table in report.tables)]
    for title, notes in _text.notes(report).items():
        parts.append(_items(title, notes))
    if report.comparisons:
        parts.append(_comparisons(report))
    if report.problems:
        parts.append(_items("Problems", map(str, report.problems)))
    return "\n\n".join(parts) + "\n"


def _items(title: str, texts: Iterable[str]) -> str:
    items = "\n".join(f"  \\item {_shielded(escaped(text))}" for text in texts)
    return f"\\paragraph{{{escaped(title)}}}\n\\begin{{itemize}}\n{items}\n\\end{{itemize}}"


def _preamble(report: Report) -> str:
    """A comment with what the text needs; Chinese in it (file names, models) needs CJK fonts too."""
    texts = [row.label for table in report.tables for row in table.rows] + [str(one) for one in report.problems]
    chinese = any(re.search("[\u2e80-\u9fff\uf900-\ufaff]", text) for text in texts)
    return _PREAMBLE + ("\n% \\usepackage{ctex} % and XeLaTeX or LuaLaTeX" if chinese else "")


def _table(table: Table, level: float, marks: dict[str, int]) -> str:
    columns = table.columns
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(table.title)}}}"]
    # As wide as the text at most: eleven columns with intervals are wider.
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}", r"\toprule", *_header(columns), r"\midrule"]
    for row in table.rows:
        lines += _row(row, columns, level, marks)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"])


def _header(columns: list[Column]) -> list[str]:
    titles = _line(["Model", "", *(escaped(column.title) for column in columns)])
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = column.group, groups[-1][1] + 1
        else:
            groups.append((column.group, 1))
    if not any(group for group, _ in groups):
        return [titles]
    rules, first = [], 3
    for group, size in groups:
        if group:
            rules.append(rf"\cmidrule(lr){{{first}-{first + size - 1}}}")
        first += size
    heads = [rf"\multicolumn{{{size}}}{{c}}{{{escaped(group)}}}" for group, size in groups]
    return [_line(["", "", *heads]), "".join(rules), titles]


def _row(row: Row, columns: list[Column], level: float, marks: dict[str, int]) -> list[str]:
    lines, title = [], escaped(_text.name(row, marks if row.about else None))
    cells = [row.cells[column.key] for column in columns]
    for name, texts in _text.lines(row, columns, marks, word=True).items():
        label = f"{_text.share(level)} interval" if name == "interval" else name.partition(" ")[0]
        lines.append(_line([title, escaped(label), *map(_cell, [name] * len(cells), cells, texts)]))
        title = ""
    return lines


def _cell(name: str, cell: Cell, said: str) -> str:
    text = escaped(said)
    if name == "difference":
        return f"${text}$" if text else ""  # a minus, not a hyphen
    best = (name == "published" and cell.best_published) or (name == "ours" and cell.best)
    return rf"\textbf{{{text}}}" if best and text else text


def _comparisons(report: Report) -> str:
    interval = escaped(f"{_text.share(report.level)} interval")
    heads = ["Compared by", "Better", "Worse", "Difference", interval, "$p$", "corrected", "Significant"]
    lines = [r"{\footnotesize\setlength{\tabcolsep}{4pt}", r"\begin{longtable}{p{0.24\linewidth}llrrrrl}"]
    lines += [rf"\caption{{{escaped(_text.comparison_explanation(report))}}} \\", r"\toprule", _line(heads)]
    lines += [r"\midrule", r"\endhead"]
    for one in report.comparisons:
        names = (_text.where(report, one), _text.origin(one, "better"), _text.origin(one, "worse"))
        ends = _text.interval(one.low, one.high).replace("-", "$-$")
        figures = (_text.p_value(one.p), _text.p_value(one.p_corrected), "yes" if one.significant else "no")
        lines.append(
            _line([*map(escaped, names), f"$+{one.difference:.2f}$", ends.replace("–", "--"), *map(escaped, figures)])
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{longtable}}"])


def _line(cells: list[str]) -> str:
    """A row. After the end of the row before, `[` or `*` at its beginning would be read as an argument of that."""
    return _shielded(" & ".join(cells)) + r" \\"


def _shielded(text: str) -> str:
    return "{}" + text if text.lstrip()[:1] in ("[", "*") else text


def escaped(text: str) -> str:
    """Text with the characters that mean something to LaTeX taken literally."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))
