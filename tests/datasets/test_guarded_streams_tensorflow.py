"""Streams of the real TensorFlow Datasets, where they are installed: `pip install tensorflow-cpu tensorflow-datasets`
and, for VTAB, `pip install --no-deps task-adaptation tensorflow-hub`."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets import streams

pytest.importorskip("torchvision")  # before TensorFlow, as in clip_benchmark; otherwise their copies of LLVM collide
tfds = pytest.importorskip("tensorflow_datasets")
base = pytest.importorskip("task_adaptation.data.base")

COUNT, BAD = 40, {5: b"no picture", 11: b"", 17: None}
READABLE = sorted(set(range(COUNT)) - set(BAD))


class ZhclipNoise(tfds.core.GeneratorBasedBuilder):
    """Grey squares; the number of an image is its shade."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image, label = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(num_classes=3)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for number in range(COUNT):
            file = io.BytesIO()
            Image.new("RGB", (16, 16), (6 * number,) * 3).save(file, "JPEG")
            data = file.getvalue()
            if number in BAD:
                data = data[: len(data) // 2] if BAD[number] is None else BAD[number]
            yield number, {"image": io.BytesIO(data), "label": number % 3}


class Vtab(base.ImageTfdsData):
    def __init__(self, builder):
        super().__init__(
            dataset_builder=builder,
            tfds_splits={"test": "test"},
            num_samples_splits={"test": COUNT},
            num_preprocessing_threads=400,
            shuffle_buffer_size=10,
            base_preprocess_fn=base.make_get_tensors_fn(["image", "label"]),
            num_classes=3,
        )


def number(image) -> torch.Tensor:
    return torch.tensor(round(float(np.asarray(image).mean()) / 6))


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """In three files."""
    builder = ZhclipNoise(data_dir=str(tmp_path_factory.mktemp("tfds")))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    assert len(builder.info.splits["test"].shard_lengths) == 3
    return builder


@pytest.fixture(params=["vtab", "timm"])
def dataset(request, builder):
    """As clip_benchmark builds it."""
    if request.param == "vtab":
        from clip_benchmark.datasets.tfds import VTABIterableDataset

        return VTABIterableDataset(Vtab(builder), transform=number, target_transform=int, classes=list("abc"))
    import timm

    result = timm.data.create_dataset(
        "tfds/zhclip_noise", str(builder._data_dir_root), split="test", transform=number, target_transform=int
    )
    result.classes = list("abc")
    return result


def read(dataset, workers):
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=workers)
    return sorted(pair for images, labels in loader for pair in zip(images.tolist(), labels.tolist(), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_named(dataset, workers):
    with pytest.raises(
        ZhclipError,
        match=r"zhclip_noise-test\.tfrecord-0000\d-of-00003: image zhclip_noise-test\.tfrecord-0000\d-of-00003__\d+ "
        r"does not decode \([^\n]+\); fetch the file again, or use --skip-bad-images",
    ):
        read(streams.guard(dataset, "x"), workers)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_left_out(dataset, builder, workers):
    guarded = streams.guard(dataset, "x", skip=True)
    assert read(guarded, workers) == [(index, index % 3) for index in READABLE]
    bytes_of = {
        element["tfds_id"].numpy().decode(): element["image"].numpy()
        for element in builder.as_dataset(
            split="test",
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(add_tfds_id=True),
        )
    }
    found = sorted(bytes_of[entry.key] for entry in guarded.skipped)
    assert len(found) == 3 and found[:2] == [b"", b"no picture"] and found[2][:2] == b"\xff\xd8"
    assert all(entry.where.endswith(entry.key.rpartition("__")[0]) for entry in guarded.skipped)


def test_labels(dataset):
    dataset.classes = list("ab")
    with pytest.raises(ZhclipError, match="has the label 2, and there are 2 class names"):
        read(streams.guard(dataset, "x", skip=True), 0)
