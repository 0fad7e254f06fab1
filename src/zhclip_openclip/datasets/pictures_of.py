"""The pictures of a folder: listed with all folders below it, whatever they are called and however many there are.

What the files of somebody's own data sets and of searches are found with. Nothing is opened: a picture is what is
called like one.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from zhclip_openclip._errors import counted, printable, shorten
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError

#: What Pillow reads in every installation; of a GIF or a TIFF the first picture counts.
_ALWAYS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
#: And what it reads where something else is installed: suffixes, and what reads them.
_HEIF, _AVIF = (".heic", ".heif"), (".avif",)
#: Pictures that are read nowhere here; they are counted, so that nobody takes what is left for the whole.
_NOT_READ = (".jp2", ".jxl", ".svg", ".tga", ".ico", ".psd", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf")
#: Folders that programs make beside somebody's pictures, with copies of them: macOS' archives, Synology, Windows.
_MADE = ("__macosx", "@eadir", "$recycle.bin", "system volume information")
#: Entries of folders between two calls of `tell`.
EVERY = 1000
#: Seconds between two lines of `on_stderr`.
SECONDS = 10.0


@dataclass
class Pictures:
    """What a folder holds.

    names: of each picture below `folder`, with `/` between folders, sorted. others: suffix -> number of pictures of
    kinds that are not read here. links_out: links that lead out of the folder and were not followed. twice: links to
    folders that are listed under another name already. unreadable: folders that may not be read, where that was no
    error. entries: how many files and folders were looked at.
    """

    folder: Path
    names: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    links_out: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    entries: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def path(self, name: str) -> Path:
        """The file of one of `names`."""
        return self.folder / name

    def notes(self) -> list[str]:
        """What somebody who counts on all pictures of the folder should know: one line for each thing left out."""
        notes = []
        if self.links_out:
            notes.append(
                f"{counted(len(self.links_out), 'link')} out of {self.folder} not followed "
                f"({shorten(self.links_out, 3)}); --follow-links follows them"
            )
        if self.others:
            notes.append(
                f"{counted(self.others.total(), 'picture')} of other kinds ({', '.join(sorted(self.others))}) in "
                f"{self.folder} not read; {_way_out(self.others)}"
            )
        if self.unreadable:
            notes.append(f"{counted(len(self.unreadable), 'folder')} not readable: {shorten(self.unreadable, 3)}")
        return [printable(note) for note in notes]


@cache
def suffixes() -> tuple[str, ...]:
    """Of the pictures that are read in this installation, in lower case."""
    from PIL import features

    found = _ALWAYS
    if find_spec("pillow_heif") is not None:
        found += _HEIF
    if features.check("avif"):
        found += _AVIF
    return found


def list_pictures(
    folder: str | os.PathLike[str],
    follow_links: bool = False,
    tell: Callable[[int], None] | None = None,
    skip_unreadable: bool = False,
) -> Pictures:
    """All pictures in a folder and in those below it.

    What is hidden (`.DS_Store`, `._cat.jpg`) and what systems put beside pictures (`__MACOSX`, `@eaDir`) is passed
    over. A link inside the folder is what it leads to; a folder is listed once, under its own name.

    Args:
        follow_links: take what links outside the folder lead to.
        tell: called with the number of entries looked at, each `EVERY` of them: a million files take a while. See
            `on_stderr`.
        skip_unreadable: name folders that may not be read in `.unreadable`, instead of raising.

    Raises:
        DatasetError: no such folder; one that may not be read.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "a file" if root.exists() else "not there"
        raise DatasetError(f"{root} is {what}; give the folder that holds the pictures")
    result = Pictures(root)
    with reading(root, DatasetError):
        _list(result, follow_links, tell, skip_unreadable)
    result.names.sort()
    return result


def on_stderr(folder: str | os.PathLike[str], quiet: bool = False) -> Callable[[int], None]:
    """A `tell` that prints a line on the standard error each ten seconds. quiet: it prints nothing."""
    last = time.monotonic()

    def tell(entries: int) -> None:
        nonlocal last
        if not quiet and sys.stderr is not None and time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            print(printable(f"listing {folder}: {entries:,} files so far"), file=sys.stderr, flush=True)

    return tell


def _list(result: Pictures, follow_links: bool, tell: Callable[[int], None] | None, skip_unreadable: bool) -> None:
    top = os.path.realpath(result.folder)
    known, others = set(suffixes()), {*_NOT_READ, *_HEIF, *_AVIF} - set(suffixes())
    seen: set[tuple[int, int]] = set()
    _new(top, seen)
    folders: list[str] = [""]
    linked: list[str] = []  # when all real folders are through, so that a folder has its own name
    while folders or linked:
        own = bool(folders)
        name = folders.pop() if own else linked.pop()
        place = os.path.join(result.folder, name)
        if not own and not _new(place, seen):
            result.twice.append(name)
            continue
        try:
            entries = sorted(os.scandir(place), key=_name, reverse=True)
        except PermissionError as error:
            if not skip_unreadable or not name:
                raise DatasetError(
                    f"{place}: cannot be read ({error.strerror}); give leave to, or move it away"
                ) from error
            result.unreadable.append(name)
            continue
        for entry in entries:
            result.entries += 1
            if tell is not None and result.entries % EVERY == 0:
                tell(result.entries)
            called = entry.name
            if called.startswith(".") or called.lower() in _MADE:
                continue
            below = f"{name}/{called}" if name else called
            link = entry.is_symlink()
            suffix = os.path.splitext(called)[1].lower()
            if link and not follow_links and not _inside(entry.path, top):
                if suffix in known or entry.is_dir():
                    result.links_out.append(below)
                continue
            if entry.is_dir():
                if link:
                    linked.append(below)
                elif _new(entry.path, seen):
                    folders.append(below)
            elif suffix in known and entry.is_file():
                result.names.append(below)
            elif suffix in others and entry.is_file():
                result.others[suffix] += 1


def _new(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder is not in `seen`, where it is from now on: a link may lead back up."""
    facts = os.stat(folder)
    place = facts.st_dev, facts.st_ino
    new = place not in seen
    seen.add(place)
    return new


def _name(entry: os.DirEntry) -> str:
    return entry.name


def _inside(path: str, top: str) -> bool:
    target = os.path.realpath(path)
    return target == top or target.startswith(top.rstrip(os.sep) + os.sep)


def _way_out(others: Counter[str]) -> str:
    if set(others) <= {*_HEIF}:
        return "pip install pillow-heif to read them"
    return "convert them to count them"
