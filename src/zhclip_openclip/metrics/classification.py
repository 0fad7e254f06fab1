"""Metrics of classification, with CLIP_benchmark's definitions under its names, and those of the published tables.

One label an image (N images, C classes, s the scores, y the labels):

    acc1, acc5                  share of images whose label is among the 1 or 5 classes that score highest, in the order
                                of `torch.topk`; acc5 is nan with fewer than 5 classes
    recall_c                    |{i : y_i = c, argmax s_i = c}| / |{i : y_i = c}|
    mean_per_class_recall       mean of recall_c over the classes that occur; scikit-learn's balanced accuracy
    per_class_accuracy          class name -> recall_c, None for a class that does not occur
    mean_per_class_accuracy     the same number as mean_per_class_recall, under the name it is published by: FGVC
                                Aircraft, Oxford Pets, Caltech-101 and Oxford Flowers

Several labels an image:

    AP_c                        mean over the images that have c of the precision at their place in the list sorted by
                                s_c (0 where none has it)
    mean_average_precision      mean of AP_c over all classes
    per_class_average_precision class name -> AP_c, None for a class that does not occur
    map_11_points               for r = 0, 0.1, ..., 1 the highest precision at a recall of at least r, mean over r,
                                then over the classes that occur; equal scores are taken together, and at recall 0
                                the precision is 1, that of nothing found. Pascal VOC

Sources: CLIP_benchmark 1.6.2, `metrics/zeroshot_classification.py`; ELEVATER (Li et al. 2022, arXiv:2204.08790), which
names the metric of each data set, and whose 11-point mAP is that of Microsoft's `vision-evaluation`; Everingham et al.
2010 for the 11 points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zhclip_openclip.features import finite, ranks
from zhclip_openclip.features.image_pass import ImagePass
from zhclip_openclip.features.progress import note
from zhclip_openclip.features.spent import SCORING, timed
from zhclip_openclip.metrics._best_scores import BestScores, columns_of
from zhclip_openclip.prompts import checks, registry
from zhclip_openclip.prompts._errors import PromptError


def run_classification(
    model, classifier: torch.Tensor, dataloader, device: str, amp: bool = True, what: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of all images against a classifier, as CLIP_benchmark's function of this name computes them.

    classifier: (dimensions, classes) of unit columns. what: the data set's name, for people.

    Returns (images, classes) scores in float32, and what came with the images: (images,) labels, or (images, classes).

    Of several processes rank 0 gets them, and the others raise Elsewhere. Scores of more than `ranks.gather_limit`
    bytes are `BestScores` there; several labels an image need all scores.

    Raises FiniteError: features of an image, a column of the classifier or scores that are not finite.
    """
    finite.check(classifier.T, lambda column: f"the classifier of class {column + 1}", device, amp)
    images = ImagePass(model, dataloader, device, amp, what)
    classes = classifier.shape[1]
    only_best = ranks.size() > 1 and (images.total or 0) * classes * 4 > ranks.gather_limit()
    blocks = []
    for features, target in images:
        with timed(SCORING), torch.no_grad(), torch.autocast(torch.device(device).type, enabled=amp):
            scores = (100.0 * features @ classifier).float().cpu()
        finite.check_images(scores, images.starts[-1], dataloader, what, device, amp)
        best = columns_of(scores) if only_best and target.ndim == 1 else (scores,)
        blocks.append((target.cpu(), *best))
    whole = ranks.gather_rows(blocks, images.starts)
    if not whole:
        raise PromptError(f"{what or 'the data set'} has no images; look at --split and --dataset_root")
    target, *best = whole
    if only_best and target.ndim == 2:
        size = best[0].nbytes / 1e9
        note(f"Note: {what or 'this data set'} has several labels an image: all its scores are here, {size:,.1f} GB")
    return (BestScores(tuple(best), classes) if len(best) > 1 else best[0]), target


def evaluate(logits: torch.Tensor, target: torch.Tensor, classes: Sequence[str], dataset_name: str) -> dict:
    """All metrics of a data set, in CLIP_benchmark's order and then ours.

    Meant for the patch of `clip_benchmark.metrics.zeroshot_classification.evaluate`, after `run_classification`.

    logits: (images, classes). target: (images,) labels, or (images, classes) of zeros and ones.

    Raises PromptError: no images, a label or a number of classes that does not fit. FiniteError: scores that are not
    finite.
    """
    if len(target) == 0:
        raise PromptError(f"{dataset_name} has no images; look at --split and --dataset_root")
    if logits.shape != (len(target), len(classes)):
        raise PromptError(
            f"{dataset_name}: scores of shape {tuple(logits.shape)} for {len(target)} images and {len(classes)} classes"
        )
    if type(logits) is torch.Tensor and not bool(torch.isfinite(logits).all()):  # of BestScores: run_classification
        raise finite.FiniteError(f"{dataset_name}: scores that are not finite; look at the weights, or try --no_amp")
    checks.inside(target, classes, dataset_name)
    with timed(SCORING):
        return (_several_labels if target.ndim == 2 else _one_label)(logits, target, classes, dataset_name)


def _one_label(logits: torch.Tensor, target: torch.Tensor, classes: Sequence[str], dataset_name: str) -> dict:
    # One call for both, since torch.topk's order among equal scores depends on k: these are CLIP_benchmark's numbers.
    best = logits.topk(5 if len(classes) >= 5 else 1, dim=1).indices == target[:, None]
    recalls = per_class_recall(logits.argmax(dim=1), target, len(classes))
    mean = float(np.mean(recalls[~np.isnan(recalls)]))
    metrics = {
        "acc1": int(best[:, 0].sum()) / len(target),
        "acc5": int(best.sum()) / len(target) if len(classes) >= 5 else float("nan"),
        "mean_per_class_recall": mean,
        "per_class_accuracy": _by_name(classes, recalls),
    }
    if _published_metric(dataset_name) == "mean_per_class_accuracy":
        metrics["mean_per_class_accuracy"] = mean
    return metrics


def _several_labels(logits: torch.Tensor, target: torch.Tensor, classes: Sequence[str], dataset_name: str) -> dict:
    precisions = average_precision_per_class(logits, target)
    occurs = target.bool().any(dim=0)
    metrics = {
        "mean_average_precision": precisions.mean().item(),
        "per_class_average_precision": _by_name(classes, torch.where(occurs, precisions, torch.nan).double().numpy()),
    }
    if _published_metric(dataset_name) == "map_11_points":
        metrics["map_11_points"] = map_11_points(logits, target)
    return metrics


def per_class_recall(predicted: torch.Tensor, target: torch.Tensor, classes: int) -> np.ndarray:
    """(classes,) share of the images of each class that are predicted as it; nan for a class without images."""
    images = torch.bincount(target, minlength=classes).double().numpy()
    hits = torch.bincount(target[predicted == target], minlength=classes).double().numpy()
    return np.divide(hits, images, out=np.full(classes, np.nan), where=images > 0)


def average_precision_per_class(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(classes,) AP of each class, 0 for one that no image has. scores, target: (images, classes)."""
    places = torch.arange(1, len(scores) + 1, dtype=torch.float32)
    result = torch.zeros(scores.shape[1])
    for c in range(scores.shape[1]):  # a column at a time: the order of equal scores is then CLIP_benchmark's
        right = target[torch.sort(scores[:, c], 0, True).indices, c].bool()
        precision = right.float().cumsum(0) / places
        result[c] = precision[right].sum() / max(int(right.sum()), 1)
    return result


def map_11_points(scores: torch.Tensor, target: torch.Tensor) -> float:
    """Mean 11-point interpolated average precision over the classes that occur; 0 if none does.

    scores, target: (images, classes).
    """
    # From 1 downwards as in the original: 1 - 0.7 is not 0.3, and a recall of exactly 0.3 decides which point it meets.
    points = np.linspace(1, 0, 11)
    values = []
    for c in torch.where(target.bool().any(dim=0))[0].tolist():
        precision, recall = _precision_recall(scores[:, c], target[:, c].bool())
        values.append(np.mean([precision[recall >= point].max() for point in points]))
    return float(np.mean(values)) if values else 0.0


def _precision_recall(scores: torch.Tensor, right: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each different score as threshold, and for nothing found (precision 1, recall 0)."""
    ordered, indices = torch.sort(scores, descending=True)
    last = torch.ones(len(ordered), dtype=torch.bool)  # the last of a run of equal scores
    last[:-1] = ordered[:-1] != ordered[1:]
    hits = right[indices].double().cumsum(0)[last].numpy()
    found = torch.arange(1, len(ordered) + 1).double()[last].numpy()
    return np.append(hits / found, 1.0), np.append(hits / hits[-1], 0.0)


def _published_metric(dataset_name: str) -> str | None:
    dataset = registry.find(dataset_name)
    return dataset.published_metric if dataset else None


def _by_name(classes: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    """Name -> value, None for nan, which is no JSON. Names that occur twice get their number."""
    result: dict[str, float | None] = {}
    for index, (name, value) in enumerate(zip(classes, values.tolist(), strict=True)):
        result[f"{name} ({index})" if name in result else name] = None if np.isnan(value) else value
    return result
