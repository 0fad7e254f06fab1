"""Which images a probe is trained on, and which it is chosen by.

All choices are of a seed: the same seed chooses the same images on every machine, whatever else has drawn random
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zhclip_openclip._errors import shorten
from zhclip_openclip.probes._errors import ProbeError
from zhclip_openclip.prompts import checks

#: Folds of a few shots, and the share of all data that is held out: a fifth.
FOLDS = 5


def choose(labels: torch.Tensor, shots: int, seed: int) -> torch.Tensor:
    """Indices of `shots` images of each class, of all images with a negative number; in the order that
    clip_benchmark 1.6.2 (`metrics/linear_probe.py`) takes after `torch.manual_seed(seed)`.

    labels: (n,) ints.

    Raises ProbeError: see `check`.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if shots < 0:
        return order
    counts: dict[int, int] = {}
    chosen = []
    for index, label in zip(order.tolist(), labels[order].tolist(), strict=True):
        if counts.setdefault(label, 0) < shots:
            counts[label] += 1
            chosen.append(index)
    return torch.tensor(chosen)


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(n,) fold of each image, 0..count-1, each class spread over them as evenly as it goes; -1 for the image of a
    class that has no other, which is always trained on."""
    random = np.random.default_rng(seed)
    result = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        result[rows] = np.arange(len(rows)) % count if len(rows) > 1 else -1
    return result


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices that stay, indices held out): of each class the share, at least one image and never the last one.

    Raises ProbeError: a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ProbeError(f"--val_proportion {share}: give a share of the train split between 0 and 1, for example 0.2")
    random = np.random.default_rng(seed)
    out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        out[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def check(labels: torch.Tensor, classes: Sequence[str], shots: int, place: str) -> None:
    """Of the labels of a train split, before anything is trained. place: data set and split, for the message.

    Raises ProbeError: none, labels that are no single class, one class alone, fewer images of a class than shots.
    PromptError: a label without a class.
    """
    if shots == 0 or shots < -1:
        raise ProbeError(f"--fewshot_k {shots}: give the number of images of each class, or leave it out for all")
    single(labels, place)
    if not len(labels):
        raise ProbeError(f"{place} has no images; look at --train_split and --dataset_root")
    checks.inside(labels, classes, place)
    counts = dict(zip(*(part.tolist() for part in labels.unique(return_counts=True)), strict=True))
    if len(counts) == 1:
        only = name(next(iter(counts)), classes)
        raise ProbeError(f"{place} has images of one class alone, {only}: there is nothing to tell apart")
    if shots > min(counts.values()):
        short = sorted(counts, key=lambda label: (counts[label], label))
        few = [f"{name(label, classes)} has {counts[label]}" for label in short if counts[label] < shots]
        raise ProbeError(f"--fewshot_k {shots}: {place} has fewer images of a class: {shorten(few)}; give fewer shots")


def check_test(
    labels: torch.Tensor, trained: torch.Tensor, classes: Sequence[str], place: str, trained_on: str
) -> None:
    """Of the labels of a test split: images of classes that the probe has never seen are wrong whatever it answers.

    Raises ProbeError: no images, labels that are no single class, classes that are not among `trained`.
    """
    single(labels, place)
    if not len(labels):
        raise ProbeError(f"{place} has no images; look at --split and --dataset_root")
    unseen = sorted(set(labels.tolist()) - set(trained.tolist()))
    if unseen:
        names = shorten(name(label, classes) for label in unseen)
        raise ProbeError(
            f"{place} has images of {len(unseen)} of its classes that {trained_on} has none of: {names}; a probe never "
            "answers them, so give another --train_split"
        )


def single(labels: torch.Tensor, place: str) -> None:
    """Raises ProbeError: labels (n, ...) that are not one whole number an image."""
    if labels.ndim == 2:
        raise ProbeError(f"{place} has several labels an image, and a linear probe is trained on one")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise ProbeError(f"{place} has labels that are no classes ({labels.dtype}, shape {tuple(labels.shape)})")


def name(label: int, classes: Sequence[str]) -> str:
    """A class for people."""
    return str(classes[label]) if 0 <= label < len(classes) else f"class {label}"
