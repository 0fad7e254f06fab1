"""`own/NAME`: somebody's own pictures with labels or captions, in a folder, under any name.

    own/pets    a folder for each class, whose name is the class; or a CSV, TSV or JSONL with a path and a label a line
    own/shop    a CSV, TSV or JSONL with a path and a caption a line; Chinese-CLIP's TSV with JSONL, or its LMDB

:func:`recognise` looks at the folder and says as what it is read; where two readings fit, it asks. `own_data.py` makes
the data set. docs/own_data.md has all that may be in such a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import counted, printable, shorten
from zhclip_openclip._reading import read_json, reading
from zhclip_openclip.datasets import _own_classes
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._own_files import Labels, folders_with_pictures, labels_of_folders, labels_of_table
from zhclip_openclip.datasets._own_readings import (
    CLASSIFICATION,
    LAYOUTS,
    RETRIEVAL,
    Candidate,
    readings,
    split_of,
)
from zhclip_openclip.datasets._own_tables import Table, parse_columns, read_table, rows_of, texts_of
from zhclip_openclip.datasets.pictures_of import list_pictures, on_stderr

__all__ = ["CLASSIFICATION", "RETRIEVAL", "Asked", "Reading", "asked_again", "check_name", "is_own", "recognise"]

PREFIX = "own/"
#: Says in the folder what the options --layout, --data-file, --columns and --follow-links say elsewhere.
SETTINGS = "own.json"
#: Keys of what a result says of it.
_SAID = ("layout", "file", "columns")


@dataclass(frozen=True)
class Asked:
    """What somebody has said about a folder; None for what they have not.

    split: the part. task: 'zeroshot_classification' or 'zeroshot_retrieval'. layout: one of `LAYOUTS`. file: the table.
    columns: as `parse_columns` takes them. image_folder: where the pictures of a table are. quiet: no lines while it
    lists.
    """

    split: str | None = None
    task: str | None = None
    layout: str | None = None
    file: str | None = None
    columns: str | None = None
    follow_links: bool = False
    image_folder: Path | None = None
    quiet: bool = False


@dataclass
class Reading:
    """As what a folder is read.

    split: the part that is read. splits: all that there are; none where the whole is one.
    """

    name: str
    root: Path
    asked: Asked
    chosen: Candidate
    split: str
    splits: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        return self.chosen.task

    @property
    def place(self) -> Path:
        """The table, or the folder, of the part that is read."""
        return self.chosen.splits.get(self.split) or self.chosen.place or self.root

    @cached_property
    def table(self) -> Table:
        """Of a table: what stands in it."""
        known = self.chosen.table
        if known is not None and known.path == self.place:
            return known
        return self._read(self.place)

    @cached_property
    def labels(self) -> Labels:
        """Of a classification: the pictures with their labels."""
        if self.chosen.layout == "folders":
            return labels_of_folders(self.place, self.chosen.classes, self.asked.follow_links, self.asked.quiet)
        where = self.root, self.asked.image_folder, self.asked.quiet
        return labels_of_table(self.table, self.chosen.columns, self.split, *where)

    def classes(self, language: str | None, classname_file: str | None = None) -> _own_classes.Classes:
        """Of a classification: see `name_classes`."""
        folders = self.chosen.layout == "folders"
        places: dict[str, str] = {}
        for picture in self.labels.pictures:
            if picture.label not in places:
                places[picture.label] = str(self.place / picture.label) if folders else picture.where
        for label, place in self._labels_of_others():
            places.setdefault(label, place)
        lists = self.root
        if not folders and not any((lists / file).is_file() for file in _own_classes.LISTS):
            lists = self.place.parent
        what = "folder" if folders else "label"
        return _own_classes.name_classes(self.name, sorted(places), lists, what, places, language, classname_file)

    def _labels_of_others(self) -> Iterator[tuple[str, str]]:
        """Labels of the other parts and their places: a class has the same number in all of them."""
        for split in self.splits:
            if split == self.split:
                continue
            place = self.chosen.splits[split]
            if self.chosen.layout == "folders":
                yield from ((name, str(place / name)) for name in folders_with_pictures(place, self.asked.follow_links))
                continue
            table = self.table if place == self.table.path else self._read(place)
            column = self.chosen.columns.label
            for where, row in rows_of(table, self.chosen.columns, split):
                yield texts_of(row.get(column), f"{where}: {column}", several=False)[0], where

    def _read(self, table: Path) -> Table:
        return read_table(table, parse_columns(self.asked.columns) if self.asked.columns else None)

    def line(self) -> str:
        """What was recognised and why, in one line."""
        part = f", part {self.split} of {', '.join(self.splits)}" if self.splits else ""
        return printable(f"{self.name} is read as {self.chosen.title}{part}: {self.chosen.why}")

    def described(self) -> dict[str, Any]:
        """What it takes to read the same again (`asked_again`), for a result."""
        table = self.place if self.chosen.layout in ("labels", "captions") and not self.splits else None
        file = os.path.relpath(table, self.root) if table is not None else None
        said = {"layout": self.chosen.layout, "file": file, "columns": self.asked.columns}
        links = {"follow_links": True} if self.asked.follow_links else {}
        return {key: value for key, value in said.items() if value} | links


def asked_again(described: Any, split: str | None, task: str | None = None, image_folder: Path | None = None) -> Asked:
    """What `Reading.described` says in a result, as far as it can be believed."""
    said = described if isinstance(described, dict) else {}
    layout, file, columns = (value if isinstance(value := said.get(key), str) else None for key in _SAID)
    links = said.get("follow_links") is True
    return Asked(split, task, layout, file, columns, links, image_folder, quiet=True)


def is_own(name: str) -> bool:
    """Whether a data set is somebody's own, in shards or not."""
    return name.removeprefix("wds/").startswith(PREFIX) or name == "own"


def check_name(name: str) -> None:
    """Raises DatasetError: no `own/NAME`."""
    if not re.fullmatch(rf"{PREFIX}[^\s/\\]+", name.removeprefix("wds/")) or name.endswith(("/.", "/..")):
        raise DatasetError(f"--dataset {name}: own data have a name of your choice behind {PREFIX}, such as own/pets")


def recognise(name: str, root: str | os.PathLike[str], asked: Asked | None = None) -> Reading:
    """As what the folder of a data set is read.

    name: `own/NAME`. root: the folder.

    Raises DatasetError: no name, no such folder, nothing that can be read (with what is there), several readings that
    fit (with the option that decides), no such part.
    """
    check_name(name)
    root = Path(root).expanduser()
    with reading(root, DatasetError):
        if not root.is_dir():
            what = "is a file" if root.exists() else "is not there"
            raise DatasetError(f"{name}: {root} {what}; --dataset_root is the folder with the pictures")
        return _recognise(name, root, _with_settings(root, asked or Asked()))


# ---------------------------------------------------------------- what it is


def _with_settings(root: Path, asked: Asked) -> Asked:
    """With what `own.json` in the folder says, where nobody has said otherwise."""
    path = root / SETTINGS
    if not path.is_file():
        return asked
    known = {"layout": str, "data-file": str, "columns": str, "follow-links": bool}
    said = read_json(path, DatasetError)
    for key, value in said.items():
        if key not in known or not isinstance(value, known[key]):
            kinds = {str: "a text", bool: "true or false"}
            raise DatasetError(
                f"{path}: {key!r}: {shorten([f'{one} ({kinds[kind]})' for one, kind in known.items()])} can stand there"
            )
    file = asked.file or said.get("data-file")
    links = asked.follow_links or said.get("follow-links", False)
    layout, columns = asked.layout or said.get("layout"), asked.columns or said.get("columns")
    return replace(asked, layout=layout, file=file, columns=columns, follow_links=links)


def _recognise(name: str, root: Path, asked: Asked) -> Reading:
    if asked.layout is not None and asked.layout not in LAYOUTS:
        raise DatasetError(f"--layout {asked.layout}: there are {', '.join(LAYOUTS)}")
    if asked.image_folder is not None and not asked.image_folder.is_dir():
        raise DatasetError(f"--image-folder {asked.image_folder}: there is no such folder")
    file = None
    if asked.file is not None:
        file = next((path for path in (root / asked.file, Path(asked.file)) if path.is_file()), None)
        if file is None:
            raise DatasetError(f"--data-file {asked.file}: there is no such file, neither in {root} nor here")
    columns = parse_columns(asked.columns) if asked.columns else None
    found = readings(root, file, columns, asked.follow_links)
    fitting = [one for one in found.candidates if asked.layout in (None, one.layout)]
    of_task = [one for one in fitting if asked.task in (None, one.task)]
    if not of_task:
        raise DatasetError(_nothing(name, root, asked, fitting, found.candidates, found.reasons))
    if len(of_task) > 1:
        raise DatasetError(_which(name, root, of_task))
    chosen = of_task[0]
    splits = list(chosen.splits)
    split = _split(name, root, splits, asked.split)
    notes = [f"not read: {reason}" for reason in found.reasons]
    return Reading(name, root, asked, chosen, split, splits, notes)


def _split(name: str, root: Path, splits: list[str], asked: str | None) -> str:
    """The part that is read: the one that is asked for, or test, or valid, or the only one."""
    alike = {}
    for split in splits:
        alike.setdefault(split_of(split) or split, split)
    if asked is not None:
        meant = asked if asked in splits else alike.get(split_of(asked) or asked)
        if meant is not None:
            return meant
        if not splits and split_of(asked) == "test":
            return "test"
        whole = f"it is one whole; put pictures or a table for {asked} there"
        there = f"it has {', '.join(splits)}" if splits else whole
        raise DatasetError(f"{name}: {root} has no part {asked}: {there}")
    if not splits:
        return "test"
    chosen = next((alike[split] for split in ("test", "valid") if split in alike), None)
    if chosen is None and len(splits) == 1:
        chosen = splits[0]
    if chosen is None:
        raise DatasetError(f"{name}: {root} has the parts {', '.join(splits)}; say which with --split")
    return chosen


def _which(name: str, root: Path, candidates: list[Candidate]) -> str:
    """The question where several readings fit."""
    told = "; ".join(f"{one.title} ({one.why})" for one in candidates)
    layouts = list(dict.fromkeys(one.layout for one in candidates))
    options = []
    if len(layouts) > 1:
        options.append(f"--layout {' or '.join(layouts)}")
    if len({one.task for one in candidates}) > 1:
        options.append("--task")
    files = list(dict.fromkeys(one.place.name for one in candidates if one.place is not None and one.place.is_file()))
    if len(files) > 1 or not options:
        options.append(f"--data-file {' or '.join(files)}")
    key, value = ("layout", layouts[0]) if len(layouts) > 1 else ("data-file", files[0])
    settings = f'{{"{key}": "{value}"}} in {root / SETTINGS}'
    ways = f"{', or '.join(options)}, or write {settings}"
    return f"{name}: {root} can be read in {len(candidates)} ways: {told}; say which with {ways}"


def _nothing(
    name: str, root: Path, asked: Asked, fitting: list[Candidate], others: list[Candidate], reasons: list[str]
) -> str:
    """What to say where no reading fits."""
    if fitting:
        titles = " and ".join(one.title for one in fitting)
        tasks = " or ".join(dict.fromkeys(one.task for one in fitting))
        return f"--task {asked.task}: {name} is read as {titles}, which is for {tasks}; leave --task out"
    if others:
        there = "; ".join(f"{one.layout} ({one.why})" for one in others)
        return f"--layout {asked.layout}: {root} is no {LAYOUTS[asked.layout or 'folders'][0]}; there is {there}"
    if reasons:
        return f"{name}: {'; '.join(reasons)}"
    if (root / "dataset_type.txt").is_file() or (root / "test" / "nshards.txt").is_file():
        return f"{name}: {root} holds shards of a WebDataset; --dataset wds/{name} reads them"
    listed = list_pictures(root, asked.follow_links, on_stderr(root, asked.quiet))
    if len(listed):
        example = f"{root / '猫'}"
        return (
            f"{name}: {counted(len(listed), 'picture')} in {root}, and nothing says what they are; put those of each "
            f"class into a folder with its name ({example}), or write a table captions.csv with the columns path and "
            "caption"
        )
    notes = listed.notes()
    return f"{name}: there is no picture in {root} ({'; '.join(notes) or f'{listed.entries} other files'}); look at it"
