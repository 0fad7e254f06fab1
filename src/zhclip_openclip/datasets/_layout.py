"""What a layout reader is, and how the folder of a dataset is found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource
from zhclip_openclip.datasets._relations import TextRecord


@dataclass
class Loaded:
    """What a layout reader found.

    file: of a release, the file with the captions. named: the set that this file is called after.
    """

    layout: str
    images: ImageSource
    records: Iterable[TextRecord]
    notes: list[str] = field(default_factory=list)
    file: Path | None = None
    named: str = ""


@dataclass(frozen=True)
class ReadOptions:
    """raw_captions: leave segmented captions as they are. image_folder: where pictures are, if apart."""

    raw_captions: bool = False
    image_folder: Path | None = None
    skip: bool = False


class Layout(Protocol):
    """A module with these two: it recognises its files in a folder and reads them."""

    LOOKS_FOR: str  # with {split}: what an error says was looked for

    @staticmethod
    def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
        """The data, or None if this folder has no files of this layout."""


def plain_name(name: str) -> str:
    """`Flickr30K_CN` and `flickr30k-cn` are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def candidate_folders(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """The root itself, then its sub-folders that bear one of the names, however they are spelled."""
    yield root
    wanted = {plain_name(name) for name in names}
    for child in _folders(root):
        if plain_name(child.name) in wanted:
            yield child
            # An unpacked archive often holds one folder of its own name.
            yield from (grandchild for grandchild in _folders(child) if plain_name(grandchild.name) in wanted)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder. Raises DatasetError: it cannot be read."""
    with reading(folder, DatasetError):
        return sorted(path for path in folder.iterdir() if path.is_dir())


def split_spellings(split: str) -> list[str]:
    """The split as given, and `valid` for `val` and the reverse."""
    return {"valid": ["valid", "val"], "val": ["val", "valid"]}.get(split, [split])
