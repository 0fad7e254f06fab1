"""The features of all pictures in a folder: taken from the feature cache, and made for what is new there.

In the cache (`features/cache.py`) a folder has one name for each tower, preprocessing and precision. The rows behind it
say themselves what they are of: beside each lies the SHA-256 of its file. So files may be moved, renamed, copied and
deleted below the folder, and none is encoded twice. While rows are made they are kept in blocks, as those of a data set
are. Which file has which content is in an index beside them (`_index.py`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from zhclip_openclip._cores import cores
from zhclip_openclip._errors import counted
from zhclip_openclip.datasets._images import Skipped
from zhclip_openclip.datasets.pictures_of import Pictures
from zhclip_openclip.features import image_pass, keeping
from zhclip_openclip.features.cache import Place, Stored
from zhclip_openclip.features.settings import current, using
from zhclip_openclip.folders import _seen
from zhclip_openclip.folders._contents import Contents
from zhclip_openclip.folders._errors import FolderError
from zhclip_openclip.folders._index import FILE, FileIndex
from zhclip_openclip.folders._model import Opened

#: Share of rows in the cache that may belong to files that are gone before they are taken out.
_DEAD = 0.1
#: Pictures below which no process is started to read them.
_FEW = 32
_READERS = 8


@dataclass
class Shelf:
    """The pictures of a folder with their features, one for each content.

    names: of each, the first in the order of names. copies: number of a picture -> other files of the same content.
    features: (n, d) unit vectors in the order of `names`. digests: (n, 32) uint8, SHA-256 of the files. files: how many
    pictures were found. skipped: those that could not be read. encoded: how many of `names` are new.
    """

    folder: Pictures
    names: list[str]
    features: torch.Tensor
    digests: np.ndarray
    files: int
    copies: dict[int, list[str]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    encoded: int = 0
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)


def open_shelf(
    folder: Pictures,
    opened: Opened,
    batch_size: int = 32,
    workers: int | None = None,
    tell: Callable[[str], None] | None = None,
    now: Callable[[], int] = time.time_ns,
) -> Shelf:
    """The features of a folder's pictures; kept where `features.current().cache` says, if anywhere.

    folder: see `datasets/pictures_of.py`. workers: processes that read files that are new; None for one a core, 8 at
    most. tell: gets a line where reading takes long. now: the clock, nanoseconds since the epoch.

    Raises FolderError: no pictures, or none that can be read. FiniteError: features that are not finite.
    """
    if not folder.names:
        others = f"; {folder.notes()[0]}" if folder.notes() else ""
        raise FolderError(f"{folder.folder}: no pictures there, and none in the folders below it{others}")
    place, notes = _place(folder, opened)
    index = FileIndex(place.cache.folder / place.name / FILE if place else None, _seen.reader())
    files = _Files(folder, index, now)
    rows = _Rows(place)
    if len(rows):  # else all of them are read anyway
        files.read(files.unknown(), tell)
    wanted = files.without(rows)
    before = len(rows)
    if wanted:
        try:
            _encode(files, rows, wanted, opened, batch_size, workers)
        finally:
            files.save()  # what was read stays known, whatever else goes wrong
    elif files.touched:
        files.save()
    return _shelf(files, rows, before, notes)


def _place(folder: Pictures, opened: Opened) -> tuple[Place | None, list[str]]:
    settings = current()
    if settings.cache is None:
        return None, []
    # The path is part of the name so that two folders have a place each; what is a row's content, the row says.
    where = hashlib.sha256(os.fsencode(os.path.realpath(folder.folder))).hexdigest()
    place, reason = keeping.place_by_rows(
        opened.module,
        _seen.Example(opened.transform),
        opened.encoders(),
        opened.device,
        opened.amp,
        ["a folder", _seen.EDITION, where],
        os.path.basename(os.path.realpath(folder.folder)),
        settings,
    )
    return place, [f"{opened.name} has {reason}: features of this folder are not kept"] if reason else []


class _Files:
    """The files of a folder and what is known of their content. digests: (n, 32) uint8, valid where `read_`."""

    def __init__(self, folder: Pictures, index: FileIndex, now: Callable[[], int]):
        self.folder, self._index, self._now = folder, index, now
        self.names = folder.names
        count = len(self.names)
        there = _facts(folder)
        place = index.known(self.names, there)
        self.is_read = place >= 0
        self.facts = there
        self.digests = np.zeros((count, 32), np.uint8)
        self.digests[self.is_read] = index.digests[place[self.is_read]]
        known = index.reasons
        read = {name for name, read in zip(self.names, self.is_read, strict=True) if read} if known else ()
        self.lasting = {name: why for name, why in known.items() if name in read}
        self.passing: dict[str, str] = {}  # reasons that may be gone the next time
        #: Whether the index has to be written again.
        self.touched = not self.is_read.all() or len(index.names) != count

    def unknown(self) -> list[int]:
        return np.flatnonzero(~self.is_read).tolist()

    def reason(self, name: str) -> str:
        """Why a file counts for nothing, or ""."""
        return self.lasting.get(name) or self.passing.get(name, "")

    def take(self, number: int, read: _seen.Read) -> None:
        """What came of reading a file."""
        name = self.names[number]
        self.lasting.pop(name, None)
        self.passing.pop(name, None)
        if read.reason:
            (self.lasting if read.lasting else self.passing)[name] = read.reason
        self.is_read[number] = read.digest is not None
        if read.digest is not None:
            self.digests[number] = np.frombuffer(read.digest, np.uint8)
            self.facts[number] = read.facts

    def read(self, numbers: list[int], tell: Callable[[str], None] | None) -> None:
        """The digests of files, without decoding them: some may only have moved."""

        def one(number: int) -> tuple[int, _seen.Read]:
            path = os.path.join(self.folder.folder, self.names[number])
            try:
                data, facts = _seen.read_file(path, self._now)
            except (OSError, ValueError) as error:
                return number, _seen.Read(None, (-1, 0, 0, 0), str(error))
            return number, _seen.Read(hashlib.sha256(data).digest(), facts)

        last = time.monotonic()
        with ThreadPoolExecutor(min(_READERS, cores())) as pool:
            for start in range(0, len(numbers), 256):  # so that a million files are not all asked for at once
                for number, read in pool.map(one, numbers[start : start + 256]):
                    if read.digest is not None:
                        self.take(number, read)
                if tell is not None and time.monotonic() - last > 10:
                    last = time.monotonic()
                    tell(f"reading files that are new or changed: {start + 256:,} of {len(numbers):,}")

    def bad(self) -> list[int]:
        """The files that are no pictures, or could not be read, in their order."""
        if not self.lasting and not self.passing:
            return []
        return [number for number, name in enumerate(self.names) if self.reason(name)]

    def without(self, rows: _Rows) -> list[int]:
        """The files whose picture has no features: those that were not read, and one for each new content."""
        new = self.is_read & (rows.of(self.digests) < 0)
        new[self.bad()] = False
        numbers = np.flatnonzero(new)
        digests = self.digests[numbers]
        new[numbers] = Contents(digests).places(digests) == np.arange(len(numbers))  # the first of each content
        return np.flatnonzero(new | ~self.is_read).tolist()

    def save(self) -> None:
        keep = np.flatnonzero(self.is_read)
        names = [self.names[number] for number in keep]
        self._index.save(names, self.facts[keep], self.digests[keep], self.lasting)


def _facts(folder: Pictures) -> np.ndarray:
    """(n, 4) of all files; of what is gone since it was listed, or may not be looked at, facts that nothing has."""
    root = os.path.join(os.fspath(folder.folder), "")
    facts: list[int] = []
    for name in folder.names:
        try:
            facts += _seen.facts_of(os.stat(root + name))
        except OSError:
            facts += (-2, 0, 0, 0)
    return np.array(facts, np.int64).reshape(-1, 4)


class _Rows:
    """Features by content: what the cache has, and what is added. The row of a content is the first that has it."""

    def __init__(self, place: Place | None):
        self.place = place
        self.stored: list[Stored] = []
        self._contents: Contents | None = None
        self.whole = False  # whether all of it is one file in the cache
        self.seconds, self._count, self._next = 0.0, 0, 0
        if place is None:
            return
        whole, blocks = place.read(), place.read_blocks(1, len)
        self.whole = whole is not None and not blocks
        for stored in filter(None, [whole, *blocks.values()]):
            if stored.labels is not None and stored.labels.shape[1:] == (32,) and stored.labels.dtype == torch.uint8:
                self.add(stored.features, stored.labels.numpy(), stored.seconds)
        self._next = max((stop for _, stop in blocks), default=0)

    def __len__(self) -> int:
        return self._count

    def of(self, digests: np.ndarray) -> np.ndarray:
        """(n,) the row of each of these contents, -1 where there is none. digests: (n, 32) uint8."""
        if self._contents is None:
            known = [stored.labels.numpy() for stored in self.stored]
            self._contents = Contents(np.concatenate(known) if known else np.zeros((0, 32), np.uint8))
        return self._contents.places(digests)

    def add(self, features: torch.Tensor, digests: np.ndarray, seconds: float) -> None:
        self._count += len(features)
        self._contents = None
        self.stored.append(Stored(features, torch.from_numpy(digests), seconds))
        self.seconds += seconds

    def keep(self, features: torch.Tensor, digests: np.ndarray, seconds: float) -> None:
        """Add, and write it as a block: a kill costs what comes after."""
        self.add(features, digests, seconds)
        self.whole = False
        if self.place is not None:
            block = Stored(features, torch.from_numpy(digests), seconds)
            self.place.write_block(1, self._next, self._next + len(features), block)
            self._next += len(features)

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """(len(rows), d): these rows; as they lie there, without a copy, where they are all of one file in order."""
        first = self.stored[0].features
        if len(self.stored) == 1 and len(rows) == len(first) and (rows == np.arange(len(rows))).all():
            return first
        starts = np.cumsum([0, *(len(stored.features) for stored in self.stored)])
        taken = torch.empty(len(rows), first.shape[1], dtype=first.dtype)
        for start, stop, stored in zip(starts, starts[1:], self.stored, strict=False):
            here = np.flatnonzero((rows >= start) & (rows < stop))
            if len(here):
                taken[torch.from_numpy(here)] = stored.features[torch.from_numpy(rows[here] - start)]
        return taken

    def write(self, features: torch.Tensor, digests: np.ndarray) -> None:
        """Keep these as one file, in place of all that is there."""
        self.stored.clear()  # some systems replace no file that is mapped
        if self.place is not None:
            self.place.write(Stored(features, torch.from_numpy(np.ascontiguousarray(digests)), self.seconds))


def _encode(files: _Files, rows: _Rows, wanted: list[int], opened: Opened, size: int, workers: int | None) -> None:
    """Features of the wanted files, kept in blocks as they come."""
    names = [files.names[number] for number in wanted]
    dataset = _seen.Pictures(files.folder.folder, names, opened.transform, files._now)
    if workers is None:
        workers = min(8, cores()) if len(wanted) >= _FEW else 0
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=size, num_workers=workers, collate_fn=_seen.Pictures.together
    )
    held: list[torch.Tensor] = []
    digests: list[bytes] = []
    begun, every = time.perf_counter(), current().block_seconds
    with using(cache=None):
        what = os.path.basename(os.path.realpath(files.folder.folder))
        images = image_pass.ImagePass(opened.module, loader, opened.device, opened.amp, what, keep=False)
        done = 0
        for features, reads in images:
            for number, read in zip(wanted[done : done + len(reads)], reads, strict=True):
                files.take(number, read)
            done += len(reads)
            good = [place for place, read in enumerate(reads) if not read.reason]
            if good:
                held.append(features[good].cpu())
                digests += [reads[place].digest for place in good]
            if held and (time.perf_counter() - begun >= every or done == len(wanted)):
                seconds = time.perf_counter() - begun
                rows.keep(torch.cat(held), np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).copy(), seconds)
                held, digests, begun = [], [], time.perf_counter()


def _shelf(files: _Files, rows: _Rows, before: int, notes: list[str]) -> Shelf:
    """before: rows that were there before any picture was encoded."""
    bad = files.bad()
    for number in np.setdiff1d(np.flatnonzero(rows.of(files.digests) < 0), bad):
        # Its content was to be encoded from another file, which has changed since.
        files.passing[files.names[number]] = "files changed while they were read; search again"
    bad = files.bad()
    skipped = [
        Skipped(name, os.path.join(files.folder.folder, name), files.reason(name)).printable()
        for name in (files.names[number] for number in bad)
    ]
    good = np.delete(np.arange(len(files.names)), bad)
    row = rows.of(files.digests[good])
    order, first, content = np.unique(row, return_index=True, return_inverse=True)
    at = np.argsort(first)  # one for each content, in the order of the names
    numbers, order = good[first[at]], order[at]
    names = [files.names[number] for number in numbers.tolist()]
    copies: dict[int, list[str]] = {}
    if len(names) < len(good):
        place = np.argsort(at)[content]
        for number in np.setdiff1d(np.arange(len(good)), first).tolist():
            copies.setdefault(int(place[number]), []).append(files.names[good[number]])
    if not names:
        raise FolderError(
            f"{files.folder.folder}: of {counted(len(files.names), 'picture')} none can be read: {skipped[0].key} "
            f"({skipped[0].reason})"
        )
    encoded = int((order >= before).sum())
    features, digests = rows.take(order), files.digests[numbers]
    if not rows.whole or len(rows) - len(names) > _DEAD * len(rows):
        rows.write(features, digests)
        files.save()
    return Shelf(files.folder, names, features, digests, len(files.names), copies, skipped, encoded, notes)
