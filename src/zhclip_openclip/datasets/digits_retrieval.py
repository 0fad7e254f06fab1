"""`digits-retrieval`: the digits of `digits.py` with Chinese captions, a retrieval set that needs no download.

Each caption belongs to all the pictures of its digit, and each picture to all the captions of it: several right items a
query in both directions, which the large sets of the published tables have in parts only. The test split is 360
pictures and 70 captions. The captions are other sentences than those that `zhclip-tiny` was trained with
(`data/templates/zh.json`), in words that its vocabulary has. The last one has the Arabic numeral, which that model has
never seen in training, so that a report of it has misses to show.
"""

from __future__ import annotations

from collections.abc import Sequence

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource
from zhclip_openclip.datasets._layout import Loaded, ReadOptions
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets.digits import SPLITS, TRAIN, Digits

NAME = "digits-retrieval"
FOLDERS = ("digits-retrieval",)
DEFAULT_SPLIT = "test"
DIRECTIONS = ("image_retrieval", "text_retrieval")
LAYOUTS = ()
#: The data comes with scikit-learn: no folder is looked into.
EMBEDDED = True

NUMERALS = "零一二三四五六七八九"
CAPTIONS = (
    "图片中是一个手写的{n}",
    "数字{n}的手写体图片",
    "图片上手写着数字{n}",
    "纸上的数字是{n}",
    "像素很少的图片，写的是数字{n}",
    "图中手写的数字很像{n}",
    "图中写的是数字{digit}",
)


def load(split: str, options: ReadOptions) -> Loaded:
    """The pictures and captions of a split; nothing in `options` matters here.

    Raises DatasetError: no such split.
    """
    if split not in SPLITS:
        raise DatasetError(f"{NAME} has no split {split!r}; it has {' and '.join(SPLITS)}")
    digits = Digits(split)
    images = _PgmImages(digits, 0 if split == "train" else TRAIN)
    return Loaded("embedded", images, _records(images.ids, digits.targets))


def _records(ids: Sequence[str], labels: Sequence[int]) -> list[TextRecord]:
    return [
        TextRecord(
            f"{digit}-{number}",
            caption.format(n=numeral, digit=digit),
            [key for key, label in zip(ids, labels, strict=True) if label == digit],
            f"{NAME}, caption {number} of {numeral}",
        )
        for digit, numeral in enumerate(NUMERALS)
        for number, caption in enumerate(CAPTIONS)
    ]


class _PgmImages(ImageSource):
    """The pictures as PGM files, which hold bare pixels: their size, which the fingerprint counts, is the same on
    every machine, whatever version of a compressor it has."""

    def __init__(self, digits: Digits, first: int) -> None:
        self.ids = [f"digit-{first + index:04d}" for index in range(len(digits))]
        self._pixels = digits.images

    def read(self, index: int) -> bytes:
        pixels = self._pixels[index]
        return b"P5 %d %d 255\n" % pixels.shape[::-1] + pixels.tobytes()

    def size(self, index: int) -> int:
        return len(self.read(index))

    def where(self, index: int) -> str:
        return f"{NAME}, {self.ids[index]}"
