"""What TensorFlow, TFDS, task_adaptation and timm's TFDS reader are to clip_benchmark, as far as it looks into them."""

from __future__ import annotations

import sys
import types

import numpy as np
import torch


class InvalidArgumentError(Exception):
    """As tensorflow.errors has it: of an image that does not decode."""


class DataLossError(Exception):
    """As tensorflow.errors has it: of a file that is cut off."""


#: As TensorFlow 2.21 words it.
MESSAGE = (
    "{{function_node __wrapped__IteratorGetNext_output_types_2_device_/device:CPU:0}} Unknown image file format. "
    "One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required.\n\t [[{{node decode_image/DecodeImage}}]] "
    "[Op:IteratorGetNext] name: "
)


def samples(count: int, bad=(), labels=None, error=InvalidArgumentError) -> list:
    """(image, label) of grey squares whose shade is their number; an error in place of those in `bad`."""
    labels = labels or [0, 1, 2] * count
    return [
        error(MESSAGE) if number in bad else (np.full((8, 8, 3), number, np.uint8), labels[number])
        for number in range(count)
    ]


class TfData:
    """A `tf.data.Dataset`: its iterator goes on after an element that fails."""

    def __init__(self, elements):
        self.elements = elements

    def __iter__(self):
        return TfIterator(iter(self.elements))

    def shard(self, num_shards, index):
        raise AssertionError("loses its count at an element that fails")


class TfIterator:
    def __init__(self, elements):
        self.elements = elements

    def __iter__(self):
        return self

    def __next__(self):
        element = next(self.elements)
        if isinstance(element, Exception):
            raise element
        return element


class Eager(np.ndarray):
    """A tensor."""

    def numpy(self):
        return np.asarray(self)


class VtabData:
    """task_adaptation's data set."""

    def __init__(self, samples, names=None):
        self.samples = samples
        features = {"label": types.SimpleNamespace(names=names)}
        self._dataset_builder = types.SimpleNamespace(info=types.SimpleNamespace(features=features))

    def get_num_samples(self, split):
        return len(self.samples)

    def get_tf_data(self, split, batch_size, epochs, for_eval):
        assert (split, batch_size, epochs, for_eval) == ("test", 1, 1, True)
        return TfData(
            sample
            if isinstance(sample, Exception)
            else {"image": sample[0][None].view(Eager), "label": np.array([sample[1]]).view(Eager)}
            for sample in self.samples
        )


class TimmReader:
    """timm's reader for TFDS, in its evaluation mode."""

    def __init__(self, samples):
        self.samples, self.ds, self.reinit_each_iter, self.subsplit = samples, None, False, None
        self.split, self.target_key, self.num_samples, self.builder = "test", "label", len(samples), None

    def _lazy_init(self):
        import tensorflow_datasets as tfds

        worker = torch.utils.data.get_worker_info()
        mine = self.samples[worker.id :: worker.num_workers] if worker else self.samples
        self.ds = tfds.as_numpy(
            TfData(
                sample if isinstance(sample, Exception) else {"image": sample[0], "label": np.array(sample[1])}
                for sample in mine
            )
        )

    def __iter__(self):
        from PIL import Image

        if self.ds is None or self.reinit_each_iter:
            self._lazy_init()
        for sample in self.ds:
            yield Image.fromarray(sample["image"]), sample["label"]

    def __len__(self):
        return self.num_samples


def install(monkeypatch, names=None) -> None:
    """`import tensorflow_datasets` finds a stand-in, whose data sets have classes of these names."""
    module = types.ModuleType("tensorflow_datasets")
    module.as_numpy = lambda element: element
    label = types.SimpleNamespace(names=names)
    info = types.SimpleNamespace(splits={"test": None}, features={"label": label})
    module.builder = lambda name, data_dir: types.SimpleNamespace(info=info, download_and_prepare=lambda: None)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
