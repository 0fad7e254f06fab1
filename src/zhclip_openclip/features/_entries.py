"""The names in a cache folder: listing them, taking them away, and what a kill has left of that."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors

WHOLE = "features.safetensors"
_NAME = re.compile(r"[0-9a-f]{64}")
#: A name on its way out: see `remove`.
_LEAVING = re.compile(r"\.[0-9a-f]{64}-.*")
#: Seconds after which a file that is being written, and was not written to, is taken for what a kill has left. Who is
#: slower loses a block, and makes it again.
_ABANDONED = 600.0


@dataclass(frozen=True)
class Entry:
    """What `info` tells of one name: what it is of, rows, bytes on disk, seconds that it took to make, whether all of
    it is there, when it was last used (seconds since the epoch)."""

    name: str
    what: str
    rows: int
    size: int
    seconds: float
    complete: bool
    used: float


def names(folder: Path) -> list[str]:
    """All names in the folder, also of links to folders."""
    with contextlib.suppress(OSError):
        return sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return []


def entries(folder: Path) -> list[Entry]:
    """All names, the last used first. Of a file that cannot be read nothing is told but its size."""
    found = [_entry(folder / name) for name in names(folder)]
    return sorted(found, key=lambda entry: (-entry.used, entry.name))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; of a link none: what it names is not the cache's."""
    return sum(size for _, size, _ in _files(path))


def remove(folder: Path, name: str) -> None:
    """Take a name away. Who reads it at this moment has it mapped and goes on."""
    path = folder / name
    with contextlib.suppress(OSError):  # another program was faster, or has it open where that forbids renaming
        if path.is_symlink():
            path.unlink()
            return
        # Renamed first, so that nobody finds half of it.
        leaving = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        try:
            os.replace(path, leaving / "gone")
        finally:
            shutil.rmtree(leaving, ignore_errors=True)


def leftovers(folder: Path, at_once: bool = False) -> list[Path]:
    """What kills have left: names on their way out, files that were being written, blocks of what is complete, empty
    folders. at_once: those of this moment too, which may be of a program that is at work."""
    found: list[Path] = []
    with contextlib.suppress(OSError):
        found += [path for path in folder.iterdir() if _LEAVING.fullmatch(path.name)]
    before = time.time() - (0.0 if at_once else _ABANDONED)
    for name in names(folder):
        entry = folder / name
        if entry.is_symlink():
            continue
        files = list(_files(entry))
        found += [path for path, _, used in files if path.suffix == ".part" and used <= before]
        with contextlib.suppress(OSError):
            whole = (entry / WHOLE).is_file()
            parts = [path for path in entry.iterdir() if path.is_dir()]
            found += [part for part in parts if _newest(part) <= before and (whole or not any(part.iterdir()))]
            if not files and not parts and _newest(entry) <= before:
                found.append(entry)
    return found


def take_away(path: Path) -> None:
    """A file, a link or a folder; without a word if that cannot be."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[tuple[Path, int, float]]:
    """File, bytes, time of the last writing of all files at or below a path; links are not followed."""
    if path.is_symlink():
        return
    tree = os.walk(path) if path.is_dir() else [(path.parent, [], [path.name])]
    for folder, _, files in tree:
        for name in files:
            with contextlib.suppress(OSError):  # being taken away right now
                found = Path(folder, name)
                about = found.lstat()
                yield found, about.st_size, about.st_mtime


def _newest(folder: Path) -> float:
    return max([folder.stat().st_mtime, *(used for _, _, used in _files(folder))])


def _entry(folder: Path) -> Entry:
    what, rows, seconds, size, used, complete = "", 0, 0.0, 0, 0.0, False
    files = list(_files(folder))
    if folder.is_symlink():  # its files are somewhere else, and not counted
        files = [(path, 0, 0.0) for path in [folder / WHOLE, *folder.glob("part-*/*.safetensors")] if path.is_file()]
        with contextlib.suppress(OSError):
            used = folder.lstat().st_mtime
    for path, length, time_of in files:
        size, used = size + length, max(used, time_of)
        if path.suffix != ".safetensors":
            continue
        complete = complete or path.name == WHOLE
        with contextlib.suppress(Exception):  # a header can be damaged in any way
            with safetensors.safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                rows += file.get_slice("features").get_shape()[0]
            what = told.get("what", what)
            taken = float(told.get("seconds", 0))
            seconds += taken if math.isfinite(taken) else 0.0
    return Entry(folder.name, what, rows, size, seconds, complete, used or time.time())
