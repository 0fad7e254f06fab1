"""A retrieval dataset with exact relations between its texts and images, whatever layout it was read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import Skipped, converts_itself, decode_image, open_image
from zhclip_openclip.datasets._relations import Resolved, TextEntry, without_images
from zhclip_openclip.datasets._sample import sampled


class RetrievalDataset:
    """Map-style: `dataset[i]` is (transformed picture i, the captions it is right for), as CLIP_benchmark expects.

    Random access, picklable, and usable from several DataLoader workers, forked or spawned.

    Attributes:
        name, split: of the dataset, for example 'muge', 'valid'.
        directions: which are scored: 'image_retrieval', 'text_retrieval'.
        image_ids: id of each image.
        texts: the unique texts, each a `TextEntry(id, text)`.
        text_to_images: for each text the positions of its right images.
        image_to_texts: for each image the positions of its right texts; empty for one that is only there to be
            confused with.
        skipped: pictures that were left out, each once, as `Skipped(key, where, reason)`.
        skipped_texts: texts that were left out, because of their pictures or of themselves.
        layout: what the files were recognised as.
        notes: what a reader of the numbers should know (for example, that texts are empty).
        captions_of: the set whose captions these are, as far as their content says (see `_which_set.py`), or None.
        limited: of a sample, how many were taken of how many; None for the whole.
        classes, templates: None; CLIP_benchmark looks for them.
    """

    classes = None
    templates = None
    limited: dict[str, int] | None = None

    def __init__(
        self,
        name: str,
        split: str,
        resolved: Resolved,
        *,
        directions: Sequence[str],
        transform: Callable[[Any], Any] | None = None,
        layout: str = "",
        notes: Sequence[str] = (),
        skip_bad_images: bool = False,
        in_rgb: bool = False,
        captions_of: str | None = None,
        limit: int | None = None,
    ) -> None:
        """transform: if it converts to RGB itself, as open_clip's do, it gets each picture as it was opened: families
        differ in whether they resize before or after. Any other gets RGB. in_rgb: RGB in any case, for data that
        somebody else's code converts first. limit: take a sample of so many images; see `_sample.py`."""
        self._in_rgb = in_rgb
        self.name, self.split, self.layout = name, split, layout
        self.directions = tuple(directions)
        self.captions_of = captions_of
        self.transform = transform
        self._fingerprint: str | None = None
        if limit is not None:
            resolved, self.limited = sampled(resolved, limit)
        self.notes = list(dict.fromkeys([*notes, *resolved.notes]))
        self._take(resolved)
        if skip_bad_images:
            # Positions can't change any more once a loader has started, so every picture is tried now.
            self._take(without_images(resolved, bad) if (bad := self._undecodable()) else resolved)

    def _take(self, resolved: Resolved) -> None:
        self.images = resolved.images
        self.image_ids: list[str] = list(resolved.images.ids)
        self.texts: list[TextEntry] = resolved.texts
        self.text_to_images: list[list[int]] = resolved.text_to_images
        self.skipped: list[Skipped] = [entry.printable() for entry in resolved.skipped]
        self.skipped_texts: list[Skipped] = [entry.printable() for entry in resolved.skipped_texts]
        self.image_to_texts: list[list[int]] = [[] for _ in self.image_ids]
        for text, right in enumerate(self.text_to_images):
            for image in right:
                self.image_to_texts[image].append(text)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Any, list[str]]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # also ends iteration by index
        decode = open_image if self.as_opened else decode_image
        image = decode(self.images.read(index), self.image_ids[index], self.images.where(index))
        if self.transform is not None:
            image = self.transform(image)
        return image, self.captions(index)

    @property
    def as_opened(self) -> bool:
        """Whether the transform gets pictures as they were opened; RGB otherwise. See `__init__`."""
        return not self._in_rgb and converts_itself(self.transform)

    def captions(self, index: int) -> list[str]:
        """The texts that image `index` is right for."""
        return [self.texts[text].text for text in self.image_to_texts[index]]

    def read_image(self, index: int) -> bytes:
        """The picture file of image `index`, as it was encoded."""
        return self.images.read(index)

    def batched(self, size: int) -> Batches:
        """The same in batches of (stacked pictures, caption lists): what CLIP_benchmark asks of `wds/` datasets."""
        return Batches(self, size)

    def fingerprint(self) -> str:
        """SHA-256 over what is scored: the same from every layout, other files or relations give another one.

        Hashed, as UTF-8 lines in sorted order: `image <id> <bytes of the picture file>` for each image and
        `text <id> <right image ids, sorted> <text>` for each text, tab-separated. Pictures count by size, so that it
        costs no reading of 3 GB; the order of the entries, the split's name and the transform do not count.

        A line that could be read in two ways (a tab or a line break in an id, a space in an image id, a line break in
        a text) stands there as JSON, `json ["text", id, [image ids], text]`; no line of the official files is one.
        """
        if self._fingerprint is None:
            lines = [_image_line(key, self.images.size(index)) for index, key in enumerate(self.image_ids)]
            for entry, right in zip(self.texts, self.text_to_images, strict=True):
                lines.append(_text_line(entry, sorted(self.image_ids[image] for image in right)))
            self._fingerprint = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8")).hexdigest()
        return self._fingerprint

    def check(self, decode: bool = False, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Counts, after verifying what construction hasn't: with `decode`, that every picture decodes.

        Args:
            decode: read and decode every picture.
            progress: called with (done, all) images.

        Raises:
            DatasetError: the first picture that does not decode, with file and line, and how many there are.
        """
        if decode:
            bad = self._undecodable(progress)
            if bad:
                first = next(iter(bad.values()))
                raise DatasetError(
                    f"{first.where}: {first.reason}; {len(bad)} of {len(self)} pictures are bad: fetch the files "
                    "again, or use --skip-bad-images"
                )
        return {
            "dataset": self.name,
            "split": self.split,
            "layout": self.layout,
            "captions_of": self.captions_of or "no set that is known by its captions",
            "images": len(self),
            "texts": len(self.texts),
            "pairs": sum(len(right) for right in self.text_to_images),
            "images_without_text": sum(not texts for texts in self.image_to_texts),
            "skipped": len(self.skipped),
            "skipped_texts": len(self.skipped_texts),
            "fingerprint": self.fingerprint(),
            "decoded": decode,
        }

    def _undecodable(self, progress: Callable[[int, int], None] | None = None) -> dict[int, Skipped]:
        bad: dict[int, Skipped] = {}
        for index, key in enumerate(self.image_ids):
            try:
                decode_image(self.images.read(index), key, self.images.where(index), draft=True)
            except DatasetError as error:
                reason = str(error).removeprefix(f"{self.images.where(index)}: ").split(";")[0]
                bad[index] = Skipped(key, self.images.where(index), reason)
            if progress:
                progress(index + 1, len(self))
        return bad

    def __repr__(self) -> str:
        return f"RetrievalDataset({self.name}, {self.split}: {len(self)} images, {len(self.texts)} texts)"


def _image_line(key: str, size: int) -> str:
    if "\t" in key or "\n" in key:
        return "json\t" + json.dumps(["image", key, size])
    return f"image\t{key}\t{size}"


def _text_line(entry: TextEntry, named: Sequence[str]) -> str:
    if (
        any(sign in entry.id for sign in "\t\n")
        or "\n" in entry.text
        or any(s in key for key in named for s in "\t\n ")
    ):
        return "json\t" + json.dumps(["text", entry.id, list(named), entry.text])
    return f"text\t{entry.id}\t{' '.join(named)}\t{entry.text}"


class Batches:
    """Batches of a dataset, map-style, for a DataLoader with batch_size=None."""

    def __init__(self, dataset: RetrievalDataset, size: int) -> None:
        self.dataset, self.batch_size = dataset, size

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, list[list[str]]]:
        import torch

        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = range(index * self.batch_size, min(len(self.dataset), (index + 1) * self.batch_size))
        images, captions = zip(*(self.dataset[row] for row in rows), strict=True)
        return torch.stack(images), list(captions)
