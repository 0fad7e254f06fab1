"""WebDataset pipelines as CLIP_benchmark builds them, with rules for what cannot be used: see `streams.guard`.

Such a pipeline is a list of stages: shard names, opening them, taking them apart, grouping their members into samples,
decoding, choosing image and label, preparing the image. The stages before the choice get a handler of errors of ours
(WebDataset's own means), and one stage more looks at the samples. Everything after it works on what is left, so images
and labels stay together in batches, in any number of workers.
"""

from __future__ import annotations

import copy
import dataclasses
import tarfile
from collections.abc import Iterator

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._left_out import LeftOut, Listed
from zhclip_openclip.datasets.unreadable import reason
from zhclip_openclip.prompts._errors import PromptError


def is_one(dataset) -> bool:
    return _choice(getattr(dataset, "pipeline", None) or []) is not None


def guard(dataset, rules):
    def read_all() -> None:
        for _ in _reader(dataset, rules):
            pass

    _look_at_first(dataset, rules)
    if rules.skip:
        rules.left_out = LeftOut(read_all)
    result = copy.copy(dataset)
    result.pipeline = _stages(dataset.pipeline, rules) + dataset.pipeline[_choice(dataset.pipeline) :]
    result.skipped = rules.left_out
    return result


def _choice(pipeline: list) -> int | None:
    """The place of the stage that takes image and label out of the samples."""
    for place, stage in enumerate(pipeline):
        if getattr(getattr(stage, "f", None), "__name__", None) == "_to_tuple" and len(stage.args) == 2:
            return place
    return None


def _reader(dataset, rules):
    """The stream of samples, decoded and looked at, before their images are prepared for a model."""
    result = copy.copy(dataset)
    result.pipeline = _stages(dataset.pipeline, rules)
    return result


def _look_at_first(dataset, rules) -> None:
    """Find what is wrong with all of the data by its first sample, before the model runs."""
    rules = dataclasses.replace(rules, left_out=Listed())
    samples = iter(_reader(dataset, rules))
    try:
        if next(samples, None) is not None:
            return
    finally:
        samples.close()
    rules.refuse_nothing()
    raise PromptError(f"{rules.place} is empty; look at --split and --dataset_root")


def _stages(pipeline: list, rules) -> list:
    images, label = pipeline[_choice(pipeline)].args
    shards = getattr(pipeline[0], "urls", [])
    handler = _Handler(rules, tuple(images), frozenset(shards))
    stages = []
    for stage in pipeline[: _choice(pipeline)]:
        if getattr(stage, "__name__", None) == "check_empty":
            continue  # it takes a worker that has no shard for an empty data set
        if "handler" in getattr(stage, "kw", {}):
            stage = copy.copy(stage)
            stage.kw = {**stage.kw, "handler": handler}
        elif hasattr(stage, "handler"):
            stage = copy.copy(stage)
            stage.handler = handler
        stages.append(stage)
    return [*stages, _Samples(rules, tuple(images), label)]


@dataclasses.dataclass
class _Handler:
    """What WebDataset asks about an error in a sample or a shard: True goes on to the next one.

    images: extensions of images. shards: names of all shards.
    """

    rules: object
    images: tuple[str, ...]
    shards: frozenset[str]

    def __call__(self, error: Exception) -> bool:
        if hasattr(error, "key") and hasattr(error, "url"):  # of its decoder
            return self._sample(error)
        if isinstance(error, FileNotFoundError) and error.filename:
            raise DatasetError(f"{error.filename} is missing, though nshards.txt counts it; copy it again") from None
        if error.args and error.args[-1] in self.shards:  # of what takes shards apart
            what = f"{error.args[0]}".partition(" @ <")[0] or type(error).__name__
            if "duplicate file name" in what:  # of what groups members into samples
                name = what.partition(": duplicate")[0]
                raise DatasetError(f"{error.args[-1]}[{name}]: the sample has two members of this kind; take one out")
            raise DatasetError(f"{error.args[-1]} is no whole tar file ({what}); copy it again") from None
        if isinstance(error, (tarfile.TarError, OSError, EOFError)):  # comes again, with the name of the shard
            raise error
        raise DatasetError(f"{self.rules.place}: {reason(error)}") from error

    def _sample(self, error) -> bool:
        cause = error.__cause__ or error
        if isinstance(cause, MemoryError):
            raise cause
        if error.k in self.images:
            self.rules.bad_image(f"{error.key}.{error.k}", error.url, reason(cause))
            return True
        raise DatasetError(
            f"{error.url}: {error.key}.{error.k} cannot be read ({reason(cause)}); export the data set again"
        ) from None


@dataclasses.dataclass
class _Samples:
    """Stage of a pipeline: samples with an image and a label that there is a class for.

    images: extensions of images. named: extension of the label.
    """

    rules: object
    images: tuple[str, ...]
    named: str

    def __call__(self, source: Iterator[dict]) -> Iterator[dict]:
        for sample in source:
            key, where = sample["__key__"], sample["__url__"]
            if self.named not in sample:
                raise DatasetError(f"{where}: sample {key} has no .{self.named} with its label; export it again")
            self.rules.label(sample[self.named], key, where)
            if any(extension in sample for extension in self.images):
                yield sample
            else:
                self.rules.bad_image(key, where, f"there is no {' or '.join(self.images)}")
        self.rules.left_out.ended()
