"""What a classification answered for each image, beside the metrics: one compressed NPZ, the peer of `per_query.py`.

Keys where an image has one label (N images, C classes):

    target          (N,) int32              the label
    predicted       (N,) int32              the class that scores highest, by argmax: what per-class metrics count
    top             (N, min(5, C)) int32    the classes that score highest, best first: what acc1 and acc5 count

`top` is in the order of `torch.topk` with the k that CLIP_benchmark's accuracy asks for (5, or 1 with fewer than 5
classes, the others behind it). Among equal scores its first need not be argmax, so that both are kept. Where an image
has several labels:

    target          (N, C) uint8            1 for each label of the image
    scores          (N, C) float32

and for all:

    meta            () str                  JSON: format version, task, number of classes, metrics, what the caller adds
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zhclip_openclip._files import whole_file
from zhclip_openclip.metrics._errors import MetricError
from zhclip_openclip.metrics._npz import Form, OutcomeError, inside, keys, read_npz, require
from zhclip_openclip.metrics.classification import average_precision_per_class, map_11_points, per_class_recall

FORMAT_VERSION = 1
TASK = "zeroshot_classification"
#: What is believed of a file: the largest set of classes that we know of has 21,841.
MOST_CLASSES = 1_000_000
_ONE_LABEL = {"target": Form("i", 1), "predicted": Form("i", 1), "top": Form("i", 2)}
_SEVERAL_LABELS = {"target": Form("i", 2), "scores": Form("f", 2)}


def save_per_sample(
    path: str | os.PathLike[str], logits: torch.Tensor, target: torch.Tensor, meta: dict[str, Any] | None = None
) -> Path:
    """Writes the file under a temporary name and renames it, so that a file of this name is always whole.

    The same content gives the same bytes.

    Args:
        path: where to; `.npz` is added if it isn't there.
        logits: (images, classes) scores.
        target: (images,) labels, or (images, classes) of zeros and ones.
        meta: anything JSON can hold: model, dataset, split, fingerprint, package versions. Its `metrics` stand in for
            those that are computed here.

    Returns:
        The path written.

    Raises:
        MetricError: shapes that do not fit.
    """
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    logits, target = torch.as_tensor(logits).float().cpu(), torch.as_tensor(target).cpu()
    if logits.ndim != 2 or target.shape not in (logits.shape[:1], logits.shape):
        raise MetricError(f"scores of shape {tuple(logits.shape)} and labels of shape {tuple(target.shape)}")
    if target.ndim == 2:
        arrays = {"target": target.numpy().astype(np.uint8), "scores": logits.numpy()}
    else:
        arrays = {
            "target": target.numpy().astype(np.int32),
            "predicted": logits.argmax(dim=1).numpy().astype(np.int32),
            "top": _top(logits).numpy().astype(np.int32),
        }
    described = {
        "format": FORMAT_VERSION,
        "task": TASK,
        "classes": logits.shape[1],
        "metrics": metrics(arrays, logits.shape[1]),
        **(meta or {}),
    }
    arrays["meta"] = np.array(json.dumps(described, ensure_ascii=False))
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def load_per_sample(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All arrays by key, `meta` as a dict. Nothing in the file is executed (no pickles), and all of it fits: labels and
    answers are those of classes that there are, scores are finite.

    Raises OutcomeError: no such file, a damaged one, or one of another format.
    """
    meta = read_npz(path, {})["meta"]
    if meta.get("format") != FORMAT_VERSION:
        raise OutcomeError(f"{path}: format {repr(meta.get('format'))[:40]}, this version reads {FORMAT_VERSION}")
    classes = meta.get("classes")
    if type(classes) is not int or not 0 < classes <= MOST_CLASSES:
        raise OutcomeError(f"{path}: classes is {repr(classes)[:40]}, no number from 1 to {MOST_CLASSES:,}")
    arrays = read_npz(path, _SEVERAL_LABELS if "scores" in keys(path) else _ONE_LABEL)
    target = arrays["target"]
    if "scores" in arrays:
        require(path, arrays["scores"].shape == target.shape and target.shape[1] == classes and inside(target, 0, 1))
        return {**arrays, "target": target.astype(np.uint8)}
    require(path, inside(target, 0, classes - 1) and arrays["predicted"].shape == target.shape)
    require(path, arrays["top"].shape == (len(target), min(5, classes)))
    require(path, inside(arrays["predicted"], 0, classes - 1) and inside(arrays["top"], 0, classes - 1))
    return arrays


def metrics(arrays: dict[str, np.ndarray], classes: int) -> dict[str, float]:
    """The metrics that the arrays of a file give, under CLIP_benchmark's names; see `classification.py`.

    acc5 is left out with fewer than 5 classes. Without images there are none.
    """
    target = arrays["target"]
    if not len(target):
        return {}
    if target.ndim == 2:
        scores, right = torch.from_numpy(arrays["scores"]), torch.from_numpy(target)
        return {
            "mean_average_precision": average_precision_per_class(scores, right).mean().item(),
            "map_11_points": map_11_points(scores, right),
        }
    hits = arrays["top"] == target[:, None]
    result = {"acc1": int(hits[:, 0].sum()) / len(target)}
    if classes >= 5:
        result["acc5"] = int(hits.sum()) / len(target)
    recalls = per_class_recall(torch.from_numpy(arrays["predicted"]).long(), torch.from_numpy(target).long(), classes)
    result["mean_per_class_recall"] = float(np.mean(recalls[~np.isnan(recalls)]))
    return result


def _top(logits: torch.Tensor) -> torch.Tensor:
    """(images, min(5, classes)) classes, best first, the first of them as CLIP_benchmark's acc1 takes it."""
    classes = logits.shape[1]
    order = logits.topk(min(5, classes), dim=1).indices
    if classes >= 5 or not len(logits):
        return order
    # torch.topk's order among equal scores depends on k, and with fewer than 5 classes k is 1.
    first = logits.topk(1, dim=1).indices
    others = order[order != first].view(len(order), classes - 1)
    return torch.cat([first, others], dim=1)
