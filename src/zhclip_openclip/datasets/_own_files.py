"""The picture files of somebody's own data: by the paths that a table has for them, and folder by folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zhclip_openclip._errors import counted, printable, shorten
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import Skipped
from zhclip_openclip.datasets._own_tables import Columns, Table, rows_of, texts_of
from zhclip_openclip.datasets.pictures_of import EVERY, list_pictures, on_stderr, suffixes

#: Folders beside a table in which the pictures may be that its paths begin in.
_BESIDE = ("images", "image", "imgs", "img", "pictures", "photos", "图片")
_WINDOWS = re.compile(r"^[A-Za-z]:/|^//")
#: Pictures of equal size that are compared by their content, at most; beyond these it would be reading all of a set.
_COMPARED = 20_000


class Picture(NamedTuple):
    """A file, what it is called in the data, where the data says so, its label and its bytes."""

    path: str
    key: str
    where: str
    label: str = ""
    size: int = -1


class Places:
    """Files by the paths of a table.

    root: the folder of the data. table: the table's file. folder: where the pictures are, if somebody has said so.
    moved: beginnings of paths of another machine, and the folders that stand for them here. tell: see `list_pictures`.
    """

    def __init__(self, root: Path, table: Path, folder: Path | None, tell: Callable[[int], None] | None = None):
        bases = [table.parent, root, *(root / name for name in _BESIDE)]
        self._bases = [str(base) for base in dict.fromkeys([folder] if folder else bases) if base.is_dir()]
        self._root = os.path.abspath(root)
        self.moved: dict[str, str] = {}
        self._tell, self._count = tell, 0

    def find(self, name: str, where: str) -> tuple[str, str] | None:
        """(file, what it is called) for a path of the table; None where there is no such file.

        Raises DatasetError: an address of a web server.
        """
        self._count += 1
        if self._tell is not None and self._count % EVERY == 0:
            self._tell(self._count)
        if re.match(r"^(https?|s3|gs|oss)://", name):
            raise DatasetError(f"{where}: {name[:80]} is an address: fetch the pictures first, and write their paths")
        for spelt in dict.fromkeys([name, name.replace("\\", "/")]):
            if found := self._find(spelt):
                path = os.path.normpath(found)
                below = os.path.relpath(path, self._root)
                return path, path if below.startswith("..") else below.replace(os.sep, "/")
        return None

    def _find(self, name: str) -> str | None:
        if not (os.path.isabs(name) or _WINDOWS.match(name)):
            return next((path for base in self._bases if os.path.isfile(path := os.path.join(base, name))), None)
        if os.path.isfile(name):
            return name
        for start, base in self.moved.items():
            if name.startswith(start) and os.path.isfile(path := os.path.join(base, name[len(start) :])):
                return path
        parts = name.split("/")
        for number in range(1, len(parts)):  # the longest end that is a file here
            end = "/".join(parts[number:])
            for base in self._bases:
                if end and os.path.isfile(path := os.path.join(base, end)):
                    self.moved["/".join(parts[:number]) + "/"] = base
                    return path
        return None

    def looked(self) -> str:
        return shorten(self._bases, 4)

    def notes(self) -> list[str]:
        """Of the paths of another machine."""
        return [printable(f"paths that begin with {start} are read from {base}") for start, base in self.moved.items()]


def refuse_missing(missing: Sequence[Skipped], count: int, places: Places, skip: bool) -> None:
    """Raises DatasetError: files that are not there, and `skip` does not leave them out; or none is there."""
    if missing and (not skip or len(missing) == count):
        first = missing[0]
        more = f", nor are {len(missing) - 1} others of {count}" if len(missing) > 1 else ""
        raise DatasetError(
            f"{first.where}: {first.key} is not there{more}; looked for in {places.looked()}: say where the pictures "
            "are with --image-folder, or leave missing ones out with --skip-bad-images"
        )


@dataclass
class Labels:
    """pictures: with their labels, each file once. missing: what a table names and is not there; without leave to skip,
    `refuse` it. count: of the lines of a table. notes: what somebody who reads numbers of it should know."""

    pictures: list[Picture]
    missing: list[Skipped] = field(default_factory=list)
    places: Places | None = None
    notes: list[str] = field(default_factory=list)

    def refuse_missing(self, skip: bool) -> None:
        """Raises DatasetError: a picture that is not there, unless `skip`."""
        if self.places is not None:
            refuse_missing(self.missing, len(self.pictures) + len(self.missing), self.places, skip)


def labels_of_folders(base: Path, classes: Sequence[str], follow_links: bool, quiet: bool) -> Labels:
    """Of a folder of folders. classes: those that are classes; none for all with pictures. Raises DatasetError."""
    names = classes or folders_with_pictures(base, follow_links)
    found, notes = in_folders(base, names, follow_links, quiet)
    kept, again = without_doubles(found)
    return Labels(kept, notes=[*notes, *again, *same_content(kept)])


def labels_of_table(
    table: Table, columns: Columns, split: str, root: Path, image_folder: Path | None, quiet: bool
) -> Labels:
    """Of a table with labels; `split` counts where it has a column for that. Raises DatasetError."""
    places = Places(root, table.path, image_folder, on_stderr(table.path, quiet))
    found: list[Picture] = []
    missing: list[Skipped] = []
    for where, row in rows_of(table, columns, split):
        (name,) = texts_of(row[columns.path], f"{where}: {columns.path}", several=False)
        (label,) = texts_of(row.get(columns.label), f"{where}: {columns.label}", several=False)
        if place := places.find(name, where):
            found.append(Picture(*place, where, label))
        else:
            missing.append(Skipped(name, where, "is not there"))
    kept, again = without_doubles(found)
    return Labels(kept, missing, places, [*table.notes(), *places.notes(), *again, *same_content(kept)])


def in_folders(base: Path, classes: Sequence[str], follow_links: bool, quiet: bool) -> tuple[list[Picture], list[str]]:
    """The pictures of a folder of folders, by name, each labelled with the folder of `base` that it is in; and notes.

    Raises DatasetError: no pictures in them; a folder that may not be read.
    """
    listed = list_pictures(base, follow_links, on_stderr(base, quiet))
    wanted = set(classes)
    found, stray = [], 0
    for name in listed.names:
        top, slash, _ = name.partition("/")
        if slash and top in wanted:
            path = os.path.join(base, name)
            found.append(Picture(path, name, path, top))
        else:
            stray += 1
    notes = listed.notes()
    again = [name for name in listed.twice if name in wanted]
    if again:
        raise DatasetError(
            f"{base / again[0]}: a link to a folder that is there under another name, so that its pictures have two "
            "labels; take it away"
        )
    if stray:
        notes.append(f"{counted(stray, 'picture')} in {base} in no folder of a class, left out")
    if not found:
        raise DatasetError(f"{base}: no picture is in its folders; {'; '.join(notes) or 'put them there'}")
    return found, notes


def without_doubles(pictures: Iterable[Picture]) -> tuple[list[Picture], list[str]]:
    """The pictures, each file once; and a note on those that were there again under the same label.

    Raises DatasetError: one file under two labels.
    """
    seen: dict[tuple, Picture] = {}
    kept, again = [], 0
    for picture in pictures:
        try:  # `reading` takes longer than the question, a million times
            facts = os.stat(picture.path)
        except OSError as error:
            raise DatasetError(f"{picture.path}: cannot be read ({error.strerror}); put the picture back") from error
        picture = picture._replace(size=facts.st_size)
        file = (facts.st_dev, facts.st_ino) if facts.st_ino else (os.path.realpath(picture.path),)
        first = seen.setdefault(file, picture)
        if first is picture:
            kept.append(picture)
        elif first.label != picture.label:
            raise DatasetError(
                f"{picture.where}: {picture.key} has the label {picture.label!r}, and {first.label!r} in "
                f"{first.where}; one picture has one label: take one out"
            )
        else:
            again += 1
    return kept, [f"{counted(again, 'picture')} named again with the same label, and counted once"] if again else []


def same_content(pictures: Sequence[Picture]) -> list[str]:
    """A note on files of equal content under two labels, of which one must be wrong. Compares files of equal size."""
    by_size: dict[int, list[Picture]] = {}
    for picture in pictures:
        by_size.setdefault(picture.size, []).append(picture)
    alike = [group for group in by_size.values() if len({picture.label for picture in group}) > 1]
    if sum(map(len, alike)) > _COMPARED:
        return []
    doubles = []
    for group in alike:
        by_content: dict[bytes, Picture] = {}
        for picture in group:
            with reading(picture.path, DatasetError), open(picture.path, "rb") as file:
                content = hashlib.sha256(file.read()).digest()
            first = by_content.setdefault(content, picture)
            if first.label != picture.label:
                doubles.append((first, picture))
    if not doubles:
        return []
    first, second = doubles[0]
    return [
        printable(
            f"{counted(len(doubles), 'picture')} under two labels, of which one is wrong: {second.key} "
            f"({second.label}) is the same file as {first.key} ({first.label})"
        )
    ]


def folders_with_pictures(folder: Path, follow_links: bool) -> list[str]:
    """The folders in a folder that have a picture somewhere, by name. Raises DatasetError: it cannot be read."""
    with reading(folder, DatasetError):
        names = sorted(
            path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
        )
    top = os.path.realpath(folder)
    inside = [name for name in names if follow_links or os.path.realpath(folder / name).startswith(top + os.sep)]
    return [name for name in inside if has_picture(folder / name)]


def has_picture(folder: Path) -> bool:
    """Whether there is a picture somewhere in a folder; looks no further than the first."""
    known = suffixes()
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        if any(file.lower().endswith(known) and not file.startswith(".") for file in files):
            return True
    return False
