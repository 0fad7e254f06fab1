"""What files hold, in few words: a listing of their names and sizes, and a digest of their content that is read again
only where somebody has touched them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from zhclip_openclip._reading import reading

#: Files that say what pictures are; they count by their content, up to so many bytes.
_WORDS, _WORDS_LIMIT = (".txt", ".json", ".csv"), 2**20


class Content:
    """What some files hold.

    files: their paths. digest_of: what makes the digest; by default SHA-256 over the bytes of the files, of several
    over the digests of each.

    Names, sizes and times of change (`stamp`) tell that nothing has changed; where they differ the digest tells whether
    it has, since a file that was copied or fetched again is the same.
    """

    def __init__(self, files: Sequence[Path], digest_of: Callable[[], str] | None = None):
        self._files, self._digest_of = list(files), digest_of

    @cached_property
    def stamp(self) -> str:
        """Of the files as they are: SHA-256 over name, bytes and time of change of each."""
        digest = hashlib.sha256()
        for path in self._files:
            with reading(path):
                facts = path.stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns} ".encode() + os.fsencode(path.name) + b"\0")
        return digest.hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content; reads all of it, once."""
        if self._digest_of is not None:
            return self._digest_of()
        digests = [sha256(path) for path in self._files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def described(self) -> dict[str, str]:
        """For a result: {sha256, stamp}."""
        return {"sha256": self.digest, "stamp": self.stamp}

    def is_what(self, told: Any) -> bool:
        """Whether a result that was `described` so is of this content."""
        return isinstance(told, dict) and (told.get("stamp") == self.stamp or told.get("sha256") == self.digest)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file, read in pieces. Raises ZhclipError: it cannot be read."""
    digest = hashlib.sha256()
    with reading(path), open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def listing(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over the files at `paths`, and in the folders there: the name below `root` and the bytes of each, and
    the content of small files of words. What is not there does not count.

    Raises ZhclipError: a folder or file that cannot be read.
    """
    lines = []
    for path in paths:
        for name, size in files_below(path):
            line = os.fsencode(os.path.relpath(name, root)) + b"\0%d" % size
            if name.lower().endswith(_WORDS) and size <= _WORDS_LIMIT:
                line += sha256(Path(name)).encode()
            lines.append(line)
    return hashlib.sha256(b"\n".join(sorted(set(lines)))).hexdigest()


def files_below(path: Path) -> list[tuple[str, int]]:
    """(path, bytes) of the file `path`, or of each in the folder; links are followed. Raises ZhclipError."""
    with reading(path):
        if path.is_file():
            return [(str(path), path.stat().st_size)]
        found, folders = [], [str(path)] if path.is_dir() else []
        seen: set[tuple[int, int]] = set()  # a link may lead back up
        while folders:
            folder = folders.pop()
            facts = os.stat(folder)
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif entry.is_file():
                        found.append((entry.path, entry.stat().st_size))
        return found
