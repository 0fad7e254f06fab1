"""Streams of clip_benchmark's: WebDataset shards that it wrote, and stand-ins for TensorFlow's data sets."""

from __future__ import annotations

import functools
import gc
import http.server
import pickle
import threading

import numpy as np
import pytest
import torch

from tests.support import tf_streams, wds_shards
from tests.support.tf_streams import InvalidArgumentError, TimmReader, VtabData
from tests.support.wds_shards import SPOILED
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets import streams
from zhclip_openclip.datasets._images import Skipped

CLASSES = ["a", "b", "c"]


def number(image) -> torch.Tensor:
    """The number of a picture, read back from its first pixels; lossy formats change it by less than half."""
    return torch.tensor(round(float(np.asarray(image)[2:6, 2:6, 0].mean())))


def opened(root, split="test", **kwargs):
    """What clip_benchmark makes of the shards."""
    from clip_benchmark.datasets.builder import build_wds_dataset

    return build_wds_dataset("x", transform=number, split=split, data_dir=str(root), **kwargs)


def read(dataset, workers=0, batch=4):
    """(number, label) of all samples in order, through the loader that clip_benchmark's command line makes."""
    loader = torch.utils.data.DataLoader(dataset.batched(batch), batch_size=None, num_workers=workers)
    pairs = []
    for images, labels in loader:
        assert len(images) == len(labels) <= batch
        pairs += [(int(image), label.tolist()) for image, label in zip(images, labels, strict=True)]
    return pairs


@pytest.fixture
def root(tmp_path):
    return wds_shards.write(tmp_path / "shards", CLASSES, image_format="png")


def test_a_whole_stream_is_unchanged(root):
    guarded = streams.guard(opened(root), "wds/x")
    assert type(guarded) is type(opened(root)) and guarded.classes == CLASSES
    assert read(guarded) == [(index, index % 3) for index in range(20)]
    assert not guarded.skipped


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
@pytest.mark.parametrize("spoil", SPOILED)
def test_unreadable_image_is_named(tmp_path, spoil, image_format):
    root = wds_shards.write(tmp_path, CLASSES, image_format=image_format)
    wds_shards.change(root / "test" / "1.tar", {f"s0000009.{image_format}": SPOILED[spoil]})
    guarded = streams.guard(opened(root), "wds/x")
    with pytest.raises(
        ZhclipError, match=rf"1\.tar: image s0000009\.{image_format} does not decode \(.+\).*--skip-bad-images"
    ) as error:
        read(guarded)
    assert "\n" not in str(error.value)
    skipping = streams.guard(opened(root), "wds/x", skip=True)
    assert [label for _, label in read(skipping)] == [index % 3 for index in range(20) if index != 9]
    assert [entry.key for entry in skipping.skipped] == [f"s0000009.{image_format}"]


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_left_out_in_any_number_of_workers(root, workers, batch):
    """Of the three shards, one of which has nothing that can be read; two workers of five have no shard at all."""
    bad = {0: [0, 3, 6], 1: list(range(7, 14)), 2: [19]}
    for shard, numbers in bad.items():
        spoil = {f"s{n:07d}.png": list(SPOILED.values())[n % 3] for n in numbers}
        wds_shards.change(root / "test" / f"{shard}.tar", spoil)
    gone = sum(bad.values(), [])
    guarded = streams.guard(opened(root), "wds/x", skip=True)
    pairs = read(guarded, workers, batch)
    assert sorted(pairs) == [(index, index % 3) for index in range(20) if index not in gone]
    assert [entry.key for entry in guarded.skipped] == [f"s{index:07d}.png" for index in gone]
    assert [entry.where[-5:] for entry in guarded.skipped] == ["0.tar"] * 3 + ["1.tar"] * 7 + ["2.tar"]
    read(guarded, workers, batch)
    assert len(guarded.skipped) == 11  # a second reading is no second image


def test_left_out_without_having_been_read(root):
    """As when the features come from a cache; looking at one batch is no reading either."""
    wds_shards.change(root / "test" / "2.tar", {"s0000018.png": SPOILED["text"]})
    guarded = streams.guard(opened(root), "wds/x", skip=True)
    next(iter(guarded))
    assert [tuple(entry) for entry in guarded.skipped] == [
        ("s0000018.png", str(root / "test" / "2.tar"), "not a picture")
    ]


def test_error_in_a_worker_is_one_line(root):
    from zhclip_openclip.integrations.clip_benchmark.command_line import plain_errors

    wds_shards.change(root / "test" / "1.tar", {"s0000008.png": SPOILED["empty"]})
    guarded = streams.guard(opened(root), "wds/x")
    with pytest.raises(SystemExit) as error, plain_errors():
        read(guarded, workers=1)
    assert "\n" not in str(error.value) and "1.tar: image s0000008.png does not decode" in str(error.value)


def test_other_processes_may_get_a_copy(root):
    """Where processes are spawned and not forked, a stream goes there pickled."""
    left_out = streams.guard(opened(root), "wds/x", skip=True).skipped
    pickle.loads(pickle.dumps(left_out)).add(Skipped("s0000002.png", "0.tar", "not a picture"))
    assert [entry.key for entry in left_out.told()] == ["s0000002.png"]


def test_left_out_goes_away_with_the_stream(root):
    guarded = streams.guard(opened(root), "wds/x", skip=True)
    folder = guarded.skipped._folder
    assert folder.is_dir()
    del guarded
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"s0000001.cls": lambda data: b"3"}, r"sample s0000001 of .*0\.tar has the label 3, and there are 3 class"),
        ({"s0000001.cls": lambda data: b"-1"}, r"sample s0000001 of .*0\.tar has the label -1"),
        ({"s0000001.cls": lambda data: b"cat"}, r"0\.tar: s0000001\.cls cannot be read \(invalid literal"),
        ({"s0000001.cls": None}, r"0\.tar: sample s0000001 has no \.cls with its label"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_labels(root, changes, error, skip):
    wds_shards.change(root / "test" / "0.tar", changes)
    with pytest.raises(ZhclipError, match=error) as caught:
        read(streams.guard(opened(root), "wds/x", skip=skip))
    assert "\n" not in str(caught.value)


def test_no_image_beside_the_label(root):
    wds_shards.change(root / "test" / "0.tar", {"s0000001.png": None})
    with pytest.raises(ZhclipError, match=r"0\.tar: image s0000001 does not decode \(there is no webp or png or jpg"):
        read(streams.guard(opened(root), "wds/x"))
    guarded = streams.guard(opened(root), "wds/x", skip=True)
    assert len(read(guarded)) == 19 and [entry.key for entry in guarded.skipped] == ["s0000001"]


def test_several_labels(tmp_path):
    root = wds_shards.write(tmp_path, CLASSES, several=True)
    wds_shards.change(root / "test" / "0.tar", {"s0000004.webp": SPOILED["truncated"]})
    guarded = streams.guard(opened(root), "wds/x", skip=True)
    assert [label for _, label in read(guarded)] == [np.eye(3)[i % 3].tolist() for i in range(20) if i != 4]
    (root / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(ZhclipError, match="s0000000 of .* has a label for 3 classes, and there are 2 class names"):
        streams.guard(opened(root), "wds/x")


@pytest.mark.parametrize("skip", [False, True])
def test_shards(root, skip):
    """What is wrong with a shard is nothing to be left out: nobody knows how much is gone."""
    whole = (root / "test" / "2.tar").read_bytes()
    (root / "test" / "2.tar").write_bytes(whole[:2000])
    with pytest.raises(ZhclipError, match=r"2\.tar is no whole tar file \(unexpected end of data\); copy it again"):
        read(streams.guard(opened(root), "wds/x", skip=skip))
    (root / "test" / "2.tar").write_bytes(b"")
    with pytest.raises(ZhclipError, match=r"2\.tar is no whole tar file \(empty file\)"):
        read(streams.guard(opened(root), "wds/x", skip=skip), workers=0)
    (root / "test" / "2.tar").unlink()
    with pytest.raises(ZhclipError, match=r"2\.tar is missing, though nshards.txt counts it"):
        read(streams.guard(opened(root), "wds/x", skip=skip))


@pytest.mark.parametrize("skip", [False, True])
def test_empty(tmp_path, skip):
    root = wds_shards.write(tmp_path, CLASSES, count=1)
    wds_shards.change(root / "test" / "0.tar", {"s0000000.webp": None, "s0000000.cls": None})
    with pytest.raises(ZhclipError, match="^wds/x, split test is empty; look at --split and --dataset_root$"):
        streams.guard(opened(root), "wds/x", skip=skip)


def test_nothing_readable(tmp_path):
    root = wds_shards.write(tmp_path, CLASSES, count=3, a_shard=2)
    for shard, number_ in ((0, 0), (0, 1), (1, 2)):
        wds_shards.change(root / "test" / f"{shard}.tar", {f"s{number_:07d}.webp": SPOILED["text"]})
    with pytest.raises(ZhclipError, match="wds/x, split test: none of 3 images can be read: not a picture"):
        streams.guard(opened(root), "wds/x", skip=True)


def test_shards_behind_an_address(root, tmp_path):
    """With and without a cache folder; looking at the first sample leaves nothing behind that disturbs reading."""
    wds_shards.change(root / "test" / "1.tar", {"s0000010.png": SPOILED["truncated"]})
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "cache").mkdir()
        for cache in (None, str(tmp_path / "cache")):
            guarded = streams.guard(opened(address, cache_dir=cache), "wds/x", skip=True)
            assert sorted(read(guarded, workers=2)) == [(i, i % 3) for i in range(20) if i != 10]
            assert [entry.where for entry in guarded.skipped] == [f"{address}/test/1.tar"]
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_no_stream_of_clip_benchmarks_is_left_alone():
    class Stream(torch.utils.data.IterableDataset):
        classes = CLASSES

        def __iter__(self):
            return iter(())

    stream = Stream()
    assert streams.guard(stream, "x") is stream


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda root: None, None),
        (lambda root: (root / "test").rename(root / "val"), "test is missing.* of wds/x; --split is one of val"),
        (lambda root: (root / "test" / "nshards.txt").unlink(), "nshards.txt is missing"),
        (lambda root: (root / "test" / "nshards.txt").write_text("three"), "has no number of shards in it"),
        (lambda root: (root / "test" / "nshards.txt").write_text("0"), "wds/x, split test is empty: .* no shards"),
        (lambda root: (root / "test" / "1.tar").unlink(), r"1\.tar: missing, though nshards.txt says 3"),
        (lambda root: (root / "classnames.txt").unlink(), "classnames.txt is missing"),
    ],
)
def test_shards_are_counted_before_anything_is_loaded(root, change, error):
    change(root)
    if error is None:
        streams.check_shards("wds/x", root)
        streams.check_shards("wds/x", "https://example.org/data")
        return
    with pytest.raises(ZhclipError, match=error) as caught:
        streams.check_shards("wds/x", root)
    assert "\n" not in str(caught.value)


# TensorFlow's data sets, by stand-ins; test_guarded_streams_tensorflow.py has the real ones


def vtab(count=20, **kwargs):
    from clip_benchmark.datasets.tfds import VTABIterableDataset

    data = VtabData(tf_streams.samples(count, **kwargs))
    return VTABIterableDataset(data, transform=number, target_transform=int, classes=CLASSES)


def read_indexed(dataset, workers=0, batch=4):
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, num_workers=workers)
    return [pair for images, labels in loader for pair in zip(images.tolist(), labels.tolist(), strict=True)]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
class TestVtab:
    def test_a_whole_stream_is_unchanged(self):
        guarded = streams.guard(vtab(), "vtab/x")
        assert type(guarded) is type(vtab()) and len(guarded) == 20 and not guarded.skipped
        assert read_indexed(guarded) == [(index, index % 3) for index in range(20)]
        assert sorted(read_indexed(guarded, workers=3)) == [(index, index % 3) for index in range(20)]

    def test_unreadable_image_is_named(self):
        with pytest.raises(
            ZhclipError,
            match=r"^vtab/x, split test: image number 5 does not decode \(Unknown image [^\[]* required\); .*--skip",
        ):
            read_indexed(streams.guard(vtab(bad=[5]), "vtab/x"))

    @pytest.mark.parametrize("workers", [0, 1, 2, 5])
    def test_left_out_in_any_number_of_workers(self, workers):
        bad = [0, 3, 4, 11, 12, 13, 19]
        guarded = streams.guard(vtab(bad=bad), "vtab/x", skip=True)
        pairs = read_indexed(guarded, workers)
        assert sorted(pairs) == [(index, index % 3) for index in range(20) if index not in bad]
        assert [entry.key for entry in guarded.skipped] == [f"number {index}" for index in bad]

    def test_left_out_without_having_been_read(self):
        guarded = streams.guard(vtab(bad=[2]), "vtab/x", skip=True)
        (entry,) = guarded.skipped
        assert entry[:2] == ("number 2", "vtab/x, split test") and entry.reason.endswith("BMP, WebP required")

    @pytest.mark.parametrize("workers", [0, 2])
    def test_nothing_readable(self, workers):
        guarded = streams.guard(vtab(count=4, bad=range(4)), "vtab/x", skip=True)
        with pytest.raises(ZhclipError, match="vtab/x, split test: none of 4 images can be read: Unknown image"):
            read_indexed(guarded, workers)

    def test_a_stream_that_fails_for_ever_ends(self):
        dataset = vtab(count=3)
        failing = (InvalidArgumentError("no such file") for _ in iter(int, 1))
        dataset.tfds_dataset.get_tf_data = lambda *args, **kwargs: tf_streams.TfData(failing)
        with pytest.raises(ZhclipError, match="no image can be read: no such file"):
            read_indexed(streams.guard(dataset, "vtab/x", skip=True))

    def test_a_file_that_is_cut_off_is_no_image(self):
        for skip in (False, True):
            guarded = streams.guard(vtab(bad=[5], error=tf_streams.DataLossError), "vtab/x", skip=skip)
            with pytest.raises(ZhclipError, match="vtab/x, split test, sample 5 cannot be read .*prepare the data set"):
                read_indexed(guarded)

    def test_labels(self):
        guarded = streams.guard(vtab(count=3, labels=[0, 2, 3]), "vtab/x")
        with pytest.raises(ZhclipError, match="sample 2 of vtab/x, split test has the label 3, and there are 3 class"):
            read_indexed(guarded)


@pytest.fixture
def timms(monkeypatch):
    tf_streams.install(monkeypatch)

    def build(bad=()):
        from timm.data.dataset import IterableImageDataset

        reader = TimmReader(tf_streams.samples(20, bad=bad))
        dataset = IterableImageDataset("", reader=reader, transform=number, target_transform=int)
        dataset.classes = CLASSES
        return dataset

    return build


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_timm(timms, workers):
    guarded = streams.guard(timms([4, 7]), "tfds/x", skip=True)
    next(iter(guarded))  # in this process; the workers read their own parts all the same
    assert sorted(read_indexed(guarded, workers)) == [(i, i % 3) for i in range(20) if i not in (4, 7)]
    assert len(guarded.skipped) == 2
    with pytest.raises(ZhclipError, match="tfds/x, split test: image number 4 does not decode"):
        read_indexed(streams.guard(timms([4, 7]), "tfds/x"))
    import tensorflow_datasets as tfds

    assert tfds.as_numpy(7) == 7  # theirs again
