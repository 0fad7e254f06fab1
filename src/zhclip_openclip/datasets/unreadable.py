"""Images that cannot be read, in data sets that other people's code reads: named, or with leave left out.

Here for data sets that give samples by number; `streams.py` does the same for streams.
"""

from __future__ import annotations

import copy
import re
import struct
import traceback
import zlib
from pathlib import Path

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import Skipped
from zhclip_openclip.prompts import checks

#: What decoders raise on broken files; `Image.UnidentifiedImageError` is an OSError.
_BROKEN = (OSError, SyntaxError, EOFError, struct.error, zlib.error, ValueError, RuntimeError)


class Guarded:
    """A map-style data set of which every unreadable image is an error of one line with its name, or left out, and
    every label without a class an error.

    Meant for the end of the patch of `build_dataset`, after `prompts.localise` and `prompts.check`. Has all attributes
    of the data set it stands for.

    skip: read every image once now, without the transform, and leave out those that cannot be read; `skipped` names
        them.
    workers: processes that do so.

    Raises DatasetError: an unreadable image when its turn comes; with `skip`, none that can be read. PromptError: a
    label outside the list of classes when its turn comes; `prompts.check` has found it where labels are known before.
    """

    def __init__(self, dataset, name: str, skip: bool = False, workers: int = 0):
        self._dataset = dataset
        self._name = name
        self.skipped: list[Skipped] = []
        self._kept: list[int] | None = None
        if skip:
            reasons = _scan(dataset, workers)
            self._kept = [index for index, reason in enumerate(reasons) if not reason]
            self.skipped = [
                Skipped(self._key(index), self._where(index), reason).printable()
                for index, reason in enumerate(reasons)
                if reason
            ]
            if reasons and not self._kept:
                raise DatasetError(f"{name}: none of {len(reasons)} images can be read: {reasons[0]}")

    def __len__(self) -> int:
        return len(self._dataset) if self._kept is None else len(self._kept)

    def __getitem__(self, index: int):
        index = index if self._kept is None else self._kept[index]
        try:
            sample = self._dataset[index]
        except Exception as error:
            if not _of_a_decoder(error) or not why_not(_bare(self._dataset), index):
                raise  # a mistake in a program, or in the transform of a good image
            raise DatasetError(
                f"{self._where(index)}: image {self._key(index)} does not decode ({reason(error)}); fetch the file "
                "again, or use --skip-bad-images"
            ) from None
        classes = getattr(self, "classes", None)
        if classes and isinstance(sample, (tuple, list)) and len(sample) == 2:
            checks.label(sample[1], classes, f"{self._name}: sample {index} ({self._key(index)})")
        return sample

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_dataset":  # while it is being unpickled there is no data set yet
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def _where(self, index: int) -> str:
        path = _path(self._dataset, index)
        return path or f"{self._name}, sample {index}"

    def _key(self, index: int) -> str:
        path = _path(self._dataset, index)
        return "/".join(Path(path).parts[-2:]) if path else str(index)


def _path(dataset, index: int) -> str | None:
    """The file of a sample, where the data set has a list of them."""
    for name in ("samples", "_samples", "_image_files", "_images", "fnames", "paths"):
        files = getattr(dataset, name, None)
        if isinstance(files, (list, tuple)) and index < len(files):
            file = files[index][0] if isinstance(files[index], (list, tuple)) else files[index]
            return str(file) if isinstance(file, (str, Path)) else None
    return None


def reason(error: BaseException) -> str:
    """What a decoder has against an image, in one line that is the same each time."""
    from PIL import Image

    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split())) or type(error).__name__


def why_not(dataset, index: int) -> str:
    """Why a sample cannot be read, in one line; nothing where it can."""
    try:
        dataset[index]
    except Exception as error:
        if not _of_a_decoder(error):
            raise
        return reason(error)
    return ""


def _of_a_decoder(error: Exception) -> bool:
    """Whether an exception says that an image is broken: what decoders raise, and anything at all from inside Pillow,
    whose plugins have no error of their own."""
    if isinstance(error, (ZhclipError, MemoryError)):
        return False
    if isinstance(error, _BROKEN):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").partition(".")[0] == "PIL" for frame, _ in frames)


def _bare(dataset):
    """A copy that gives images as they are stored: to read them is enough, and preparing them takes longer."""
    from zhclip_openclip.features.fingerprint import without_transform

    if (bare := without_transform(dataset)) is not None:
        return bare
    result = copy.copy(dataset)
    for name in ("transform", "transforms"):
        if hasattr(dataset, name):
            setattr(result, name, None)
    return result


class _Probe:
    """Why a sample cannot be read, or nothing."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> str:
        return why_not(self._dataset, index)


def _scan(dataset, workers: int) -> list[str]:
    from torch.utils.data import DataLoader

    loader = DataLoader(_Probe(_bare(dataset)), batch_size=64, num_workers=workers, collate_fn=list)
    return [reason for batch in loader for reason in batch]
