"""`digits`: scikit-learn's handwritten digits, the data set that needs no download.

1,797 images of 8 x 8 pixels from the UCI ML hand-written digits test set (https://doi.org/10.24432/C50P49). The first
1,437 are the train split and the last 360 the test split; the collection is in the order of its writers, so nobody who
wrote a test digit wrote many of the train digits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from zhclip_openclip.datasets._dataset_error import DatasetError

#: Number of images of the train split, the first of the collection.
TRAIN = 1437
SPLITS = ("train", "test")


class Digits:
    """Map-style data set of (image, label) pairs; `transform` gets an RGB image of 8 x 8 pixels, white on black.

    classes: English class names, "0" to "9". targets: label of every image.

    Raises DatasetError: no such split.
    """

    classes = [str(digit) for digit in range(10)]

    def __init__(self, split: str = "test", transform: Callable | None = None):
        if split not in SPLITS:
            raise DatasetError(f"digits has no split {split!r}; it has {' and '.join(SPLITS)}")
        from sklearn.datasets import load_digits

        data = load_digits()
        part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
        self.images = np.round(data.images[part] * (255 / 16)).astype(np.uint8)
        self.targets = [int(label) for label in data.target[part]]
        self.split = split
        self.transform = transform
        self.classes = list(type(self).classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        image = Image.fromarray(self.images[index]).convert("RGB")
        return (self.transform(image) if self.transform else image), self.targets[index]
