"""The pairs of one or more retrieval sets as training data: an image with one of its texts is a sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from zhclip_openclip.training.images import InOneTensor
from zhclip_openclip.training.relations import Relations, same_texts


class Pairs:
    """Map-style: `pairs[k]` is (image, token ids, image number, text number) of pair k, in the order of the images.

    A text with several images and an image with several texts give all their pairs. Random access, picklable, and
    usable from several workers, forked or spawned.

    Attributes:
        image, text: (n,) int64, the image and the text of each pair. Images are numbered through all sets; texts that
            read the same have one number.
        source: (n,) int64, the set that each pair is from.
        relations: all right pairs of images and texts, across the sets.
    """

    def __init__(
        self,
        sets: Sequence[Any],
        transform: Callable[[Any], Any],
        tokenizer: Callable[[list[str]], Any],
    ) -> None:
        """sets: `RetrievalDataset`s. transform: for pictures. tokenizer: list of texts -> (texts, length) ids."""
        self.sets = list(sets)
        for dataset in self.sets:
            dataset.transform = transform
        self.tokenizer = tokenizer
        self._in_one = InOneTensor(transform)
        self._begun = [_with_transform(dataset, self._in_one.first) for dataset in self.sets]
        self._first_image = np.cumsum([0, *(len(dataset) for dataset in self.sets)])
        kinds = same_texts([entry.text for dataset in self.sets for entry in dataset.texts])
        first_text = np.cumsum([0, *(len(dataset.texts) for dataset in self.sets)])
        image, entry, source = [], [], []
        for number, dataset in enumerate(self.sets):
            counts = np.fromiter((len(right) for right in dataset.image_to_texts), np.int64, len(dataset))
            image.append(np.repeat(np.arange(len(dataset)), counts) + self._first_image[number])
            entry.append(np.fromiter((t for right in dataset.image_to_texts for t in right), np.int64, counts.sum()))
            source.append(np.full(counts.sum(), number, np.int64))
        self._entry = np.concatenate(entry)
        self.image, self.source = np.concatenate(image), np.concatenate(source)
        self.text = kinds[self._entry + first_text[self.source]]
        self.relations = Relations(self.image, self.text, int(self._first_image[-1]))

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> tuple[Any, Any, int, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any, int, int]]:
        """The samples of a batch, as torch's loaders ask for them: all texts go through the tokenizer at once."""
        ids = self.tokenizer([self.caption(index) for index in indices])
        return [
            (self._picture(index), ids[place], int(self.image[index]), int(self.text[index]))
            for place, index in enumerate(indices)
        ]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The samples as a batch: (n, ...) images and (n, length) token ids as `default_collate` makes them of the
        samples, to the last bit, and (n, 2) their image and text numbers."""
        ids = self.tokenizer([self.caption(index) for index in indices])
        images = self._in_one([self._picture(index, self._begun) for index in indices])
        if not isinstance(ids, torch.Tensor):
            ids = default_collate(list(ids))
        return images, ids, torch.from_numpy(np.stack([self.image[indices], self.text[indices]], axis=1))

    def _picture(self, index: int, sets: Sequence[Any] | None = None) -> Any:
        source = self.source[index]
        return (sets or self.sets)[source][int(self.image[index] - self._first_image[source])][0]

    def caption(self, index: int) -> str:
        """The text of pair `index`."""
        return self.sets[self.source[index]].texts[self._entry[index]].text


def _with_transform(dataset: Any, transform: Callable[[Any], Any]) -> Any:
    """The same set, its readers shared, with another transform."""
    other = copy.copy(dataset)
    other.transform = transform
    return other


class Batched:
    """`pairs` as a loader with a batch sampler takes it: a list of numbers gives a batch (see :meth:`Pairs.batch`)."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.pairs.batch(indices)


def as_it_is(batch: Any) -> Any:
    """For a loader's `collate_fn`."""
    return batch
