"""The tables of `docs/leaderboard.md`, made from `data/published`.

python -m zhclip_openclip.report.docs docs/leaderboard.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._generated import put_between
from zhclip_openclip.report.build import build
from zhclip_openclip.report.views import _text, markdown

BEGIN = "<!-- made by `python -m zhclip_openclip.report.docs`; a test notices when it is stale -->"
END = "<!-- end of what is made -->"


def tables() -> str:
    """Markdown: a table for each data set that two models or more are published of, then its footnotes."""
    report = build([], leaderboard=True)
    report.tables = [table for table in report.tables if len(table.rows) > 1]
    used = {source for table in report.tables for row in table.rows for source in row.sources}
    report.sources = {key: text for key, text in report.sources.items() if key in used}
    report = _text.cleaned(report)
    parts = [_text.leaderboard_explanation(), *markdown.tables(report)]
    for title, notes in _text.notes(report).items():
        parts += [f"## {title}", markdown.listed(notes)]
    return "\n\n".join([*parts, markdown.footnotes(report)])


def put_in(path: Path) -> bool:
    """Write the tables between their two marks in a Markdown file; whether that changed the file.

    Raises ZhclipError: it has no such marks.
    """
    return put_between(path, BEGIN, END, tables(), ZhclipError)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {'written' if put_in(Path(name)) else 'up to date'}")
