"""From image ids and text records to exact relations between positions, with everything that is wrong named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource, Selection, Skipped


class TextEntry(NamedTuple):
    """A text with its id."""

    id: str
    text: str


class TextRecord(NamedTuple):
    """A text as a layout gives it: its right images by id, and its place as file:line."""

    id: str
    text: str
    image_ids: Sequence[str]
    where: str


@dataclass
class Resolved:
    """Images, unique texts, and which belong together; `skipped` is what was left out."""

    images: ImageSource
    texts: list[TextEntry]
    text_to_images: list[list[int]]
    skipped: list[Skipped]


def resolve(images: ImageSource, records: Iterable[TextRecord], skip: bool) -> Resolved:
    """Ties the texts to positions of images.

    Args:
        images: the pictures, with the problems found when they were opened.
        records: the texts.
        skip: leave out what is wrong and count it, instead of raising.

    Raises:
        DatasetError: an id twice, a text that names an image that isn't there, a text with no image, nothing left.
    """
    skipped: list[Skipped] = []

    def problem(key: str, where: str, reason: str, way_out: str) -> None:
        if not skip:
            raise DatasetError(f"{where}: {reason}; {way_out}")
        skipped.append(Skipped(key, where, reason))

    for bad in images.problems:
        problem(bad.key, bad.where, bad.reason, "fetch the file again, or use --skip-bad-images")
    positions: dict[str, int] = {}
    keep: list[int] = []
    for index, key in enumerate(images.ids):
        if key in positions:
            first = images.where(keep[positions[key]])
            problem(key, images.where(index), f"image {key} is there twice (first: {first})", "remove one")
            continue
        positions[key] = len(keep)
        keep.append(index)
    gone = {bad.key for bad in skipped}

    texts: list[TextEntry] = []
    text_to_images: list[list[int]] = []
    places: dict[str, str] = {}
    for record in records:
        if record.id in places:
            first = places[record.id]
            problem(record.id, record.where, f"text {record.id} is there twice (first: {first})", "remove one")
            continue
        places[record.id] = record.where
        if not record.image_ids:
            problem(
                record.id,
                record.where,
                f"text {record.id} has no image",
                "take a split with answers (MUGE keeps those of its test split; use --split valid)",
            )
            continue
        right: list[int] = []
        for key in dict.fromkeys(record.image_ids):
            if key in positions:
                right.append(positions[key])
            elif key not in gone:  # of images that were skipped themselves it is known why they are missing
                problem(
                    key,
                    record.where,
                    f"text {record.id} names image {key}, which is not there",
                    "get the images of the same split, or use --skip-bad-images",
                )
        if right:
            texts.append(TextEntry(record.id, record.text))
            text_to_images.append(right)
        else:
            skipped.append(Skipped(record.id, record.where, f"no image of text {record.id} is left"))
    if not texts or not keep:
        raise DatasetError(f"nothing is left of the dataset: {len(keep)} images, {len(texts)} texts; check the files")
    source = images if len(keep) == len(images) else Selection(images, keep)
    return Resolved(source, texts, text_to_images, skipped)


def without_images(resolved: Resolved, bad: dict[int, Skipped]) -> Resolved:
    """The same without the images at these positions, and without the texts that have no other image."""
    keep = [index for index in range(len(resolved.images)) if index not in bad]
    new = {old: position for position, old in enumerate(keep)}
    skipped = [*resolved.skipped, *bad.values()]
    texts, text_to_images = [], []
    for entry, right in zip(resolved.texts, resolved.text_to_images, strict=True):
        left = [new[image] for image in right if image in new]
        if left:
            texts.append(entry)
            text_to_images.append(left)
        else:
            where = bad[right[0]].where
            skipped.append(Skipped(entry.id, where, f"no image of text {entry.id} is left"))
    if not texts:
        raise DatasetError(f"none of the {len(resolved.images)} images decodes; the first: {next(iter(bad.values()))}")
    return Resolved(Selection(resolved.images, keep), texts, text_to_images, skipped)
