"""The pass over the images of a data set: encoded once, in batches, from the cache where they are there.

What comes out is what CLIP_benchmark computes for the same batches: `normalize(encode_image(images))` under the
autocast that was asked for.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from zhclip_openclip.features import fingerprint, ranks
from zhclip_openclip.features.cache import Place, Stored
from zhclip_openclip.features.finite import check_images
from zhclip_openclip.features.keeping import place_of
from zhclip_openclip.features.linear import fast_linear
from zhclip_openclip.features.progress import Progress, note
from zhclip_openclip.features.settings import current
from zhclip_openclip.features.spent import IMAGES, READING, timed, timed_items
from zhclip_openclip.features.stream import StreamLayout
from zhclip_openclip.features.threads import crowded, is_small, one_thread

#: Images that go through the tower at once, by the kind of device; a batch is cut into so many. On a CPU more of them
#: do not fit into its caches: see benchmarks/image_tower.py.
IMAGES_AT_ONCE = {"cpu": 8}


class ImagePass:
    """The images of a loader as unit features, batch by batch and in order.

    loader: not shuffled; gives (images, labels or captions). amp: mixed precision; the caller decides.
    what: name for people: of the progress bar and in the cache. keep: False where what comes with the images is needed
    and is no tensor: such a pass is not cached.

    Iterating gives (features (n, d) on the CPU or on `device`, what came with the images) for each batch that belongs
    to this process: all of them, unless `ranks` splits them. `starts` has the place of each batch's first image in the
    whole. Labels are None for batches of a data set with exact relations (see `metrics/evaluate.py`) that came from the
    cache. All processes make such a pass, and come to its end, together.

    Raises FiniteError: features that are not finite; it names the image.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loader: torch.utils.data.DataLoader,
        device: str,
        amp: bool = True,
        what: str = "",
        keep: bool = True,
    ):
        self._model, self._loader, self._device, self._amp = model, loader, device, amp
        self._what, self._kept = what, keep
        self._settings = current()
        self._encode = encoder(model, device, amp, self._settings.compile)
        readers = getattr(loader, "num_workers", 0) if torch.device(device).type == "cpu" else 0
        self._alone = crowded(readers, torch.get_num_threads()) and is_small(fingerprint.image_tower(model))
        self._layout = layout_of(loader)
        self.total = self._layout.images(range(self._layout.batches)) if self._layout else None  #: images, if known
        self.starts: list[int] = []
        self.reused = 0  #: images that came from the cache
        self.saved = 0.0  #: seconds that making those took
        self.data = ""  #: fingerprint of the images, once begun; "" where they are not kept

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        self.starts, self.reused, self.saved = [], 0, 0.0
        layout = self._layout
        place, name = self._place()
        self.data = place.data if place is not None else ""
        if ranks.size() > 1:
            ranks.agree("the images", [name, self.total, layout.size if layout else None])
        with Progress("images", self._what, self.total) as progress:
            if layout is None:  # a stream, or an order that is not the data set's
                batches = self._stream(place, progress)
            elif place is None:
                batches = self._new(layout, ranks.part(layout.batches), progress)
            else:
                batches = self._cached(place, layout, ranks.part(layout.batches), progress)
            for start, features, labels in batches:
                self.starts.append(start)
                yield features, labels
            progress.wait()
        if place is not None:
            self._tell(progress)
            if ranks.rank() == 0:
                place.cache.tidy()

    # -------------------------------------------------------- without the cache

    def _new(
        self, layout: Layout | StreamLayout, batches: range, progress: Progress
    ) -> Iterator[tuple[int, torch.Tensor, Any]]:
        start = layout.images(range(batches.start))
        for images, labels in timed_items(READING, layout.loader(batches, torch.device(self._device).type)):
            with timed(IMAGES), one_thread(self._alone):
                features = self._checked(self._encode(images), start)
            progress.add(len(features))
            yield start, features, labels
            start += len(features)

    def _checked(self, features: torch.Tensor, start: int) -> torch.Tensor:
        check_images(features, start, self._loader, self._what, self._device, self._amp)
        return features

    def _stream(self, place: Place | None, progress: Progress) -> Iterator[tuple[int, torch.Tensor, Any]]:
        stored = place.read() if place else None
        if stored is not None and stored.labels is None:
            stored = None  # of a stream nothing is kept without its labels
        if place is not None and all(ranks.everyones(stored is not None)):
            yield from self._stored_stream(stored, progress)
            return
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        begun = time.perf_counter()
        for start, images, labels in timed_items(READING, in_turns(self._loader)):
            with timed(IMAGES), one_thread(self._alone):
                features = self._checked(self._encode(images), start)
            progress.add(len(features))
            if place is not None and isinstance(labels, torch.Tensor) and ranks.size() == 1:
                kept.append((features.cpu(), labels))
            yield start, features, labels
        if kept:
            features, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
            place.write(Stored(features, labels, time.perf_counter() - begun))

    def _stored_stream(self, stored: Stored, progress: Progress) -> Iterator[tuple[int, torch.Tensor, Any]]:
        mine = ranks.part(len(stored.features))
        for rows in torch.arange(mine.start, mine.stop).split(1024):
            progress.add(len(rows), reused=True)
            if len(rows):
                yield int(rows[0]), stored.features[rows].to(self._device), stored.labels[rows]
        self.reused, self.saved = len(mine), stored.seconds * len(mine) / max(1, len(stored.features))

    # -------------------------------------------------------- with it

    def _place(self) -> tuple[Place | None, str]:
        if not self._kept:
            return None, ""
        ways = [self._encode] if self._amp is False else [encoder(self._model, self._device, False), self._encode]
        return place_of(self._model, self._loader, ways, self._device, self._amp, self._what, self._settings)

    def _cached(
        self, place: Place, layout: Layout | StreamLayout, mine: range, progress: Progress
    ) -> Iterator[tuple[int, torch.Tensor, Any]]:
        whole = place.read()
        if whole is not None and len(whole.features) == self.total:
            stored = {(0, layout.batches): whole}
        else:
            whole, stored = None, place.read_blocks(layout.size, layout.images)
        for start, stop, found in _runs(stored, mine):
            if found is None:
                yield from self._keep(place, layout, range(start, stop), progress)
                continue
            (first, _), block = found
            offset = layout.images(range(first))
            for batch in range(start, stop):
                rows = slice(layout.images(range(batch)) - offset, layout.images(range(batch + 1)) - offset)
                labels = block.labels[rows] if block.labels is not None else None
                features = block.features[rows].to(self._device)
                self.reused += len(features)
                self.saved += block.seconds * len(features) / len(block.features)
                progress.add(len(features), reused=True)
                yield offset + rows.start, features, labels
        # Each process has its own look at the cache, which others may be writing to and throwing out of.
        progress.wait()
        if whole is None and ranks.rank() == 0:
            self._complete(place, layout)

    def _keep(
        self, place: Place, layout: Layout | StreamLayout, batches: range, progress: Progress
    ) -> Iterator[tuple[int, torch.Tensor, Any]]:
        """New features, kept in blocks as they come."""
        held: list[tuple[torch.Tensor, Any]] = []
        first, begun = batches.start, time.perf_counter()

        def flush(stop: int) -> None:
            nonlocal first, begun
            features = torch.cat([features for features, _ in held])
            labelled = isinstance(held[0][1], torch.Tensor)
            labels = torch.cat([labels for _, labels in held]) if labelled else None
            seconds = time.perf_counter() - begun
            place.write_block(layout.size, first, stop, Stored(features, labels, seconds))
            held.clear()
            first, begun = stop, time.perf_counter()

        for batch, (start, features, labels) in zip(batches, self._new(layout, batches, progress), strict=True):
            held.append((features.cpu(), labels))
            if time.perf_counter() - begun >= self._settings.block_seconds:
                flush(batch + 1)
            yield start, features, labels
        if held:
            flush(batches.stop)

    def _complete(self, place: Place, layout: Layout | StreamLayout) -> None:
        """All blocks as one file; not where some are on another machine, or another program has done so."""
        blocks = place.read_blocks(layout.size, layout.images)
        edges = sorted(blocks)
        if not edges or [start for start, _ in edges] + [layout.batches] != [0] + [stop for _, stop in edges]:
            return
        parts = [blocks[edge] for edge in edges]
        labels = None if parts[0].labels is None else torch.cat([part.labels for part in parts])
        features = torch.cat([part.features for part in parts])
        place.write(Stored(features, labels, sum(part.seconds for part in parts)))

    def _tell(self, progress: Progress) -> None:
        told = ranks.everyones((self.reused, self.saved))
        self.reused, self.saved = (sum(column) for column in zip(*told, strict=True))
        if self.reused and not progress.told:
            note(f"Image features: {self.reused:,} from the cache, which took {self.saved:,.1f} s to make")


def layout_of(loader: Any) -> Layout | StreamLayout | None:
    """The batches of a loader by number, where they can be had so. One process takes a stream as it comes."""
    return Layout.of(loader) or (StreamLayout.of(loader) if ranks.size() > 1 else None)


def batches_of(loader: Any, device: str) -> Iterator[tuple[int, Any, Any]]:
    """(place of the first image, images, what came with them) of the batches that are this process's."""
    layout = layout_of(loader)
    if layout is None:
        yield from in_turns(loader)
        return
    mine = ranks.part(layout.batches)
    start = layout.images(range(mine.start))
    for images, labels in layout.loader(mine, torch.device(device).type):
        yield start, images, labels
        start += len(images)


def in_turns(loader: Any) -> Iterator[tuple[int, Any, Any]]:
    """(place of the first image, images, labels) of the batches of a stream that are this process's, one after the
    other in turn: where nobody can tell how many there will be, each process reads them all."""
    # timm's reader of TFDS takes a part of its own as soon as torch.distributed is there, and pads it.
    reader = getattr(getattr(loader, "dataset", None), "reader", None)
    if hasattr(reader, "dist_num_replicas"):
        reader.dist_rank, reader.dist_num_replicas = 0, 1
    start = 0
    for number, (images, labels) in enumerate(loader):
        if number % ranks.size() == ranks.rank():
            yield start, images, labels
        start += len(images)


def encoder(
    model: torch.nn.Module, device: str, amp: bool, compiled: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from images (n, 3, s, s) to unit features (n, d) on `device`."""
    kind = torch.device(device).type
    tower = fingerprint.image_tower(model)
    if compiled and getattr(tower, "_compiled_call_impl", None) is None:
        tower.compile()  # in place: its parameters keep their names
    at_once = IMAGES_AT_ONCE.get(kind, sys.maxsize) if getattr(model, "zhclip_model", None) else sys.maxsize

    def encode(images: torch.Tensor) -> torch.Tensor:
        # A compiled tower has its linear layers from the compiler.
        linear = contextlib.nullcontext() if compiled else fast_linear(model, device, amp)
        with torch.no_grad(), torch.autocast(kind, enabled=amp), linear:
            images = images.to(device, non_blocking=True)
            if len(images) <= at_once:
                return F.normalize(model.encode_image(images), dim=-1)
            return F.normalize(torch.cat([model.encode_image(part) for part in images.split(at_once)]), dim=-1)

    return encode


class Layout:
    """The batches of a loader by number, so that any of them can be asked for.

    batches: how many. size: images in each but the last.
    """

    def __init__(self, loader: torch.utils.data.DataLoader, items: int, size: int, ready: bool):
        self._loader, self._items, self.size, self._ready = loader, items, size, ready
        self.batches = -(-items // size)

    @classmethod
    def of(cls, loader: Any) -> Layout | None:
        """None for a stream, and for a loader with an order of its own."""
        dataset = getattr(loader, "dataset", None)
        sampler = getattr(loader, "sampler", None)
        if not isinstance(loader, torch.utils.data.DataLoader) or not hasattr(type(dataset), "__len__"):
            return None
        if isinstance(dataset, torch.utils.data.IterableDataset):
            return None
        if not isinstance(sampler, torch.utils.data.SequentialSampler) or loader.drop_last:
            return None
        if loader.batch_size is not None:
            return cls(loader, len(dataset), loader.batch_size, ready=False)
        size = getattr(dataset, "batch_size", None)
        if isinstance(size, int) and hasattr(dataset, "dataset"):  # gives batches itself: see datasets/_retrieval.py
            return cls(loader, len(dataset.dataset), size, ready=True)
        return None

    def images(self, batches: range) -> int:
        """How many there are in these batches."""
        return max(0, min(self._items, batches.stop * self.size) - batches.start * self.size)

    def loader(self, batches: Sequence[int], kind: str) -> torch.utils.data.DataLoader:
        """A loader of these batches alone."""
        given = self._loader
        how = {
            "num_workers": min(given.num_workers, len(batches)),
            "collate_fn": given.collate_fn,
            "pin_memory": given.pin_memory or kind == "cuda",
            "timeout": given.timeout,
            "worker_init_fn": given.worker_init_fn,
            "multiprocessing_context": given.multiprocessing_context,
        }
        if self._ready:
            return torch.utils.data.DataLoader(given.dataset, batch_size=None, sampler=list(batches), **how)
        rows = [range(batch * self.size, min(self._items, (batch + 1) * self.size)) for batch in batches]
        return torch.utils.data.DataLoader(given.dataset, batch_sampler=rows, **how)


def _runs(stored: dict[tuple[int, int], Stored], wanted: range) -> list:
    """`wanted` cut into runs (start, stop, (key, stored) or None) of batches that are there and that are not."""
    runs, at = [], wanted.start
    for start, stop in sorted(stored):
        start, end = max(start, at), min(stop, wanted.stop)
        if start >= end:
            continue
        if at < start:
            runs.append((at, start, None))
        key = next(key for key in stored if key[0] <= start < key[1])
        runs.append((start, end, (key, stored[key])))
        at = end
    if at < wanted.stop:
        runs.append((at, wanted.stop, None))
    return runs
