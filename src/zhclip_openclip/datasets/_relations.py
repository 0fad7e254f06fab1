"""From image ids and text records to exact relations between positions, with everything that is wrong named."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zhclip_openclip._errors import shorten
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
    """Images, unique texts, and which belong together.

    skipped, skipped_texts: pictures and texts that were left out, each once. notes: what a reader of the numbers
    should know about them.
    """

    images: ImageSource
    texts: list[TextEntry]
    text_to_images: list[list[int]]
    skipped: list[Skipped]
    skipped_texts: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def resolve(images: ImageSource, records: Iterable[TextRecord], skip: bool) -> Resolved:
    """Ties the texts to positions of images.

    Args:
        images: the pictures, with the problems found when they were opened.
        records: the texts.
        skip: leave out what is wrong and count it, instead of raising.

    Raises:
        DatasetError: an id twice, a text that names an image that isn't there, a text with no image, nothing left.
    """
    skipped: dict[str, Skipped] = {}
    skipped_texts: list[Skipped] = []

    def refuse(where: str, reason: str, way_out: str) -> None:
        if not skip:
            raise DatasetError(f"{where}: {reason}; {way_out}")

    for bad in images.problems:
        refuse(bad.where, bad.reason, "write or fetch the file again, or use --skip-bad-images")
        skipped.setdefault(bad.key, bad)
    positions: dict[str, int] = {}
    keep: list[int] = []
    for index, key in enumerate(images.ids):
        if key in positions:
            reason = f"image {key} is there twice (first: {images.where(keep[positions[key]])})"
            refuse(images.where(index), reason, "remove one")
            skipped.setdefault(f"{key} ({images.where(index)})", Skipped(key, images.where(index), reason))
            continue
        positions[key] = len(keep)
        keep.append(index)

    texts: list[TextEntry] = []
    text_to_images: list[list[int]] = []
    places: dict[str, str] = {}
    for record in records:
        if record.id in places:
            reason = f"text {record.id} is there twice (first: {places[record.id]})"
            refuse(record.where, reason, "remove one")
            skipped_texts.append(Skipped(record.id, record.where, reason))
            continue
        places[record.id] = record.where
        if not record.image_ids:
            reason = f"text {record.id} has no image"
            refuse(
                record.where,
                reason,
                "give it one, or take a split with answers (those of MUGE's test split are kept for the leaderboard, "
                "its published numbers are on --split valid)",
            )
            skipped_texts.append(Skipped(record.id, record.where, reason))
            continue
        right: list[int] = []
        for key in dict.fromkeys(record.image_ids):
            if key in positions:
                right.append(positions[key])
            elif key not in skipped:  # of images that were skipped themselves it is known why they are missing
                reason = f"text {record.id} names image {key}, which is not there"
                refuse(
                    record.where,
                    f"{reason} ({_compared(key, images.ids)})",
                    "get the images of the same split, or use --skip-bad-images",
                )
                skipped[key] = Skipped(key, record.where, reason)
        if right:
            texts.append(TextEntry(record.id, record.text))
            text_to_images.append(right)
        else:
            skipped_texts.append(Skipped(record.id, record.where, f"no image of text {record.id} is left"))
    if not texts or not keep:
        first = next(iter([*skipped.values(), *skipped_texts]), None)
        because = f"; the first that was left out: {first.where}: {first.reason}" if first else ""
        raise DatasetError(
            f"nothing is left of the dataset: {len(keep)} images, {len(texts)} texts; check the files{because}"
        )
    source = images if len(keep) == len(images) else Selection(images, keep)
    return Resolved(
        source, texts, text_to_images, list(skipped.values()), skipped_texts, notes_of(texts, text_to_images)
    )


#: What programs do to ids on their way through a file, and the form in which the two agree again.
_HABITS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("blanks around one of them", str.strip),
    ("a .0 at the end, as pandas writes whole numbers in a column with gaps", lambda key: re.sub(r"\.0+$", "", key)),
    ("zeros in front", lambda key: key.lstrip("0") or "0"),
    ("the suffix of a file name", lambda key: re.sub(r"\.[A-Za-z]{3,4}$", "", key)),
    ("a folder in front", lambda key: re.split(r"[/\\]", key)[-1]),
    ("full-width signs", lambda key: unicodedata.normalize("NFKC", key)),
    ("upper and lower case", str.casefold),
    ("a folder, zeros and the suffix of a file name", lambda key: re.sub(r"^(.*[/\\])?0*|\.[A-Za-z]{3,4}$", "", key)),
)


def _compared(key: str, ids: Sequence[str]) -> str:
    """What the ids of the images look like beside one that is not among them, and what makes the two differ."""
    if not ids:
        return "there are no images"
    there = f"ids of images are {shorten([_cut(known) for known in ids[:3]], 3)}{', ...' if len(ids) > 3 else ''}"
    for what, normal in _HABITS:
        wanted = normal(key)
        alike = next((known for known in ids if normal(known) == wanted), None)
        if alike is not None:
            return f"there is {alike!r} for {key!r}: they differ by {what}; write both in one way"
    return there


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def notes_of(texts: Sequence[TextEntry], text_to_images: Sequence[Sequence[int]]) -> list[str]:
    """Of texts that no model can get right: empty ones, and the same text with other images."""
    notes = []
    empty = sum(not visible(entry.text) for entry in texts)
    if empty:
        notes.append(
            f"{empty} of {len(texts)} texts are empty; they are scored as queries. The published sets have none"
        )
    meant: dict[str, set[frozenset[int]]] = {}
    for entry, right in zip(texts, text_to_images, strict=True):
        meant.setdefault(entry.text, set()).add(frozenset(right))
    torn = sum(len(meant[entry.text]) > 1 for entry in texts if visible(entry.text))
    if torn:
        notes.append(f"{torn} of {len(texts)} texts stand there again for other images; no model can tell these apart")
    return notes


def visible(text: str) -> bool:
    """Whether there is anything in a text but blanks and signs without width."""
    return any(unicodedata.category(sign) not in ("Cc", "Cf", "Zs", "Zl", "Zp") for sign in text)


def without_images(resolved: Resolved, bad: dict[int, Skipped]) -> Resolved:
    """The same without the images at these positions, and without the texts that have no other image."""
    keep = [index for index in range(len(resolved.images)) if index not in bad]
    new = {old: position for position, old in enumerate(keep)}
    skipped_texts = list(resolved.skipped_texts)
    texts, text_to_images = [], []
    for entry, right in zip(resolved.texts, resolved.text_to_images, strict=True):
        left = [new[image] for image in right if image in new]
        if left:
            texts.append(entry)
            text_to_images.append(left)
        else:
            where = bad[right[0]].where
            skipped_texts.append(Skipped(entry.id, where, f"no image of text {entry.id} is left"))
    if not texts:
        first = next(iter(bad.values()))
        raise DatasetError(
            f"none of the {len(resolved.images)} images that have texts decodes; the first: {first.where}: "
            f"{first.reason}"
        )
    skipped = [*resolved.skipped, *bad.values()]
    notes = notes_of(texts, text_to_images)
    return Resolved(Selection(resolved.images, keep), texts, text_to_images, skipped, skipped_texts, notes)
