"""Reading what a gallery is made of: the answers to single queries that were written beside a result."""

from __future__ import annotations

import itertools
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import ZhclipError, printable
from zhclip_openclip._reading import reading
from zhclip_openclip.metrics._npz import OutcomeError, text_of
from zhclip_openclip.metrics.per_query import load_per_query
from zhclip_openclip.metrics.recall import DIRECTIONS, invert
from zhclip_openclip.report.result_json import Unusable, beside, limit_of, named, read_object, shares


@dataclass
class Result:
    """A result read from its files.

    path: the NPZ. queries: its arrays. meta: its description, whose names are texts ('' for none) and whose metrics are
    shares. skipped: whether bad images were left out. limit: of a sample, how many images were asked for. own: how
    own data were read (`own.Reading.described`). notes: what cannot be used of it. text_to_images,
    image_to_texts: right items by position in the NPZ.
    """

    path: Path
    queries: dict[str, Any]
    meta: dict[str, Any]
    skipped: bool
    limit: int | None = None
    own: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    text_to_images: list[list[int]] = field(default_factory=list)
    image_to_texts: list[list[int]] = field(default_factory=list)

    @property
    def directions(self) -> list[str]:
        """Those with answers to show."""
        return [direction for direction in DIRECTIONS if f"{direction}_top" in self.queries]


def read_result(path: str | os.PathLike[str]) -> Result:
    """The per-query file behind a result JSON, or itself, checked.

    Raises:
        ZhclipError: neither JSON nor NPZ; a JSON without a per-query file; a file that is missing or damaged.
    """
    path = Path(path)
    with reading(path):
        there, packed = path.is_file(), zipfile.is_zipfile(path)
    if not there:
        raise ZhclipError(f"{path}: no such file; give the result JSON of clip_benchmark or the NPZ beside it")
    if packed:
        file = path.with_suffix(".json")
        try:
            described = read_object(file) if file.is_file() else {}
        except Unusable:  # not ours, then
            described = {}
        ours = described.get("per_query") == path.name
        return _read_queries(path, described if ours else {})
    try:
        described = read_object(path)
    except Unusable as unusable:
        raise ZhclipError(
            f"{path}: neither a result JSON of clip_benchmark nor the NPZ beside one ({unusable.problem.what})"
        ) from unusable
    name = described.get("per_query")
    if not isinstance(name, str) or not name:
        raise ZhclipError(
            f"{path}: names no per-query file; those are written for Chinese retrieval sets: run clip_benchmark eval "
            "--dataset muge (or flickr30k-cn, coco-cn, own/NAME) again"
        )
    queries = beside(path, name)
    if queries is None:
        raise ZhclipError(f"{path}: its per-query file {named(name)} is not beside it; put it back, or evaluate again")
    return _read_queries(queries, described)


def _read_queries(path: Path, described: dict[str, Any]) -> Result:
    """described: the result JSON; nothing where it is not known."""
    try:
        queries = load_per_query(path)
        meta = queries.pop("meta")
        about = {key: text_of(path, meta, key) for key in ("model", "pretrained", "dataset", "split", "fingerprint")}
    except OutcomeError as error:
        reason = str(error).removeprefix(f"{printable(str(path))}: ")
        raise ZhclipError(f"{path}: not a per-query file, or damaged ({reason}); evaluate again") from error
    metrics, problems = shares(path, meta.get("metrics"))
    result = Result(
        path,
        queries,
        {**meta, **about, "metrics": metrics},
        bool(described.get("skipped_images")),
        limit_of(described),
        described.get("own") if isinstance(described.get("own"), dict) else {},
        [str(one) for one in problems],
    )
    start, item = queries["text_to_images_start"].tolist(), queries["text_to_images_item"]
    result.text_to_images = [item[low:high].tolist() for low, high in itertools.pairwise(start)]
    result.image_to_texts = invert(result.text_to_images, len(queries["image_ids"]))
    if not result.directions:
        raise ZhclipError(f"{path}: has ranks but no best items of any query; evaluate again")
    return result
