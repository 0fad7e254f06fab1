"""A classification data set of files that have a label each: of folders with names or numbers, or of a table."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import FolderImages, Skipped, decode_image
from zhclip_openclip.datasets._sample import positions

_WAY_OUT = "fetch the files again, or use --skip-bad-images"
#: What torchvision's ImageFolder, and so Chinese-CLIP, takes for images.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Labelled:
    """Map-style data set of (image, label) pairs, in the order of `samples`.

    name: as --dataset spells it. samples: (path, label). targets: label of every image. classes, templates,
    template_set, classname_source, prompts_version: as `prompts.localise` sets them. skipped: what could not be read
    and was left out, with `skip_bad_images`. notes: what a reader of the numbers should know. root: the folder that the
    paths are told from. split, layout: for people. limited: of a sample, what `_sample.py` says of it.

    Images come in RGB, as ImageFolder and so Chinese-CLIP reads them here; `transform` gets them like that.
    """

    classes: list[str] | None = None
    split, layout = "test", ""
    limited: dict[str, int] | None = None

    def __init__(
        self, name: str, samples: list[tuple[str, int]], transform: Callable | None, root: str | os.PathLike = "."
    ):
        self.name, self.root = name, root
        self.samples = samples
        self.targets = [label for _, label in samples]
        self.transform = transform
        self.skipped: list[Skipped] = []
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        path, label = self.samples[index]
        image = _read(path)
        return (self.transform(image) if self.transform else image), label

    def keep(self, positions: Sequence[int]) -> None:
        """Leave out all images but those at these positions."""
        self.samples = [self.samples[place] for place in positions]
        self.targets = [label for _, label in self.samples]

    def leave_out_unreadable(self) -> None:
        """Read every image once, and leave out those that cannot be read: they are `skipped`.

        Raises DatasetError: none can be read.
        """
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            reasons = list(pool.map(_why_not, self.samples))
        self.skipped += [
            Skipped(_key(path), path, reason).printable()
            for (path, _), reason in zip(self.samples, reasons, strict=True)
            if reason is not None
        ]
        kept = [place for place, reason in enumerate(reasons) if reason is None]
        if not kept:
            raise DatasetError(f"{self.name}: none of {len(reasons)} images can be read: {reasons[0]}")
        if len(kept) < len(reasons):
            self.keep(kept)

    def limit(self, number: int | None) -> None:
        """Leave a sample of so many images; None for all."""
        if number is not None:
            self.limited = {"asked": number, "images": min(number, len(self)), "of": len(self)}
            self.keep(positions(len(self), number))

    def fingerprint(self) -> str:
        """SHA-256 over what is scored, whatever table or folders it was read from: of each image its path below
        `root`, the bytes of its file and the name of its class, as lines of JSON in sorted order; then the classes."""
        names, above = self.classes or [], os.path.join(self.root, "")
        lines = []
        for path, label in self.samples:
            try:  # `reading` takes longer than the question, a million times
                size = os.path.getsize(path)
            except OSError as error:
                raise DatasetError(f"{path}: cannot be read ({error.strerror}); put the picture back") from error
            below = path[len(above) :] if path.startswith(above) else os.path.relpath(path, self.root)
            key = below.replace(os.sep, "/")
            lines.append(json.dumps([key, size, names[label] if label < len(names) else label]))
        lines.sort()
        return hashlib.sha256("\n".join([*lines, json.dumps(names)]).encode("ascii")).hexdigest()

    def check(self, decode: bool = False, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Counts. decode: read and decode every picture. progress: called with (done, all) pictures.

        Raises DatasetError: the first picture that does not decode, and how many there are.
        """
        bad = []
        for number, sample in enumerate(self.samples if decode else [], start=1):
            if (reason := _why_not(sample)) is not None:
                bad.append(reason)
            if progress:
                progress(number, len(self))
        if bad:
            raise DatasetError(f"{bad[0].split(';')[0]}; {len(bad)} of {len(self)} pictures are bad: {_WAY_OUT}")
        names, counts = self.classes or [], Counter(self.targets)
        sizes = sorted((counts[label], label) for label in range(len(names)))
        return {
            "dataset": self.name,
            "split": self.split,
            "layout": self.layout,
            "images": len(self),
            "classes": len(names),
            "smallest class": f"{names[sizes[0][1]]} ({sizes[0][0]})" if sizes else "none",
            "largest class": f"{names[sizes[-1][1]]} ({sizes[-1][0]})" if sizes else "none",
            "skipped": len(self.skipped),
            "fingerprint": self.fingerprint(),
            "decoded": decode,
        }


class Captioned:
    """A classification data set as a contact sheet shows it: the class of each picture is its caption."""

    def __init__(self, dataset: Labelled) -> None:
        self._dataset, self.name, self.split = dataset, dataset.name, dataset.split
        self.counted = f"{len(dataset.classes or [])} 个类别"
        paths = [Path(path) for path, _ in dataset.samples]
        self.images = FolderImages([Path(os.path.relpath(path, dataset.root)).as_posix() for path in paths], paths)
        self.image_ids = self.images.ids

    def __len__(self) -> int:
        return len(self._dataset)

    def read_image(self, index: int) -> bytes:
        return self.images.read(index)

    def captions(self, index: int) -> list[str]:
        return [(self._dataset.classes or [])[self._dataset.targets[index]]]


def _why_not(sample: tuple[str, int]) -> str | None:
    try:
        _read(sample[0], draft=True)
    except DatasetError as error:
        return str(error)
    return None


def _key(path: str) -> str:
    """`003/17.jpg`: what the image is called in a report."""
    return "/".join(Path(path).parts[-2:])


def _read(path: str, draft: bool = False):
    with reading(path, DatasetError, "fetch the file again, or use --skip-bad-images"):
        data = Path(path).read_bytes()
    return decode_image(data, _key(path), path, draft)
