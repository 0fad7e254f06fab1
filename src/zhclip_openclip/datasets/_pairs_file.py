"""`pairs.json`, the sidecar of an export: read by its schema, so that nothing in it is believed unseen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._reading import read_json
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._relations import TextRecord

PAIRS = "pairs.json"
DIRECTIONS = ("image_retrieval", "text_retrieval")


class Pairs(NamedTuple):
    """What a sidecar holds. sizes: bytes of each picture in the shards. records: the texts with ids of images."""

    dataset: str
    split: str
    directions: tuple[str, ...]
    notes: list[str]
    images: list[str]
    sizes: list[int]
    records: list[TextRecord]


def read_pairs(path: Path) -> Pairs:
    """The contents of a sidecar.

    Raises DatasetError: no JSON, a field that is missing or of the wrong kind, an image position outside the list.
    """
    try:
        return _checked(read_json(path, DatasetError), path)
    except ZhclipError as error:
        raise DatasetError(f"{path}: damaged ({str(error).removeprefix(f'{path}: ')}); export again") from error


def _checked(content: dict[str, Any], path: Path) -> Pairs:
    images = _list(content, "images", str)
    sizes = _list(content, "sizes", int)
    directions = tuple(dict.fromkeys(_list(content, "directions", str)))
    if not directions or not set(directions) <= set(DIRECTIONS):
        raise DatasetError(f"directions are {' and '.join(DIRECTIONS)}, or one of them")
    if len(set(images)) != len(images):
        raise DatasetError("images has an id twice")
    if len(sizes) != len(images):
        raise DatasetError(f"{len(sizes)} sizes for {len(images)} images")
    records = []
    for number, entry in enumerate(_list(content, "texts", dict)):
        where = f"texts[{number}]"
        places = _list(entry, "images", int, where)
        outside = [place for place in places if not 0 <= place < len(images)]
        if outside:
            raise DatasetError(f"{where} names image {outside[0]}, and there are {len(images)}")
        key, text = (_field(entry, name, str, where) for name in ("id", "text"))
        records.append(TextRecord(key, text, [images[place] for place in places], f"{path}[{number}]"))
    notes = _list(content, "notes", str) if "notes" in content else []
    dataset, split = (_field(content, name, str) for name in ("dataset", "split"))
    return Pairs(dataset, split, directions, notes, images, sizes, records)


def _field(content: dict[str, Any], name: str, kind: type, where: str = "") -> Any:
    place = f"{where} has" if where else "it has"
    if name not in content:
        raise DatasetError(f"{place} no {name!r}")
    if type(content[name]) is not kind:
        raise DatasetError(f"{place} a {type(content[name]).__name__} as {name!r}, a {kind.__name__} is needed")
    return content[name]


def _list(content: dict[str, Any], name: str, kind: type, where: str = "") -> Sequence[Any]:
    values = _field(content, name, list, where)
    for number, value in enumerate(values):
        if type(value) is not kind:
            raise DatasetError(f"{where}{'.' if where else ''}{name}[{number}] is no {kind.__name__}")
    return values
