"""The batches of a WebDataset stream by number, so that several processes can share them.

One process reads such a stream with some workers. Worker w of W takes the shards w, w + W, ... and makes batches of
their samples, across shards; the loader then takes a batch from each worker in turn. So batch j of worker w is the
sequence of samples j * size ... of its shards, and all batches stand in the order of (j, w). How many there are follows
from the number of samples in each shard, which the headers of the tar files tell.

Here any of these batches is made alone: the shards before it are not opened, and the samples before it in its first
shard are dropped before they are decoded. Images, batches and their order are those of one process, to the bit.
"""

from __future__ import annotations

import copy
import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features import ranks


class StreamLayout:
    """What `image_pass.Layout` is for data sets with access by number.

    counts: samples in each shard. size: of a batch.
    """

    def __init__(self, loader: torch.utils.data.DataLoader, grouped: int, counts: Sequence[int], size: int):
        self._loader, self._grouped, self._counts, self.size = loader, grouped, counts, size
        workers = max(1, loader.num_workers)
        lengths = [sum(counts[worker::workers]) for worker in range(workers)]
        #: (number in the worker, worker, samples) of each batch, in the order of one process.
        self._all = sorted(
            (number, worker, min(size, length - number * size))
            for worker, length in enumerate(lengths)
            for number in range(-(-length // size))
        )
        self.batches = len(self._all)
        self._ends = list(itertools.accumulate((samples for *_, samples in self._all), initial=0))

    @classmethod
    def of(cls, loader: Any) -> StreamLayout | None:
        """None for a stream that is no WebDataset from this machine's disks, or leaves images out. All processes count
        a part of the shards and tell the others."""
        dataset = getattr(loader, "dataset", None)
        stages = getattr(dataset, "pipeline", [])
        names = [_name(stage) for stage in stages]
        if not isinstance(loader, torch.utils.data.DataLoader) or loader.batch_size is not None:
            return None
        if names[:1] != ["SimpleShardList"] or "group_by_keys" not in names or names[-1:] != ["_batched"]:
            return None
        if any(getattr(getattr(stage, "rules", None), "skip", False) for stage in stages):
            return None  # which samples there are is known when they have been decoded
        shards = [Path(str(url).removeprefix("file:")) for url in stages[0].urls]
        size = _batch_size(stages[-1])
        if size is None or not all(shard.is_file() for shard in shards):
            return None
        mine = [count_samples(shards[index]) for index in ranks.part(len(shards))]
        counts = [count for part in ranks.everyones(mine) for count in part]
        return cls(loader, names.index("group_by_keys"), counts, size)

    def images(self, batches: range) -> int:
        """How many there are in these batches."""
        return self._ends[batches.stop] - self._ends[batches.start] if batches.stop > batches.start else 0

    def loader(self, batches: Sequence[int], kind: str) -> Iterator[Any]:
        """These batches, in this order. kind: of device."""
        given = self._loader
        runs: dict[int, list[int]] = {}  # worker -> its batches; consecutive ones, as `batches` are
        for batch in batches:
            runs.setdefault(self._all[batch][1], []).append(batch)
        loader = torch.utils.data.DataLoader(
            _Runs([self._run(worker, wanted) for worker, wanted in runs.items()]),
            batch_size=None,
            num_workers=min(given.num_workers, len(runs)),
            pin_memory=given.pin_memory or kind == "cuda",
            timeout=given.timeout if given.num_workers else 0,
            multiprocessing_context=given.multiprocessing_context,
        )
        early: dict[int, Any] = {}
        wanted = iter(batches)
        following = next(wanted, None)
        for number, content in loader:
            early[number] = content
            while following in early:
                yield early.pop(following)
                following = next(wanted, None)

    def _run(self, worker: int, batches: list[int]) -> _Run:
        workers = max(1, self._loader.num_workers)
        shards = list(range(worker, len(self._counts), workers))
        first = self._all[batches[0]][0] * self.size
        while shards and self._counts[shards[0]] <= first:
            first -= self._counts[shards.pop(0)]
        samples = [self._all[batch][2] for batch in batches]
        source = copy.copy(self._loader.dataset)
        urls, stages = source.pipeline[0].urls, source.pipeline
        cut = _Cut(first, first + sum(samples))
        source.pipeline = [
            [{"url": urls[shard]} for shard in shards],
            *(stage for stage in stages[1 : self._grouped] if _name(stage) != "split_by_worker"),
            stages[self._grouped],
            cut,
            *stages[self._grouped + 1 :],
        ]
        return _Run(source, list(batches), samples)


class _Run:
    """Consecutive batches of one worker. source: a pipeline that makes exactly these."""

    def __init__(self, source: Any, numbers: list[int], samples: list[int]):
        self._source, self._numbers, self._samples = source, numbers, samples

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        found = 0
        for number, samples, content in zip(self._numbers, self._samples, self._source, strict=False):
            if len(content[0]) != samples:
                break
            found += 1
            yield number, content
        if found < len(self._numbers):
            raise ZhclipError(
                f"a shard gave other samples than its headers tell (batch {self._numbers[found]}); copy the data again"
            )


class _Cut:
    """A stage that lets samples start..stop-1 through."""

    def __init__(self, start: int, stop: int):
        self._start, self._stop = start, stop

    def __call__(self, source: Iterator) -> Iterator:
        return itertools.islice(source, self._start, self._stop)


class _Runs(torch.utils.data.IterableDataset):
    """(number, batch) of some runs; each worker of a loader takes one of them, or several one after the other."""

    def __init__(self, runs: list[_Run]):
        self._runs = runs

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        worker = torch.utils.data.get_worker_info()
        for run in self._runs[worker.id :: worker.num_workers] if worker else self._runs:
            yield from run


def count_samples(shard: Path) -> int:
    """Samples in a shard, as WebDataset groups its members: neighbours whose names are equal up to the first dot.

    Raises ZhclipError: no whole tar file.
    """
    from webdataset.tariterators import base_plus_ext

    count, before = 0, None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isreg() or re.match(r"__[^/]*__($|/)", member.name):  # its own notes are no samples
                    continue
                key, _ = base_plus_ext(member.name)
                if key is not None and key != before:
                    count, before = count + 1, key
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ZhclipError(f"{shard} is no whole tar file ({error}); copy it again") from None
    return count


def _name(stage: Any) -> str:
    """Of a step of a pipeline: its function where WebDataset has wrapped one."""
    function = getattr(stage, "f", stage)
    return getattr(function, "__name__", type(function).__name__)


def _batch_size(stage: Any) -> int | None:
    """Of the last step, where it makes batches of all samples."""
    given = dict(zip(("batchsize", "collation_fn", "partial"), stage.args, strict=False)) | stage.kw
    return given.get("batchsize", 20) if given.get("partial", True) else None
