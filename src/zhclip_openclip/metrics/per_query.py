"""Per-query results beside the metrics: one compressed NPZ, to look at errors and to compute significance later.

Keys, for each direction D ('image_retrieval', 'text_retrieval') that was scored, with Q queries:

    D_rank          (Q,) int32      rank of the first right item, from 1; 0 for a query without any right item
    D_top           (Q, 10) int32   positions of the ten best items, best first; -1 where there are fewer
    D_counted       (Q,) bool       whether the query is in the recall (an image without texts is not)

and for all:

    image_ids       (n,) str        ids by position: the items of image_retrieval, the queries of text_retrieval
    text_ids        (t,) str
    text_to_images_start, text_to_images_item   the right images of text t are item[start[t]:start[t + 1]]
    meta            () str          JSON: format version, dataset, split, fingerprint, metrics, and what the caller adds
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhclip_openclip._files import whole_file
from zhclip_openclip.metrics._npz import Form, OutcomeError, inside, read_npz, require
from zhclip_openclip.metrics.recall import DIRECTIONS, RetrievalScores

FORMAT_VERSION = 1
_FORMS = {
    "image_ids": Form("U", 1),
    "text_ids": Form("U", 1),
    "text_to_images_start": Form("i", 1),
    "text_to_images_item": Form("i", 1),
    **{f"{way}_rank": Form("i", 1, needed=False) for way in DIRECTIONS},
    **{f"{way}_counted": Form("b", 1, needed=False) for way in DIRECTIONS},
    **{f"{way}_top": Form("i", 2, needed=False) for way in DIRECTIONS},
}


def save_per_query(
    path: str | os.PathLike[str],
    scores: RetrievalScores,
    *,
    image_ids: Sequence[str],
    text_ids: Sequence[str],
    text_to_images: Sequence[Sequence[int]],
    meta: dict[str, Any] | None = None,
) -> Path:
    """Writes the file under a temporary name and renames it, so that a file of this name is always whole.

    Args:
        path: where to; `.npz` is added if it isn't there.
        scores: from `recall.score_retrieval`.
        image_ids, text_ids: ids by position.
        text_to_images: the relations that were scored.
        meta: anything JSON can hold: model, dataset, split, fingerprint, package versions.

    Returns:
        The path written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    lengths = np.array([len(right) for right in text_to_images], dtype=np.int64)
    arrays: dict[str, np.ndarray] = {
        "image_ids": np.array([str(name) for name in image_ids], dtype=np.str_),
        "text_ids": np.array([str(name) for name in text_ids], dtype=np.str_),
        "text_to_images_start": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "text_to_images_item": np.array([item for right in text_to_images for item in right], dtype=np.int32),
        "meta": np.array(json.dumps({"format": FORMAT_VERSION, **(meta or {})}, ensure_ascii=False)),
    }
    for direction, ranks in scores.ranks.items():
        arrays[f"{direction}_rank"] = ranks.astype(np.int32)
        arrays[f"{direction}_counted"] = scores.counted[direction]
        if direction in scores.top:
            arrays[f"{direction}_top"] = scores.top[direction].astype(np.int32)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def load_per_query(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All arrays by key, `meta` as a dict. Nothing in the file is executed (no pickles), and all of it fits: positions
    are those of items that there are, ranks are 0 or those of candidates.

    Raises OutcomeError: no such file, a damaged one, or one of another format.
    """
    queries = read_npz(path, _FORMS)
    if queries["meta"].get("format") != FORMAT_VERSION:
        told = repr(queries["meta"].get("format"))[:40]
        raise OutcomeError(f"{path}: format {told}, this version reads {FORMAT_VERSION}")
    start, item = queries["text_to_images_start"], queries["text_to_images_item"]
    images, texts = len(queries["image_ids"]), len(queries["text_ids"])
    require(path, len(start) == texts + 1 and start[0] == 0 and start[-1] == len(item) and (np.diff(start) >= 0).all())
    require(path, inside(item, 0, images - 1))
    for direction in DIRECTIONS:
        asked, there = (texts, images) if direction == "image_retrieval" else (images, texts)
        if f"{direction}_rank" not in queries:
            require(path, not {f"{direction}_counted", f"{direction}_top"} & set(queries))
            continue
        rank, counted = queries[f"{direction}_rank"], queries.get(f"{direction}_counted")
        if counted is None:
            raise OutcomeError(f"{path}: has no {direction}_counted")
        require(path, rank.shape == counted.shape == (asked,) and inside(rank, 0, there))
        top = queries.get(f"{direction}_top")
        require(path, top is None or (len(top) == asked and inside(top, -1, there - 1)))
    return queries
