"""A picture file as a person sees it, which is what a search encodes and what its page shows.

Not what a benchmark does: that hands pictures over as they lie there, as its published numbers were made. Here a
telephone's picture stands upright (EXIF), what is transparent is white, and 16 bits are scaled and not cut off.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from zhclip_openclip._reading import reason_of
from zhclip_openclip.datasets._images import open_image
from zhclip_openclip.datasets.unreadable import reason

#: Of what `as_seen` does; another number is another name in the feature cache.
EDITION = 1
#: Bytes of a file that is read: several workers hold one each.
LARGEST = 512 * 2**20
#: Nanoseconds that a file has to have lain still before its times are taken for its content: file systems count in
#: ticks of up to two seconds, and what is written within one of them has the same time.
_STILL = 2 * 10**9
_NO_FACTS = (-1, 0, 0, 0)

Facts = tuple[int, int, int, int]


class Read(NamedTuple):
    """What came of reading a file. digest: SHA-256 of its bytes, None where it could not be read. facts: by which it is
    known again, see `facts_of`. reason: why there is no picture, or "". lasting: whether that can change without the
    file."""

    digest: bytes | None
    facts: Facts
    reason: str = ""
    lasting: bool = False


def facts_of(about: os.stat_result) -> Facts:
    """Size, times of the last change of the content and of the entry (ns), inode. While none of them changes, the
    content is taken for the same: see docs/search.md."""
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino & (2**63 - 1)


def read_file(path: str, now: Callable[[], int]) -> tuple[bytes, Facts]:
    """The bytes of a file, and its facts if it was not written to lately. now: nanoseconds since the epoch.

    Raises OSError: cannot be read. ValueError: too large.
    """
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        if before.st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST // 2**20} MiB")
        data = file.read()
        facts = facts_of(os.fstat(file.fileno()))
    still = facts == facts_of(before) and now() - max(facts[1], facts[2]) > _STILL
    return data, facts if still else _NO_FACTS


def as_seen(data: bytes, draft: int = 0) -> Image.Image:
    """bytes -> RGB picture: the first frame, upright, transparent parts white.

    draft: a JPEG is decoded smaller, but no smaller than so many pixels a side; 0 for all of it.

    Raises whatever a decoder has against it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and odd tags: what can be decoded is shown
        if data[4:8] == b"ftyp":
            image = open_image(data, "", "")  # lets Pillow read HEIF where it can
        else:
            image = Image.open(io.BytesIO(data))
            if draft:
                image.draft("RGB", (draft, draft))
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode == "I":
            wide = np.asarray(image).astype(np.int64).clip(0, 65535)
            return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            seen = Image.new("RGBA", image.size, "white")
            seen.alpha_composite(image.convert("RGBA"))
            return seen.convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")


def reader() -> str:
    """What decides whether a file can be read, beside the file: what was not a picture for one may be for another."""
    return f"{EDITION} Pillow {version('Pillow')} {_optional('pillow_heif')}"


def _optional(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


class Pictures(torch.utils.data.Dataset):
    """Files as the tower gets them, and `Read` beside each; for those that cannot be read a grey picture, whose
    features nobody takes.

    transform: PIL picture -> tensor. now: nanoseconds since the epoch.
    """

    def __init__(self, folder: str | os.PathLike[str], names: Sequence[str], transform: Callable, now: Callable):
        self._folder, self.image_ids, self.transform, self._now = str(folder), list(names), transform, now
        self._grey = transform(Image.new("RGB", (64, 64), "grey"))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Read]:
        try:
            data, facts = read_file(os.path.join(self._folder, self.image_ids[index]), self._now)
        except MemoryError:
            raise
        except Exception as error:
            why = reason_of(error) if isinstance(error, OSError) else str(error)
            return self._grey, Read(None, _NO_FACTS, why)
        digest = hashlib.sha256(data).digest()
        try:
            return self.transform(as_seen(data)), Read(digest, facts)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise almost anything, and a strip of one pixel is too thin to resize
            return self._grey, Read(digest, facts, _why(data, error), lasting=True)

    @staticmethod
    def together(batch: list[tuple[torch.Tensor, Read]]) -> tuple[torch.Tensor, list[Read]]:
        return torch.stack([image for image, _ in batch]), [read for _, read in batch]


class Example(torch.utils.data.Dataset):
    """One picture of ours with a transform: what a preprocessing is tried out on where the folder may change."""

    def __init__(self, transform: Callable):
        self.transform = transform

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        ramp = np.add.outer(np.arange(120), np.arange(160)) % 256
        return self.transform(Image.fromarray(ramp.astype(np.uint8)).convert("RGB")), 0


def _why(data: bytes, error: Exception) -> str:
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp" and not _optional("pillow_heif"):
        return "a HEIC picture, which needs pip install pillow-heif"
    return (
        reason(error)
        .removeprefix(": image  does not decode (")
        .removesuffix("); fetch the file again, or use --skip-bad-images")
    )
