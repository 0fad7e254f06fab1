"""A fixed sample of a data set, for `--limit N`: the same N images each time, on every machine.

The images of a data set have places 0, 1, ...; a place is drawn by the SHA-256 of its number, the smallest first. So a
sample of 100 is part of that of 200, and no library's random numbers are in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import Selection
from zhclip_openclip.datasets._relations import Resolved, notes_of

#: What is hashed before the number of a place: the seed of the sample.
SEED = b"zhclip-openclip limit 0 "
#: Attributes of data sets that have an entry for each image.
_BY_IMAGE = (
    *("samples", "_samples", "targets", "labels", "_labels", "y", "imgs", "images", "_images", "_image_files"),
    *("fnames", "paths", "bndboxes"),
)


def positions(total: int, number: int) -> list[int]:
    """The places of the sample, ascending; all where there are no more than `number`."""
    if number >= total:
        return list(range(total))
    drawn = sorted(range(total), key=lambda place: hashlib.sha256(SEED + b"%d" % place).digest())
    return sorted(drawn[:number])


def sampled(resolved: Resolved, number: int) -> tuple[Resolved, dict[str, int]]:
    """A retrieval set with the sample of its images, and the texts that one of these is right for; and what was taken
    of how many.

    Raises DatasetError: no text is left.
    """
    total, keep = len(resolved.images), positions(len(resolved.images), number)
    new = {old: position for position, old in enumerate(keep)}
    texts, text_to_images = [], []
    for entry, right in zip(resolved.texts, resolved.text_to_images, strict=True):
        if left := [new[image] for image in right if image in new]:
            texts.append(entry)
            text_to_images.append(left)
    if not texts:
        raise DatasetError(f"--limit {number}: none of these {len(keep)} of {total} images has a text; take more")
    counts = {
        "asked": number,
        "images": len(keep),
        "of": total,
        "texts": len(texts),
        "of_texts": len(resolved.texts),
    }
    made = Resolved(Selection(resolved.images, keep), texts, text_to_images, resolved.skipped, resolved.skipped_texts)
    made.notes = notes_of(texts, text_to_images)
    return made, counts


class Sampled:
    """The sample of a map-style data set of somebody else's. Has all its other attributes; those with an entry for each
    image have those of the sample.

    limited: what was taken of how many.
    """

    def __init__(self, dataset: Any, number: int):
        self._dataset = dataset
        self._positions = positions(len(dataset), number)
        self.limited = {"asked": number, "images": len(self._positions), "of": len(dataset)}

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int):
        return self._dataset[self._positions[index]]

    def __getattr__(self, name: str):
        if name.startswith("__") or name in ("_dataset", "_positions"):  # while it is being unpickled
            raise AttributeError(name)
        value = getattr(self._dataset, name)
        if name in _BY_IMAGE and not isinstance(value, str) and _has_length(value, len(self._dataset)):
            return (
                [value[place] for place in self._positions] if isinstance(value, Sequence) else value[self._positions]
            )
        return value


def _has_length(value: Any, length: int) -> bool:
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and len(value) == length
