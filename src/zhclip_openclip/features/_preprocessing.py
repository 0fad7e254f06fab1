"""What happens to the images of a data set on their way to the tower, tried out.

Not read off the transform's text, which for a function of somebody's own says nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from zhclip_openclip.features._digests import content, digest

#: What a preprocessing is tried on, as width, height, mode: larger and smaller than any crop, wide, high, strips,
#: every mode that picture files come in. "RGB turned" is tagged as a camera does that was held upright.
_PROBES = (
    (500, 375, "RGB"),
    (333, 512, "RGB"),
    (97, 61, "RGB"),
    (1030, 1030, "RGB"),
    (2500, 2500, "RGB"),
    (3000, 200, "RGB"),
    (400, 300, "RGB turned"),
    (120, 80, "L"),
    (150, 110, "LA"),
    (300, 260, "P"),
    (64, 90, "RGBA"),
    (310, 240, "RGBA half"),
    (280, 350, "CMYK"),
    (260, 250, "I;16"),
    (240, 270, "1"),
)
_LARGE = 2000
#: Pictures of the data set itself, spread over it; more where the transform is out of reach.
_REAL, _REAL_ALONE = 8, 64


@dataclass(frozen=True)
class Tried:
    """digest: of all that came out. shape, dtype: of an image as the tower gets it; None where that is no tensor."""

    digest: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None


def preprocessing(dataset, once: bool = False) -> Tried | None:
    """Of what happens to the images of a data set; None if it is not the same every time.

    Tried on images of our own where the transform is within reach, and on some of the data set: spread over it, of a
    stream the first. once: whether it is the same every time is not looked into.
    """
    if isinstance(dataset, torch.utils.data.IterableDataset) and not hasattr(dataset, "pipeline"):
        return None  # TensorFlow must not run in a process that is forked afterwards
    if isinstance(getattr(dataset, "batch_size", None), int) and hasattr(dataset, "dataset"):
        dataset = dataset.dataset  # gives batches: see datasets/_retrieval.py
    transform = _transform(dataset)
    probes = _probes() if transform else []
    with _same_random_numbers_afterwards():
        own = [_tried(transform, image) for image in probes]
        # The second time without the large ones, which take longer than all others together.
        again = [
            own[at] if once or max(image.size) >= _LARGE else _tried(transform, image)
            for at, image in enumerate(probes)
        ]
        real, example = _real(dataset, transform)
        real_again = real if once else _real(dataset, transform)[0]
    if own != again or real != real_again or not (own or real):
        return None
    known = isinstance(example, torch.Tensor)
    return Tried(digest([own, real]), tuple(example.shape) if known else None, example.dtype if known else None)


@contextlib.contextmanager
def _same_random_numbers_afterwards() -> Iterator[None]:
    states = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _transform(dataset) -> Callable | None:
    for _ in range(5):
        transform = getattr(dataset, "transform", None)
        if transform is not None:
            return transform
        dataset = getattr(dataset, "_dataset", None) or getattr(dataset, "dataset", None)
        if dataset is None:
            return None
    return None


def _real(dataset, transform) -> tuple[list[str], Any]:
    """Digests of some images as the tower gets them, and one of these images."""
    if isinstance(dataset, torch.utils.data.IterableDataset):
        images = list(itertools.islice((image for batch in dataset for image in batch[0]), _REAL))
        return [content(image) for image in images], images[-1] if images else None
    digests, image = [], None
    for index in _spread(len(dataset), _REAL if transform else _REAL_ALONE):
        image = dataset[index][0]
        digests.append(content(image))
    return digests, image


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` of 0..count-1 at equal distances, the first and the last among them."""
    if count <= wanted:
        return list(range(count))
    return [index * (count - 1) // (wanted - 1) for index in range(wanted)]


def _tried(transform: Callable, image: Image.Image) -> str | None:
    try:
        return content(transform(image.copy()))
    except Exception:  # not every transform takes images of every kind
        return None


def _probes() -> list[Image.Image]:
    """Soft patches of all colours and opacities, repeated to the size of each."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    patch = np.asarray(Image.fromarray(noise).resize((97, 101), Image.Resampling.BICUBIC))
    return [
        _probe(np.tile(patch, (-(-height // 101), -(-width // 97), 1))[:height, :width], kind)
        for width, height, kind in _PROBES
    ]


def _probe(pixels: np.ndarray, kind: str) -> Image.Image:
    """kind: of `_PROBES`. pixels: (height, width, 4) of red, green, blue and opacity."""
    if kind == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if kind == "LA":
        return Image.fromarray(np.ascontiguousarray(pixels[..., 2:]))
    if kind == "P":  # eight colours of its own, of which one is transparent
        result = Image.frombytes("P", pixels.shape[1::-1], (pixels[..., 0] // 32).tobytes())
        result.putpalette([value * 37 % 256 for value in range(768)])
        result.info["transparency"] = 3
        return result
    if kind == "RGBA half":
        return Image.fromarray(np.ascontiguousarray(pixels))
    result = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    if kind == "RGB turned":
        turned = Image.Exif()
        turned[0x0112] = 6  # the tag of the orientation
        result.info["exif"] = turned.tobytes()
        return result
    return result if kind == result.mode else result.convert(kind)
