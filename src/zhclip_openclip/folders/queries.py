"""What is searched for: texts and pictures, told apart before a model is opened for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._reading import kind_of
from zhclip_openclip.datasets import pictures_of
from zhclip_openclip.folders._errors import FolderError

TEXT, PICTURE = "text", "picture"


@dataclass(frozen=True)
class Query:
    """text: what was asked. path: of a query that is a picture."""

    text: str
    path: Path | None = None


def read_queries(texts: Sequence[str], kind: str = "auto") -> list[Query]:
    """kind: 'text', 'picture', or 'auto': a picture where there is a file of that name, or a name that only a picture
    has.

    Raises FolderError: an empty query, a picture that is not there, a file that is no picture.
    """
    if not texts:
        raise FolderError("nothing to search for: give a text or a picture")
    return [_query(text, number, kind) for number, text in enumerate(texts, start=1)]


def _query(text: str, number: int, kind: str) -> Query:
    if not text.strip():
        raise FolderError(f"query {number} is empty: write what to look for, or the path of a picture")
    if kind == TEXT:
        return Query(text.strip())
    path = Path(text.strip()).expanduser()
    known = path.suffix.lower() in {*pictures_of.suffixes(), ".heic", ".heif", ".avif"}
    try:
        there = path.is_file()
        folder = path.is_dir()
    except (OSError, ValueError):  # too long for a path, or no path at all: a text
        there = folder = False
    if there and (kind == PICTURE or known or kind_of(path).endswith(" picture")):
        return Query(text, path)
    a_path = known and not any(character.isspace() for character in text.strip())
    a_path = a_path or ((there or folder) and len(path.parts) > 1)  # a file 猫 right here is no reason against 猫
    if kind == PICTURE or a_path:
        what = "a folder" if folder else "a file of another kind" if there else "not there"
        raise FolderError(f"{text.strip()}: the query picture is {what}; for a text that is written so: --as text")
    return Query(text.strip())
