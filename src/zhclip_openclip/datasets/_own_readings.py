"""As what somebody's own folder can be read: all readings that fit, so that nothing is guessed where there are two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._own_files import folders_with_pictures
from zhclip_openclip.datasets._own_tables import SUFFIXES, Columns, NoColumns, Table, columns_of, read_table

CLASSIFICATION, RETRIEVAL = "zeroshot_classification", "zeroshot_retrieval"
#: Value of --layout -> what it is called, and the task.
LAYOUTS = {
    "folders": ("a folder of folders", CLASSIFICATION),
    "labels": ("a table of paths and labels", CLASSIFICATION),
    "captions": ("a table of paths and captions", RETRIEVAL),
    "chinese-clip": ("Chinese-CLIP's layout", RETRIEVAL),
}
#: What parts of a data set are called, each with its other spellings.
_SPLITS = {
    "train": ("train", "training", "训练", "训练集"),
    "valid": ("valid", "val", "validation", "dev", "验证", "验证集"),
    "test": ("test", "testing", "eval", "测试", "测试集"),
}
_SPLIT_OF = {spelling: split for split, spellings in _SPLITS.items() for spelling in spellings}
_PART = re.compile(r"(?:^|(?<=[_.-]))(" + "|".join(sorted(_SPLIT_OF, key=len, reverse=True)) + r")(?=$|[_.-])", re.I)


@dataclass
class Candidate:
    """One reading. why: what it was recognised by. splits: name -> the file or folder of that part; empty where there
    are no parts. place: the file or folder of a set without parts. in_column: the parts are values of a column."""

    layout: str
    why: str
    splits: dict[str, Path | None] = field(default_factory=dict)
    place: Path | None = None
    columns: Columns | None = None
    table: Table | None = None
    classes: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        return LAYOUTS[self.layout][1]

    @property
    def title(self) -> str:
        return LAYOUTS[self.layout][0]


@dataclass
class Found:
    """candidates: all readings that fit. reasons: why others do not, for the error where there is none."""

    candidates: list[Candidate] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def split_of(name: str) -> str | None:
    """`test` for `testing` or `测试集`; None for what is no name of a part."""
    return _SPLIT_OF.get(name.lower())


def readings(root: Path, file: Path | None, columns: dict[str, str] | None, follow_links: bool) -> Found:
    """All that a folder can be read as. file: a table that somebody has named, which leaves no other. columns: of it.

    Raises DatasetError: a table that is damaged, or whose columns may be two things.
    """
    found = Found()
    if file is None:
        _chinese_clip(root, found)
    for tables in [[file]] if file is not None else _tables(root, bool(found.candidates)):
        try:
            found.candidates += _of_tables(root, tables, columns)
        except NoColumns as error:
            found.reasons.append(str(error))
    if file is None:
        _folders(root, found, follow_links)
    return found


def _chinese_clip(root: Path, found: Found) -> None:
    splits: dict[str, Path | None] = {}
    half = []
    for images in sorted(root.glob("*_imgs.tsv")):
        split = images.name.removesuffix("_imgs.tsv").removeprefix("MR_")
        try:
            if chinese_clip_tsv.pair(root, split):
                splits[split] = None
        except DatasetError as error:
            half.append(str(error))
    forms = ["TSV"] if splits else []
    lmdb = chinese_clip_lmdb.splits(root)
    splits.update(dict.fromkeys(lmdb))
    forms += ["LMDB"] if lmdb else []
    if splits:
        files = {"TSV": "*_imgs.tsv with *_texts.jsonl", "LMDB": "lmdb/"}
        why = f"there is {' and '.join(files[form] for form in forms)}"
        found.candidates.append(Candidate("chinese-clip", why, splits))
    found.reasons += half


def _tables(root: Path, chinese_clip: bool) -> Iterator[list[Path]]:
    """The tables in a folder, those of the parts of one set together; but for those of Chinese-CLIP's layout."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(root.iterdir()):
        halves = ("_imgs.tsv", "_texts.jsonl", "_queries.jsonl") if chinese_clip else ("_imgs.tsv",)
        hidden = path.name.startswith((".", "~$"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.endswith(halves) and not hidden:
            stem = _PART.sub("*", path.stem, count=1)
            groups.setdefault((stem if "*" in stem else path.stem, path.suffix.lower()), []).append(path)
    yield from groups.values()


def _of_tables(root: Path, tables: list[Path], columns: dict[str, str] | None) -> list[Candidate]:
    splits: dict[str, Path | None] = {}
    for path in tables:
        part = _PART.search(path.stem)
        if part:
            splits[_SPLIT_OF[part[1].lower()]] = path
    first = splits.get("test") or tables[0]
    table = read_table(first, columns)
    there = columns_of(table, columns)
    place = None if splits else first
    if there.split is not None:
        values = dict.fromkeys(str(row.get(there.split, "")).strip() for _, row in table.rows)
        splits = {name: first for name in values if name}
    result = []
    shown = first.relative_to(root) if first.is_relative_to(root) else first
    words = f"{shown} ({table.form}, {table.encoding}, {len(table.rows):,} lines) has"
    if there.label is not None:
        why = f"{words} the columns {there.path} and {there.label}"
        result.append(Candidate("labels", why, splits, place, there, table))
    if there.captions:
        why = f"{words} the columns {there.path} and {', '.join(there.captions)}"
        result.append(Candidate("captions", why, splits, place, there, table))
    return result


def _folders(root: Path, found: Found, follow_links: bool) -> None:
    names = folders_with_pictures(root, follow_links)
    parts = {}
    if names and all(split_of(name) for name in names):
        parts = {name: folders_with_pictures(root / name, follow_links) for name in names}
        if not all(parts.values()):
            found.reasons.append(f"{root}: {shorten(names)} are names of parts, and hold no folders of classes")
            return
        splits: dict[str, Path | None] = {name: root / name for name in names}
        why = f"{shorten(names)} hold folders of pictures: {shorten(next(iter(parts.values())))}"
        found.candidates.append(Candidate("folders", why, splits))
    elif len(names) > 1 or (names and not found.candidates and not found.reasons):
        why = f"pictures lie in {len(names)} folders ({shorten(names)})"
        if not found.candidates:
            why += " and no table says what they are"
        found.candidates.append(Candidate("folders", why, {}, root, classes=names))
