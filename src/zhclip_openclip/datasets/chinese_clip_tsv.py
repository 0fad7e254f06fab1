"""Chinese-CLIP's layout: `{split}_imgs.tsv` and `{split}_texts.jsonl`; also MUGE's own names and spelling for it.

    {split}_imgs.tsv       one picture a line: id, tab, base64 of the picture file
    {split}_texts.jsonl    one text a line: {"text_id": 8428, "text": "高级感托特包", "image_ids": [1076345, 517602]}
    MR_{split}_imgs.tsv, MR_{split}_queries.jsonl (Multimodal_Retrieval.zip of MUGE)
                           {"query_id": 8428, "query_text": "高级感托特包", "item_ids": [1076345, 517602]}

Source: the README of https://github.com/OFA-Sys/Chinese-CLIP, "Data Preparation". Both spellings go with both names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, split_spellings
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets._text_lines import text_lines
from zhclip_openclip.datasets._tsv_index import TsvImages

LOOKS_FOR = "{split}_imgs.tsv with {split}_texts.jsonl (or MR_{split}_imgs.tsv with MR_{split}_queries.jsonl)"
_IMAGES = ("{split}_imgs.tsv", "MR_{split}_imgs.tsv")
_TEXTS = ("{split}_texts.jsonl", "{split}_queries.jsonl", "MR_{split}_queries.jsonl", "MR_{split}_texts.jsonl")
_SPELLINGS = (("text_id", "text", "image_ids"), ("query_id", "query_text", "item_ids"))


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    for spelling in split_spellings(split):
        images = _first(folder, _IMAGES, spelling)
        texts = _first(folder, _TEXTS, spelling)
        if images and texts:
            return Loaded("Chinese-CLIP TSV", TsvImages(images), read_texts(texts))
        if images or texts:
            missing = (_TEXTS if images else _IMAGES)[0].format(split=spelling)
            if images and (folder / "lmdb").is_dir():
                return None
            raise DatasetError(f"{images or texts}: its other half {missing} is not beside it; put it there")
    return None


def read_texts(path: Path) -> Iterator[TextRecord]:
    """The texts of a JSONL file in either spelling, ids as strings.

    Raises:
        DatasetError: with file and line: not UTF-8, no JSON, a field missing or of the wrong kind, an empty file.
    """
    for place, line, complete in text_lines(path):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if not complete:
                raise DatasetError(f"{place}: the last line is cut off: copy the file again") from None
            raise DatasetError(f"{place}: not JSON ({error}); one object a line is needed") from None
        yield _record(entry, place)


def _record(entry: Any, place: str) -> TextRecord:
    if isinstance(entry, dict):
        for id_field, text_field, images_field in _SPELLINGS:
            if id_field in entry and text_field in entry:
                images = entry.get(images_field) or []
                if not isinstance(images, list):
                    images = [images]
                return TextRecord(str(entry[id_field]), str(entry[text_field]), [str(image) for image in images], place)
    wanted = " or ".join("{" + ", ".join(spelling) + "}" for spelling in _SPELLINGS)
    found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
    raise DatasetError(f"{place}: an object with {wanted} is needed, here is {found}; rename the fields")


def _first(folder: Path, patterns: tuple[str, ...], split: str) -> Path | None:
    for pattern in patterns:
        path = folder / pattern.format(split=split)
        if path.is_file():
            return path
    return None
