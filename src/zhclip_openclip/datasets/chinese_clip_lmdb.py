"""Chinese-CLIP's LMDB layout, as `cn_clip/preprocess/build_lmdb_dataset.py` writes it.

    lmdb/{split}/imgs     id -> base64 of the picture file; num_images -> their number
    lmdb/{split}/pairs    0, 1, ... -> pickle of (image id, text id, text); num_samples -> their number

It is self-contained: the texts are those of the pairs. Images come in the order of their keys, as Chinese-CLIP's own
evaluation reads them. Opened read-only and without lock files, once in each process.
"""

from __future__ import annotations

import binascii
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource, Skipped
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, split_spellings
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets._tsv_index import _decoded_size, _problem, decode_base64

LOOKS_FOR = "lmdb/{split}/imgs and lmdb/{split}/pairs"


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    for spelling in split_spellings(split):
        for base in (folder / "lmdb" / spelling, folder / spelling, folder):
            if (base / "imgs" / "data.mdb").is_file() and (base / "pairs" / "data.mdb").is_file():
                return Loaded("Chinese-CLIP LMDB", LmdbImages(base / "imgs"), _pairs(base / "pairs"))
    return None


class LmdbImages(ImageSource):
    """Pictures of `lmdb/{split}/imgs`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._opened: tuple[int, Any] | None = None
        self.ids, self._sizes, problems = [], [], []
        with self._environment().begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                if bytes(key) == b"num_images":
                    count = int(bytes(value))
                    continue
                name = bytes(key).decode("utf-8", errors="replace")
                encoded = bytes(value)
                reason = _problem(b"\t", encoded, cut_off=False)
                if reason:
                    problems.append(Skipped(name, f"{path}[{name}]", reason))
                    continue
                self.ids.append(name)
                self._sizes.append(_decoded_size(encoded.strip()))
            if transaction.get(b"num_images") is None or count != len(self.ids) + len(problems):
                raise DatasetError(f"{path}: incomplete: num_images does not fit; run build_lmdb_dataset.py again")
        self.problems = problems

    def _environment(self) -> Any:
        # An LMDB environment must not be used across a fork, so each process opens its own.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _open(self.path))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, index: int) -> bytes:
        with self._environment().begin() as transaction:
            encoded = transaction.get(self.ids[index].encode("utf-8"))
        try:
            return decode_base64((encoded or b"?").strip())
        except (binascii.Error, ValueError):
            raise DatasetError(f"{self.where(index)}: bad base64; run build_lmdb_dataset.py again") from None

    def size(self, index: int) -> int:
        return self._sizes[index]

    def where(self, index: int) -> str:
        return f"{self.path}[{self.ids[index]}]"


def _pairs(path: Path) -> Iterator[TextRecord]:
    """The texts in the order of their first pair, with all their images."""
    found: dict[str, tuple[str, list[str], str]] = {}
    with _open(str(path)).begin() as transaction:
        count = transaction.get(b"num_samples")
        if count is None:
            raise DatasetError(f"{path}: incomplete: num_samples is missing; run build_lmdb_dataset.py again")
        for number in range(int(count)):
            place = f"{path}[{number}]"
            value = transaction.get(str(number).encode())
            if value is None:
                raise DatasetError(f"{place}: incomplete: the pair is missing; run build_lmdb_dataset.py again")
            image, key, text = _unpickle(value, place)
            entry = found.setdefault(str(key), (str(text), [], place))
            if entry[0] != str(text):
                raise DatasetError(f"{place}: text {key} is there twice, differently (first: {entry[2]}); remove one")
            entry[1].append(str(image))
    for key, (text, images, place) in found.items():
        yield TextRecord(key, text, images, place)


class _TuplesOnly(pickle.Unpickler):
    """A pair is a tuple of numbers and strings; a pickle that names anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refuses to load {module}.{name}")


def _unpickle(value: bytes, place: str) -> tuple[Any, Any, Any]:
    try:
        image, key, text = _TuplesOnly(io.BytesIO(value)).load()
    except Exception as error:
        raise DatasetError(f"{place}: not a pickled (image id, text id, text): {error}; build it again") from None
    return image, key, text


def _open(path: str) -> Any:
    try:
        import lmdb
    except ImportError:
        raise DatasetError(f"{path}: reading LMDB needs a library: pip install zhclip-openclip[lmdb]") from None
    try:
        return lmdb.open(path, readonly=True, create=False, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DatasetError(f"{path}: LMDB says {error}; run build_lmdb_dataset.py again") from None
