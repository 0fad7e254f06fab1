"""TFDS data sets as CLIP_benchmark reads them, with rules for what cannot be used: see `streams.guard`.

`vtab/` is CLIP_benchmark's `VTABIterableDataset` over the package task_adaptation, `tfds/` is timm's
`IterableImageDataset` over its TFDS reader. Images are decoded inside TensorFlow. Its data sets go on after an element
that fails; the generators around them do not, so it is their source that is replaced by one that goes on.

No sample is looked at beforehand: TensorFlow must not run in a process that is then forked for the workers.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._left_out import LeftOut


def is_one(dataset) -> bool:
    return hasattr(dataset, "tfds_dataset") or hasattr(getattr(dataset, "reader", None), "_lazy_init")


def guard(dataset, rules):
    result = copy.copy(dataset)
    if rules.skip:
        rules.left_out = LeftOut(lambda: _read_all(result))
    if hasattr(dataset, "tfds_dataset"):
        result.tfds_dataset = _Vtab(dataset.tfds_dataset, rules, dataset.label_name, len(dataset))
    else:
        result.reader = _timm_reader(dataset.reader, rules)
    result.skipped = rules.left_out
    return result


def _read_all(dataset) -> None:
    bare = copy.copy(dataset)
    bare.transform = None
    for _ in bare:
        pass


class _Vtab:
    """task_adaptation's data, whose stream goes on after an image that does not decode."""

    def __init__(self, data, rules, label: str, samples: int):
        self._data, self._rules, self._label, self._samples = data, rules, label, samples

    def get_tf_data(self, split: str, *args, **kwargs) -> GoingOn:
        find = None
        if not getattr(self._data, "_filter_fn", None):  # otherwise TFDS counts more samples than come
            with contextlib.suppress(AttributeError, KeyError):
                find = functools.partial(_find, self._data._dataset_builder, self._data._tfds_splits[split])
        stream = self._data.get_tf_data(split, *args, **kwargs)
        return GoingOn(stream, self._rules, self._label, self._samples, find)

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_data":  # while it is being unpickled there is no data yet
            raise AttributeError(name)
        return getattr(self._data, name)


def _timm_reader(reader, rules):
    result = copy.copy(reader)
    # A reader that was tried in the main process would give every worker the whole split.
    result.reinit_each_iter = True
    result._lazy_init = functools.partial(_lazy_init, result, rules)
    return result


def _lazy_init(reader, rules) -> None:
    """timm's `_lazy_init` of the process that reads, with a stream that goes on in place of `tfds.as_numpy`'s."""
    import tensorflow_datasets as tfds

    original = tfds.as_numpy

    def as_numpy(stream):
        find = functools.partial(_find, reader.builder, reader.subsplit or reader.split)
        return GoingOn(stream, rules, reader.target_key, reader.num_samples, find, original)

    tfds.as_numpy = as_numpy
    try:
        type(reader)._lazy_init(reader)
    finally:
        tfds.as_numpy = original


@dataclasses.dataclass
class GoingOn:
    """A `tf.data.Dataset` that goes on after an image that does not decode.

    label: key of the label in an element. samples: of the whole split. find: (place in the stream) -> (key, file) of a
    sample. convert: applied to each element. first, step: which of the elements are this one's.
    """

    stream: Any
    rules: Any
    label: str
    samples: int
    find: Callable[[int], tuple[str, str]] | None = None
    convert: Callable | None = None
    first: int = 0
    step: int = 1

    def shard(self, num_shards: int, index: int) -> GoingOn:
        """As that of `tf.data.Dataset`, which loses its count at an element that fails."""
        return dataclasses.replace(self, first=index, step=num_shards)

    def __iter__(self) -> Iterator:
        stream, failed = iter(self.stream), 0
        for place in itertools.count():
            mine = place % self.step == self.first
            try:
                element = next(stream)
            except StopIteration:
                break
            except Exception as error:
                if type(error).__name__ != "InvalidArgumentError":  # a file that is cut off takes all after it along
                    raise DatasetError(
                        f"{self.rules.place}, sample {place} cannot be read ({_reason(error)}); prepare the data set "
                        "again"
                    ) from None
                failed += 1
                if failed > self.samples:
                    raise DatasetError(f"{self.rules.place}: no image can be read: {_reason(error)}") from None
                if mine:
                    self.rules.bad_image(*self._named(place), _reason(error))
                continue
            if mine:
                self._check(element, place)
                yield self.convert(element) if self.convert else element
        self.rules.left_out.ended()
        self.rules.refuse_nothing(self.samples)  # of several processes the last to come here sees what all left out

    def _check(self, element, place: int) -> None:
        label = element.get(self.label)
        for value in getattr(label, "numpy", lambda: label)().reshape(-1) if label is not None else ():
            self.rules.label(int(value), str(place), self.rules.place)

    def _named(self, place: int) -> tuple[str, str]:
        """Key and file of a sample; its number in the stream where TFDS does not tell."""
        if self.find is not None:
            with contextlib.suppress(Exception):
                return self.find(place)
        return f"number {place}", self.rules.place


def _find(builder, split, place: int) -> tuple[str, str]:
    """What TFDS calls the sample at a place, `<data set>-<split>.tfrecord-00000-of-00001__17`, and its file."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    config = tfds.ReadConfig(add_tfds_id=True)
    elements = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders, read_config=config)
    element = next(iter(elements.skip(place).take(1)))
    key = element["tfds_id"].numpy().decode()
    return key, str(Path(str(builder.data_path)) / key.rpartition("__")[0])


def _reason(error: Exception) -> str:
    """TensorFlow's message without the names of its nodes."""
    text = re.sub(r"\{\{function_node [^}]*\}\}", "", str(error)).partition("\n")[0]
    text = re.sub(r"\[Op:.*", "", text)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
