"""The feature cache: a folder of image features under names of what they were made from (see `fingerprint.py`).

    <folder>/<name>/features.safetensors     all features of a data set by a tower; its labels beside them
    <folder>/<name>/part-<size>/<a>-<b>.safetensors
                                             batches a..b-1 of `size` images, while it is not complete

Each file is written under another name and renamed, and carries the SHA-256 of its content: several programs can write
at once, and a kill costs what was not written yet. A file that does not fit its digest or its place is taken away, told
of in one line, and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file

FORMAT_VERSION = "1"
_WHOLE = "features.safetensors"


@dataclass(frozen=True)
class Entry:
    """What `info` tells of one name: what it is of, rows, bytes on disk, seconds that it took to make, whether all of
    it is there, when it was last used (seconds since the epoch)."""

    name: str
    what: str
    rows: int
    size: int
    seconds: float
    complete: bool
    used: float


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

    # -------------------------------------------------------- one name

    def read(self, name: str) -> Stored | None:
        """All features of a name, or None."""
        path = self.folder / name / _WHOLE
        stored = _read(path, name)
        if stored is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # used now: the last to be thrown out
        return stored

    def read_blocks(self, name: str, size: int) -> dict[tuple[int, int], Stored]:
        """(first batch, the one after the last) -> what is there of an incomplete name, for batches of `size`."""
        found: dict[tuple[int, int], Stored] = {}
        taken = 0
        for start, stop, path in sorted(_blocks(self.folder / name / f"part-{size}")):
            if start < taken:  # another program has cut the blocks differently
                continue
            stored = _read(path, f"{name} {start}-{stop}")
            if stored is not None:
                found[start, stop] = stored
                taken = stop
        return found

    def write_block(self, name: str, what: str, size: int, start: int, stop: int, stored: Stored) -> None:
        """Keep batches start..stop-1."""
        path = self.folder / name / f"part-{size}" / f"{start:06d}-{stop:06d}.safetensors"
        _write(path, f"{name} {start}-{stop}", what, stored)

    def write(self, name: str, what: str, stored: Stored) -> None:
        """Keep all of a name, and take its blocks away. Then the folder is brought below its limit, by throwing out
        what was not used for longest."""
        _write(self.folder / name / _WHOLE, name, what, stored)
        for part in (self.folder / name).glob("part-*"):
            shutil.rmtree(part, ignore_errors=True)
        self._trim(keep=name)

    # -------------------------------------------------------- all names

    def entries(self) -> list[Entry]:
        """All names, the last used first. Files that cannot be read have no row count and are there to be cleared."""
        if not self.folder.is_dir():
            return []
        found = [_entry(path) for path in self.folder.iterdir() if path.is_dir() and _is_name(path.name)]
        return sorted((entry for entry in found if entry), key=lambda entry: (-entry.used, entry.name))

    def clear(self) -> tuple[int, int]:
        """Take all names away; gives how many and their bytes. Nothing else in the folder is touched."""
        entries = self.entries()
        for entry in entries:
            self._remove(entry.name)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # if there is nothing else in it
        return len(entries), sum(entry.size for entry in entries)

    def _trim(self, keep: str) -> None:
        entries = self.entries()
        size = sum(entry.size for entry in entries)
        for entry in reversed(entries):
            if size <= self.limit:
                return
            if entry.name != keep:
                self._remove(entry.name)
                size -= entry.size

    def _remove(self, name: str) -> None:
        # Renamed first, so that nobody finds half of it; who reads it at this moment has it mapped and goes on.
        gone = self.folder / f".{name}-{os.getpid()}"
        try:
            os.replace(self.folder / name, gone)
        except OSError:  # another program was faster, or has it open where that forbids renaming
            return
        shutil.rmtree(gone, ignore_errors=True)


def _is_name(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _blocks(folder: Path) -> Iterator[tuple[int, int, Path]]:
    for path in folder.glob("*-*.safetensors"):
        first, _, last = path.stem.partition("-")
        if first.isdigit() and last.isdigit():
            yield int(first), int(last), path


def _content(tensors: dict[str, torch.Tensor]) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            content.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return content.hexdigest()


def _write(path: Path, place: str, what: str, stored: Stored) -> None:
    tensors = {"features": stored.features.contiguous()}
    if stored.labels is not None:
        tensors["labels"] = stored.labels.contiguous()
    about = {
        "format": FORMAT_VERSION,
        "place": place,
        "what": what,
        "seconds": f"{stored.seconds:.3f}",
        "content": _content(tensors),
    }
    try:
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


def _read(path: Path, place: str) -> Stored | None:
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
        tensors = load_file(path)
        whole = about.get("place") == place and about.get("format") == FORMAT_VERSION
        if whole and about.get("content") == _content(tensors):
            return Stored(tensors["features"], tensors.get("labels"), float(about["seconds"]))
        reason = "its content is not what was written" if whole else "it belongs somewhere else"
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        if not path.exists():  # taken away by another program while it was opened, which PyTorch calls a RuntimeError
            return None
        reason = " ".join(str(error).split())
    print(f"Note: {path} in the feature cache is damaged ({reason}); it is made again", file=sys.stderr)
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _entry(folder: Path) -> Entry | None:
    what, rows, seconds, size, used, complete = "", 0, 0.0, 0, 0.0, False
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            about = path.stat()
            size, used = size + about.st_size, max(used, about.st_mtime)
            if path.suffix != ".safetensors":
                continue
            with contextlib.suppress(safetensors.SafetensorError, OSError, RuntimeError):
                with safetensors.safe_open(path, framework="pt") as file:
                    told = file.metadata() or {}
                    rows += file.get_slice("features").get_shape()[0]
                what, seconds = told.get("what", what), seconds + float(told.get("seconds", 0))
            complete = complete or path.name == _WHOLE
    except OSError:  # being taken away right now
        return None
    return Entry(folder.name, what, rows, size, seconds, complete, used or time.time())


def describe(**facts) -> str:
    """What a name is of, for people: kept beside the features and shown by `zhclip cache info`."""
    return json.dumps(facts, ensure_ascii=False)
