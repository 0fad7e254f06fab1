"""clip_benchmark's own Chinese parts among the data at hand: retrieval sets that it fetches and reads itself.

It writes the captions of a language beside the pictures with the first evaluation, `xtd10-zh.json` with the paths of
the pictures and a caption for each, and reads that file ever after. So what is looked for is that file, or what it can
be written from without a network. Names, files and languages are in `data/datasets.json`, under `host`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zhclip_openclip import _content
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._reading import read_json
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._layout import candidate_folders


def folders(host: dict[str, Any], root: Path) -> Iterator[Path]:
    """Where one of these sets may lie below `root`."""
    return candidate_folders(root, (host["name"], *host["folders"]))


def find(host: dict[str, Any], root: Path) -> Iterator[tuple[Path, int | None, str] | ZhclipError]:
    """(folder to read from, number of pictures where it is known, listing of the files) of each folder below `root`
    that holds the set; what is wrong with one that cannot be read."""
    for folder in folders(host, root):
        captions, sources = folder / host["captions"], [folder / name for name in host["made_from"]]
        try:
            if captions.is_file():
                count = _count(captions)
                words = [path for path in sources[1:] if path.is_file()] or [captions]
                yield folder, count, _content.listing(folder, [*sources[:1], *words])
            elif len(sources) > 1 and all(path.exists() for path in sources):
                yield folder, None, _content.listing(folder, sources)
        except ZhclipError as error:
            yield error


def _count(captions: Path) -> int:
    """The pictures in a file of captions. Raises DatasetError: it is none, or its pictures are elsewhere by now."""
    content = read_json(captions, DatasetError)
    paths, texts = content.get("image_paths"), content.get("annotations")
    again = "remove it, so that clip_benchmark writes it again"
    if not (isinstance(paths, list) and isinstance(texts, list)) or len(paths) != len(texts) or not paths:
        raise DatasetError(f"{captions}: not a caption for each of its pictures; {again}")
    if not all(isinstance(value, str) for value in (*paths, *texts)):
        raise DatasetError(f"{captions}: paths and captions are texts; {again}")
    if gone := next((path for path in paths if not os.path.exists(path)), None):
        raise DatasetError(f"{captions}: {gone} is not there; if the pictures were moved, {again}")
    return len(paths)
