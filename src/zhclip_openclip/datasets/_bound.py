"""What a result of a data set is bound to, beside its name: the files, the content of the pictures, the prompts."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from zhclip_openclip import _content
from zhclip_openclip._content import Content
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._labelled import EXTENSIONS


def prompts_digest(classes: Sequence[str], templates: list[str] | dict[str, list[str]]) -> str:
    """SHA-256 over class names and templates, in their order."""
    return hashlib.sha256(json.dumps([list(classes), templates]).encode("ascii")).hexdigest()


def listing(folder: Path, files: Sequence[str]) -> str:
    """Of a data set that is recognised by `files` in `folder`: all that lies in the folders that these are in."""
    return _content.listing(folder, [folder / name for name in dict.fromkeys(Path(file).parts[0] for file in files)])


def images_below(folder: Path, files: Sequence[str]) -> int:
    """How many pictures lie in the folders that `files` are in, where each is a sample. Raises DatasetError: none."""
    tops = dict.fromkeys(folder / Path(file).parts[0] for file in files)
    count = sum(Path(name).suffix.lower() in EXTENSIONS for top in tops for name, _ in _content.files_below(top))
    if not count:
        raise DatasetError(f"{' and '.join(map(str, tops))}: no pictures there; unpack the data set again")
    return count


def pictures(dataset) -> Content | None:
    """The content of the pictures of a `RetrievalDataset`; None where they lie in no files."""
    places = dict.fromkeys(_file(dataset.images.where(index)) for index in range(len(dataset)))
    files = [Path(place) for place in places]
    return Content(files, lambda: _digest(dataset)) if files and all(path.is_file() for path in files) else None


def _file(where: str) -> str:
    """The file of a place: `FILE`, `FILE:LINE` or `FILE[MEMBER]`."""
    return where if Path(where).is_file() else re.sub(r"(:\d+|\[.*\])$", "", where)


def _digest(dataset) -> str:
    lines = []
    for index, key in enumerate(dataset.image_ids):
        try:
            content = f"{zlib.crc32(dataset.read_image(index)):08x}"
        except DatasetError:
            content = "unreadable"
        lines.append(f"{json.dumps(key)} {content}")
    return hashlib.sha256("\n".join(sorted(lines)).encode("ascii")).hexdigest()
