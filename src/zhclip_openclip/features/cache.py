"""The feature cache: a folder of image features under names of what they were made from (see `fingerprint.py`).

    <folder>/<name>/features.safetensors     all features of a data set by a tower; its labels beside them
    <folder>/<name>/part-<size>/<a>-<b>.safetensors
                                             batches a..b-1 of `size` images, while it is not complete

Each file is written under another name and renamed, and carries the SHA-256 of its content: several programs can write
at once, and a kill costs what was not written yet. A file that does not fit its digest or its place is taken away, told
of in one line, and made again.

Each file also carries what the tower gave for two images of ours (`trial.py`), and is only read for a tower that gives
the same. Towers that have a name in common and give something else have a few places, one beside the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file

from zhclip_openclip._errors import ZhclipError, printable
from zhclip_openclip._files import whole_file
from zhclip_openclip.features import _entries
from zhclip_openclip.features._digests import digest, raw
from zhclip_openclip.features._entries import WHOLE, Entry
from zhclip_openclip.features.trial import same

__all__ = ["Entry", "FeatureCache", "Place", "Stored", "describe"]

FORMAT_VERSION = "2"
#: Towers of one name that give different features, as a model with and without a hook does.
_TOWERS = 8


@dataclass
class Stored:
    """Features (rows, dimensions) and, where the data set has labels, what came with them; seconds of making them."""

    features: torch.Tensor
    labels: torch.Tensor | None
    seconds: float


class FeatureCache:
    """folder: made when something is written. limit: bytes it may hold after a write."""

    def __init__(self, folder: str | os.PathLike[str], limit: int):
        self.folder, self.limit = Path(folder), limit

    def place(self, name: str, trial: torch.Tensor) -> str:
        """The name under which features of a tower with this trial are, or else would be: `name`, or one beside it if
        that has another tower's."""
        free = None
        for number in range(_TOWERS):
            place = digest([name, number]) if number else name
            there = next((found for path in self._paths(place) if (found := _trial_of(path)) is not None), None)
            if same(there, trial):
                return place
            if there is None and free is None:
                free = place
        return free or name

    def held(self, place: str, trial: torch.Tensor) -> bool:
        """Whether features of a tower with this trial are there. place: see `place`."""
        return any(same(_trial_of(path), trial) for path in self._paths(place))

    def _paths(self, name: str) -> Iterator[Path]:
        yield self.folder / name / WHOLE
        for part in sorted((self.folder / name).glob("part-*")):
            yield from (path for _, _, path in _blocks(part))

    def entries(self) -> list[Entry]:
        """All names, the last used first. Files that cannot be read have no row count and are there to be cleared."""
        return _entries.entries(self.folder)

    def leftovers(self) -> int:
        """Bytes that programs which were killed have left; `tidy` takes them away."""
        return sum(_entries.size_of(path) for path in _entries.leftovers(self.folder))

    def clear(self) -> tuple[int, int]:
        """Take all names away, and what kills have left; gives how many names, and all their bytes. Nothing else in the
        folder is touched."""
        names = _entries.names(self.folder)
        size = sum(_entries.size_of(self.folder / name) for name in names)
        for name in names:
            _entries.remove(self.folder, name)
        for path in _entries.leftovers(self.folder, at_once=True):
            size += _entries.size_of(path)
            _entries.take_away(path)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # if there is nothing else in it
        return len(names), size

    def tidy(self) -> None:
        """Take away what kills have left, but for what may still be written to."""
        for path in _entries.leftovers(self.folder):
            _entries.take_away(path)

    def trim(self, keep: str) -> None:
        """Bring the folder below its limit, by throwing out what was not used for longest."""
        self.tidy()
        entries = self.entries()
        size = sum(entry.size for entry in entries)
        for entry in reversed(entries):
            if size <= self.limit:
                return
            if entry.name != keep:
                _entries.remove(self.folder, entry.name)
                size -= entry.size


class Place:
    """One name of a cache, for one tower. what: see `describe`. trial: see `trial.py`. data: the fingerprint of the
    images alone."""

    def __init__(self, cache: FeatureCache, name: str, trial: torch.Tensor, what: str, data: str = ""):
        self.cache, self.name, self.data = cache, name, data
        self._trial, self._what = trial, what

    @property
    def _folder(self) -> Path:
        return self.cache.folder / self.name

    def read(self) -> Stored | None:
        """All features, or None."""
        path = self._folder / WHOLE
        stored = _read(path, self.name, self._trial)
        if stored is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # used now: the last to be thrown out
        return stored

    def read_blocks(self, size: int, images: Callable[[range], int]) -> dict[tuple[int, int], Stored]:
        """(first batch, the one after the last) -> what is there while it is not complete, for batches of `size`.

        images: how many there are in a range of batches; a block of another number is not taken."""
        found: dict[tuple[int, int], Stored] = {}
        taken = 0
        for start, stop, path in sorted(_blocks(self._folder / f"part-{size}")):
            if start < taken:  # another program has cut the blocks differently
                continue
            stored = _read(path, self._block(size, start, stop), self._trial)
            if stored is not None and len(stored.features) == images(range(start, stop)):
                found[start, stop] = stored
                taken = stop
        return found

    def write_block(self, size: int, start: int, stop: int, stored: Stored) -> None:
        """Keep batches start..stop-1 of `size` images."""
        path = self._folder / f"part-{size}" / f"{start:06d}-{stop:06d}.safetensors"
        self._write(path, self._block(size, start, stop), stored)

    def write(self, stored: Stored) -> None:
        """Keep all features, and take the blocks away. Then the folder is brought below its limit."""
        self._write(self._folder / WHOLE, self.name, stored)
        for part in self._folder.glob("part-*"):
            _entries.take_away(part)
        try:
            self.cache.trim(keep=self.name)
        except Exception as error:  # what was made is kept; the next one makes room
            print(f"Note: the feature cache could not be brought below its limit ({error})", file=sys.stderr)

    def _block(self, size: int, start: int, stop: int) -> str:
        return f"{self.name} {size} {start}-{stop}"

    def _write(self, path: Path, place: str, stored: Stored) -> None:
        tensors = {"features": stored.features.contiguous(), "trial": self._trial.contiguous()}
        if not torch.isfinite(tensors["features"]).all():
            raise ZhclipError(f"{path}: image features that are not finite are not kept")
        if stored.labels is not None:
            tensors["labels"] = stored.labels.contiguous()
        about = {
            "format": FORMAT_VERSION,
            "place": place,
            "what": self._what,
            "seconds": f"{stored.seconds:.3f}",
            "content": _content(tensors),
        }
        try:
            for folder in (self._folder, path.parent):
                if folder.is_symlink():  # what it names is not the cache's to write to
                    folder.unlink()
            with whole_file(path) as part:
                save_file(tensors, part, about)
        except (FileNotFoundError, safetensors.SafetensorError) as error:
            if isinstance(error, safetensors.SafetensorError) and "No such file" not in str(error):
                raise ZhclipError(f"{path}: image features cannot be kept there ({error})") from None
            return  # another program has completed this name and taken the folder of its blocks away
        except OSError as error:
            if isinstance(error, FileExistsError) and not path.parent.is_file():
                return  # taken away between mkdir's failure and its look at what is there
            raise ZhclipError(
                f"{path.parent}: image features cannot be kept there ({error.strerror or error}); "
                "name another folder in ZHCLIP_FEATURE_CACHE, or none"
            ) from None


def _blocks(folder: Path) -> Iterator[tuple[int, int, Path]]:
    for path in folder.glob("*-*.safetensors"):
        first, _, last = path.stem.partition("-")
        if first.isdecimal() and last.isdecimal() and int(first) < int(last):
            yield int(first), int(last), path


def _content(tensors: dict[str, torch.Tensor]) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(raw(tensor.contiguous()))
    return content.hexdigest()


def _trial_of(path: Path) -> torch.Tensor | None:
    """Whose features a file holds; None for a file that is not there or not whole."""
    with contextlib.suppress(Exception), safetensors.safe_open(path, framework="pt") as file:
        return file.get_tensor("trial")
    return None


def _read(path: Path, place: str, trial: torch.Tensor) -> Stored | None:
    """What is there, if it is whole and of the tower with this trial."""
    if not os.path.isfile(path):  # also where one may not look
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
        tensors = load_file(path)
        whole = about.get("place") == place and about.get("format") == FORMAT_VERSION
        if whole and about.get("content") == _content(tensors):
            features, labels = tensors["features"], tensors.get("labels")
            if features.ndim == 2 and (labels is None or len(labels) == len(features)):
                return Stored(features, labels, float(about["seconds"])) if same(tensors["trial"], trial) else None
        reason = "its content is not what was written" if whole else "it belongs somewhere else"
    except MemoryError:
        raise
    except Exception as error:  # of safetensors, of PyTorch, of the system: a damaged file can raise anything
        if not path.exists():  # taken away by another program while it was opened, which PyTorch calls a RuntimeError
            return None
        if isinstance(error, PermissionError):
            print(
                f"Note: {printable(str(path))} in the feature cache may not be read; it is made again", file=sys.stderr
            )
            return None
        reason = printable(" ".join(str(error).split()))
    print(f"Note: {printable(str(path))} in the feature cache is damaged ({reason}); it is made again", file=sys.stderr)
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def describe(**facts) -> str:
    """What a name is of, for people: kept beside the features and shown by `zhclip cache info`."""
    return json.dumps(facts, ensure_ascii=True)
