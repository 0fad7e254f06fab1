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
from zhclip_openclip.metrics.recall import RetrievalScores

FORMAT_VERSION = 1


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
    """All arrays by key, `meta` as a dict. Nothing in the file is executed (no pickles)."""
    with np.load(path, allow_pickle=False) as file:
        result: dict[str, Any] = {key: file[key] for key in file.files}
    result["meta"] = json.loads(str(result["meta"]))
    return result
