"""The parts of Markdown pages that the program writes, between two marks."""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file


def put_between(path: Path, begin: str, end: str, content: str, error: type[ZhclipError] = ZhclipError) -> bool:
    """Write `content` between the marks `begin` and `end` of the page at `path`; whether that changed the page.

    Raises `error`: the page does not have each mark once.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise error(f"{path} has no {begin} and {end}; the table goes between these marks")
    before, rest = text.split(begin)
    new = f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"
    if new == text:
        return False
    with whole_file(path) as part:
        part.write_text(new, encoding="utf-8")
    return True
