"""The shards of a WebDataset folder: how many `nshards.txt` counts, and whether they are there."""

from __future__ import annotations

import re
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError

COUNT = "nshards.txt"
#: Bytes of a file that holds a number or a word.
_SMALL = 4096


def small_text(path: Path) -> str:
    """The text of a file that holds a number or a word, without blanks around it and byte-order mark.

    Raises DatasetError: it cannot be opened, is not UTF-8, or is no small file.
    """
    with reading(path, DatasetError, "write it again"), open(path, "rb") as file:
        raw = file.read(_SMALL + 1)
        if len(raw) > _SMALL:
            raise DatasetError(f"{path}: more than {_SMALL} bytes where a word is expected; write it again")
        return raw.decode("utf-8-sig").strip()


def count_shards(folder: Path) -> int:
    """What nshards.txt in the folder of a split says. Raises DatasetError: no such file, no number in it."""
    path = folder / COUNT
    if not path.is_file():
        raise DatasetError(f"{path} is missing, which says how many shards there are; copy it too, or write the number")
    text = small_text(path)
    if not re.fullmatch(r"\+?[0-9]{1,12}", text):
        raise DatasetError(f"{path} has no number of shards in it ({text[:20]!r}); write it there")
    return int(text)


def shard_paths(folder: Path) -> list[Path]:
    """0.tar, 1.tar, ... as counted. Raises DatasetError: as `count_shards`; one of them is missing."""
    count = count_shards(folder)
    paths: list[Path] = []
    while len(paths) < count:  # a wrong number may be larger than any list
        path = folder / f"{len(paths)}.tar"
        if not path.is_file():
            raise DatasetError(f"{path}: missing, though {COUNT} says {count}; {_way_out(folder, len(paths), count)}")
        paths.append(path)
    return paths


def _way_out(folder: Path, there: int, count: int) -> str:
    others = sorted(path.name for path in folder.glob("*.tar") if path.name != f"{path.stem.lstrip('0') or '0'}.tar")
    if others:
        return f"here are {shorten(others, 3)}: rename them to 0.tar, 1.tar, ... as clip_benchmark wants them"
    if there and not any(folder.glob(f"{count - 1}.tar")):
        return f"{there} are there up to this one: copy the rest, or correct {COUNT}"
    return "copy or export it again"
