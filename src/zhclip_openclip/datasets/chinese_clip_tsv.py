"""Chinese-CLIP's layout: `{split}_imgs.tsv` and `{split}_texts.jsonl`; also MUGE's own names and spelling for it.

    {split}_imgs.tsv       one picture a line: id, tab, base64 of the picture file
    {split}_texts.jsonl    one text a line: {"text_id": 8428, "text": "高级感托特包", "image_ids": [1076345, 517602]}
    MR_{split}_imgs.tsv, MR_{split}_queries.jsonl (Multimodal_Retrieval.zip of MUGE)
                           {"query_id": 8428, "query_text": "高级感托特包", "item_ids": [1076345, 517602]}

Source: the README of https://github.com/OFA-Sys/Chinese-CLIP, "Data Preparation". Both spellings go with both names,
and each field may have either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import shorten
from zhclip_openclip.datasets._dataset_error import DatasetError, Incomplete
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, split_spellings
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets._text_lines import json_lines
from zhclip_openclip.datasets._tsv_index import TsvImages

LOOKS_FOR = "{split}_imgs.tsv with {split}_texts.jsonl (or MR_{split}_imgs.tsv with MR_{split}_queries.jsonl)"
_IMAGES = ("{split}_imgs.tsv", "MR_{split}_imgs.tsv")
_TEXTS = ("{split}_texts.jsonl", "{split}_queries.jsonl", "MR_{split}_queries.jsonl", "MR_{split}_texts.jsonl")
_SPELLINGS = (("text_id", "text", "image_ids"), ("query_id", "query_text", "item_ids"))


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    found = pair(folder, split)
    return Loaded("Chinese-CLIP TSV", TsvImages(found[0]), read_texts(found[1])) if found else None


def pair(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The files of pictures and texts of a split; None without any. Raises Incomplete: one of them alone."""
    for spelling in split_spellings(split):
        images = _first(folder, _IMAGES, spelling)
        texts = _first(folder, _TEXTS, spelling)
        if images and texts:
            return images, texts
        if images or texts:
            missing = (_TEXTS if images else _IMAGES)[0].format(split=spelling)
            raise Incomplete(f"{images or texts}: its other half {missing} is not beside it; put it there")
    return None


def read_texts(path: Path) -> Iterator[TextRecord]:
    """The texts of a JSONL file in either spelling, ids as strings.

    Raises:
        DatasetError: with file and line: not UTF-8, no JSON, a field missing or of the wrong kind, an empty file.
    """
    for place, entry in json_lines(path):
        yield _record(entry, place)


def _record(entry: object, place: str) -> TextRecord:
    """A line by its schema: id and text are texts or numbers, the images a list of such, or one."""
    if not isinstance(entry, dict):
        raise DatasetError(f"{place}: an object with {_wanted()} is needed, here is {_kind(entry)}; rename the fields")
    key, text, images = (_field(entry, names, place) for names in zip(*_SPELLINGS, strict=True))
    return TextRecord(
        _scalar(entry[key], f"{place}: {key}"),
        _scalar(entry[text], f"{place}: {text}"),
        _image_ids(entry[images], f"{place}: {images}"),
        place,
    )


def _field(entry: dict[str, Any], names: tuple[str, ...], place: str) -> str:
    """The name that a field has in an entry."""
    there = [name for name in names if name in entry]
    if len(there) > 1:
        raise DatasetError(f"{place}: has {' and '.join(there)}, which are two names of one field; take one out")
    if there:
        return there[0]
    found = shorten(entry, 8) or "nothing"
    if names[0] == "image_ids" and "test" in Path(place).name and not any("im" in name.lower() for name in entry):
        # Of MUGE's test split the answers are kept for its leaderboard, and its file has no such field.
        raise DatasetError(
            f"{place}: there is no {' or '.join(names)}, here are {found}; take a split that has answers: MUGE's "
            "published numbers are on --split valid"
        )
    raise DatasetError(
        f"{place}: there is no {' or '.join(names)}, here are {found}; an object with {_wanted()} is needed: rename "
        "the field"
    )


def _image_ids(value: object, place: str) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [_scalar(image, place) for image in values]


def _scalar(value: object, place: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise DatasetError(f"{place} is {_kind(value)}; a text or a number is needed")


def _kind(value: object) -> str:
    if isinstance(value, float):
        return "no number (NaN or infinite)" if not math.isfinite(value) else "a number"
    names = {type(None): "null", bool: "true or false", int: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")


def _wanted() -> str:
    return " or ".join("{" + ", ".join(spelling) + "}" for spelling in _SPELLINGS)


def _first(folder: Path, patterns: tuple[str, ...], split: str) -> Path | None:
    for pattern in patterns:
        path = folder / pattern.format(split=split)
        if path.is_file():
            return path
    return None
