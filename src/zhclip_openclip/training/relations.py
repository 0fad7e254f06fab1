"""Which image goes with which text, in a form that a batch can be asked about, and how often things repeat in it.

Texts that read the same are one text here, whatever their ids: a model cannot tell them apart. Images are the same by
their id alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class Relations:
    """The right pairs of images and texts.

    image, text: (n,) positions of the two sides of each right pair; the same pair may stand there several times.
    images: how many images there are.
    """

    def __init__(self, image: np.ndarray, text: np.ndarray, images: int) -> None:
        self.images = images
        width = int(text.max(initial=0)) + 1
        codes = np.unique(np.asarray(image, np.int64) * width + np.asarray(text, np.int64))
        self._text = codes % width
        self._start = np.searchsorted(codes // width, np.arange(images + 1))
        self.image = codes // width

    @property
    def text(self) -> np.ndarray:
        """(m,) texts of the distinct right pairs, in the order of `image`."""
        return self._text

    def positives(self, image: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The right pairs within a batch.

        image, text: (n,) the images and the texts of a batch.

        Returns (rows, columns): image `image[rows[k]]` goes with text `text[columns[k]]`, each such place once, in the
        order of the rows.
        """
        order = np.argsort(text, kind="stable")
        known = text[order]
        rows, places = _ranges(self._start[image], self._start[image + 1])
        texts = self._text[places]
        which, positions = _ranges(np.searchsorted(known, texts, "left"), np.searchsorted(known, texts, "right"))
        return rows[which], order[positions]


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of all the ranges start[k]..stop[k], one range after another, and the k of each."""
    length = stop - start
    which = np.repeat(np.arange(len(length)), length)
    within = np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length)
    return which, start[which] + within


def same_texts(texts: Sequence[str]) -> np.ndarray:
    """(n,) a number for each text, the same for texts that read the same."""
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), np.int64, len(texts))


@dataclass(frozen=True)
class Repeats:
    """How often things repeat in a batch of pairs drawn at random.

    pairs, texts, images: in all. batch: pairs in a batch, over all processes and accumulated steps.
    false_negatives: expected right answers among the batch - 1 texts that open_clip's loss takes for wrong, per image.
    distinct_texts, distinct_images: expected in a batch.
    most_of_a_text, most_of_an_image: pairs that the most frequent one stands in.
    """

    pairs: int
    texts: int
    images: int
    batch: int
    false_negatives: float
    distinct_texts: float
    distinct_images: float
    most_of_a_text: int
    most_of_an_image: int

    @property
    def accuracy_bound(self) -> float:
        """What the accuracy within such a batch cannot exceed in expectation, with each pair alone counted as right:
        of rows that are the same, one is answered rightly."""
        return min(self.distinct_texts, self.distinct_images) / self.batch


def repeats(image: np.ndarray, text: np.ndarray, relations: Relations, batch: int) -> Repeats:
    """The expectations for batches of `batch` pairs, drawn without replacement from the n pairs (image[k], text[k])."""
    n = len(image)
    texts, images = np.bincount(text), np.bincount(image, minlength=relations.images)
    right = float((images[relations.image].astype(float) * texts[relations.text]).sum()) - n
    rate = right / (n * (n - 1)) if n > 1 else 0.0
    return Repeats(
        n,
        int((texts > 0).sum()),
        int((images > 0).sum()),
        batch,
        (batch - 1) * rate,
        _distinct(texts, n, batch),
        _distinct(images, n, batch),
        int(texts.max()),
        int(images.max()),
    )


def _distinct(counts: np.ndarray, n: int, batch: int) -> float:
    """Expected number of kinds among `batch` of n things, with counts[k] of kind k: sum of 1 - C(n-c, b) / C(n, b)."""
    import torch

    sizes, how_many = np.unique(counts[counts > 0], return_counts=True)
    batch = min(batch, n)
    fits = sizes <= n - batch  # with more than that, one of the kind is in any batch

    def log(x) -> np.ndarray:  # of the factorial
        return torch.lgamma(torch.as_tensor(x, dtype=torch.float64) + 1).numpy()

    absent = np.zeros(len(sizes))
    c = sizes[fits].astype(float)
    if len(c):
        absent[fits] = np.exp(log(n - c) - log(n - c - batch) - log(float(n)) + log(float(n - batch)))
    return float((how_many * (1 - absent)).sum())
