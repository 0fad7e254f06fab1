"""The pass over the images of a data set: encoded once, in batches, from the cache where they are there.

What comes out is what CLIP_benchmark computes for the same batches: `normalize(encode_image(images))` under the
autocast that was asked for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from zhclip_openclip.features import fingerprint, ranks
from zhclip_openclip.features.cache import FeatureCache, Stored, describe
from zhclip_openclip.features.settings import Settings, current

#: Images that go through the tower at once, by the kind of device; a batch is cut into so many. On a CPU more of them
#: do not fit into its caches: see benchmarks/image_tower.py.
IMAGES_AT_ONCE = {"cpu": 8}


class ImagePass:
    """The images of a loader as unit features, batch by batch and in order.

    loader: not shuffled; gives (images, labels or captions). amp: mixed precision; the caller decides.
    what: name for people: of the progress bar and in the cache. keep: False where what comes with the images is needed
    and is no tensor: such a pass is not cached.

    Iterating gives (features (n, d) on the CPU or on `device`, what came with the images) for each batch that belongs
    to this process: all of them, unless `ranks` splits them. Labels are None for batches of a data set with exact
    relations (see `metrics/evaluate.py`) that came from the cache.
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
        self.reused = 0  #: images that came from the cache
        self.saved = 0.0  #: seconds that making those took

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        layout = Layout.of(self._loader)
        if layout is None:  # a stream, or an order that is not the data set's
            yield from self._all_new()
            return
        cache, name = self._cache()
        mine = ranks.part(layout.batches)
        with _Progress(self._what, layout.images(mine), self._settings) as progress:
            if cache is None:
                for features, labels in self._new(layout, mine):
                    progress.add(len(features))
                    yield features, labels
            else:
                yield from self._cached(cache, name, layout, mine, progress)

    # -------------------------------------------------------- without the cache

    def _all_new(self) -> Iterator[tuple[torch.Tensor, Any]]:
        cache, name = self._cache()
        stored = cache.read(name) if cache else None
        if stored is not None:
            yield from self._stored_stream(stored)
            return
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        begun = time.perf_counter()
        with _Progress(self._what, None, self._settings) as progress:
            for images, labels in self._loader:
                features = self._encode(images)
                progress.add(len(features))
                if cache is not None and isinstance(labels, torch.Tensor):
                    kept.append((features.cpu(), labels))
                yield features, labels
        if kept:
            features, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
            cache.write(name, self._described(), Stored(features, labels, time.perf_counter() - begun))

    def _stored_stream(self, stored: Stored) -> Iterator[tuple[torch.Tensor, Any]]:
        with _Progress(self._what, len(stored.features), self._settings) as progress:
            for rows in torch.arange(len(stored.features)).split(1024):
                progress.add(len(rows), reused=True)
                yield stored.features[rows].to(self._device), stored.labels[rows]
            self._tell(len(stored.features), stored.seconds, progress)

    def _new(self, layout: Layout, batches: Sequence[int]) -> Iterator[tuple[torch.Tensor, Any]]:
        for images, labels in layout.loader(batches, torch.device(self._device).type):
            yield self._encode(images), labels

    # -------------------------------------------------------- with it

    def _cache(self) -> tuple[FeatureCache | None, str]:
        folder = self._settings.cache
        if folder is None or not self._kept or self._model.training:
            return None, ""
        made_with = fingerprint.preprocessing(self._loader.dataset)
        data = fingerprint.data(self._loader, self._loader.num_workers) if made_with else None
        if data is None:
            reason = "a stream from somewhere else" if made_with else "a preprocessing that differs from time to time"
            print(f"Note: {self._what or 'this data set'} has {reason}: its image features are not kept")
            return None, ""
        tower = fingerprint.tower(self._model)
        name = fingerprint.digest([tower, made_with, fingerprint.precision(self._device, self._amp), data])
        return FeatureCache(folder, self._settings.limit), name

    def _described(self) -> str:
        return describe(dataset=self._what, device=str(self._device), amp=self._amp)

    def _cached(
        self, cache: FeatureCache, name: str, layout: Layout, mine: range, progress: _Progress
    ) -> Iterator[tuple[torch.Tensor, Any]]:
        whole = cache.read(name)
        if whole is not None and len(whole.features) == layout.images(range(layout.batches)):
            stored = {(0, layout.batches): whole}
        else:
            whole, stored = None, cache.read_blocks(name, layout.size)
        reused, saved = 0, 0.0
        for start, stop, found in _runs(stored, mine):
            if found is None:
                for features, labels in self._keep(cache, name, layout, range(start, stop)):
                    progress.add(len(features))
                    yield features, labels
                continue
            (first, _), block = found
            offset = layout.images(range(first))
            for batch in range(start, stop):
                rows = slice(layout.images(range(batch)) - offset, layout.images(range(batch + 1)) - offset)
                labels = block.labels[rows] if block.labels is not None else None
                features = block.features[rows].to(self._device)
                reused += len(features)
                saved += block.seconds * len(features) / len(block.features)
                progress.add(len(features), reused=True)
                yield features, labels
        if whole is None:
            ranks.barrier()
            if ranks.rank() == 0:
                self._complete(cache, name, layout)
        self._tell(reused, saved, progress)

    def _keep(
        self, cache: FeatureCache, name: str, layout: Layout, batches: range
    ) -> Iterator[tuple[torch.Tensor, Any]]:
        """New features, kept in blocks as they come."""
        held: list[tuple[torch.Tensor, Any]] = []
        first, begun = batches.start, time.perf_counter()

        def flush(stop: int) -> None:
            nonlocal first, begun
            features = torch.cat([features for features, _ in held])
            labelled = isinstance(held[0][1], torch.Tensor)
            labels = torch.cat([labels for _, labels in held]) if labelled else None
            seconds = time.perf_counter() - begun
            cache.write_block(name, self._described(), layout.size, first, stop, Stored(features, labels, seconds))
            held.clear()
            first, begun = stop, time.perf_counter()

        for batch, (features, labels) in zip(batches, self._new(layout, batches), strict=True):
            held.append((features.cpu(), labels))
            if time.perf_counter() - begun >= self._settings.block_seconds:
                flush(batch + 1)
            yield features, labels
        if held:
            flush(batches.stop)

    def _complete(self, cache: FeatureCache, name: str, layout: Layout) -> None:
        """All blocks as one file; not where some are on another machine, or another program has done so."""
        blocks = cache.read_blocks(name, layout.size)
        edges = sorted(blocks)
        if not edges or [start for start, _ in edges] + [layout.batches] != [0] + [stop for _, stop in edges]:
            return
        parts = [blocks[edge] for edge in edges]
        labels = None if parts[0].labels is None else torch.cat([part.labels for part in parts])
        features = torch.cat([part.features for part in parts])
        cache.write(name, self._described(), Stored(features, labels, sum(part.seconds for part in parts)))

    def _tell(self, reused: int, saved: float, progress: _Progress) -> None:
        self.reused, self.saved = reused, saved
        if reused and not progress.told and ranks.rank() == 0:
            print(f"Image features: {reused:,} from the cache, which took {saved:,.1f} s to make")


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
        with torch.no_grad(), torch.autocast(kind, enabled=amp):
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


class _Progress:
    """A bar, or who asked to be told."""

    def __init__(self, what: str, total: int | None, settings: Settings):
        self.told = settings.progress
        self._total, self._done, self._reused = total, 0, 0
        quiet = self.told is not None or ranks.rank() > 0
        self._bar = tqdm(total=total, desc=f"Encoding images{' of ' + what if what else ''}", unit="img", disable=quiet)

    def __enter__(self) -> _Progress:
        self._tell()
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def add(self, count: int, reused: bool = False) -> None:
        self._done += count
        self._reused += count if reused else 0
        self._bar.update(count)
        self._tell()

    def _tell(self) -> None:
        if self.told is not None:
            self.told("images", self._done, self._total, self._reused)
