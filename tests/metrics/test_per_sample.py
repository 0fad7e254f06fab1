"""What a classification answered for each image: clip_benchmark's own numbers, in a file that is always whole."""

from __future__ import annotations

import os
import re
import time

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class
from sklearn.metrics import balanced_accuracy_score

from zhclip_openclip.metrics import classification
from zhclip_openclip.metrics.per_sample import load_per_sample, metrics, save_per_sample

pytestmark = [
    pytest.mark.filterwarnings("ignore:A single label was found"),
    pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true"),
]


def answers(images=500, classes=12, steps=6, seed=0):
    """Scores with many ties, as half precision gives them, and labels; the last class has no image."""
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(rng.integers(0, max(1, classes - 1), images))
    logits = torch.from_numpy(rng.integers(0, steps, (images, classes)).astype(np.float32))
    return logits, target


def clip_benchmarks(logits, target):
    """As its `accuracy` and `evaluate` define them; `accuracy` itself fails with NumPy 2.4."""
    ks = (1, 5) if logits.shape[1] >= 5 else (1,)
    best = logits.topk(max(ks), 1, True, True)[1].tolist()
    found = [sum(label in row[:k] for row, label in zip(best, target.tolist(), strict=True)) for k in ks]
    expected = {f"acc{k}": hits / len(target) for k, hits in zip(ks, found, strict=True)}
    return {**expected, "mean_per_class_recall": balanced_accuracy_score(target, logits.argmax(axis=1))}


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 6, 12])
@pytest.mark.parametrize("images", [1, 500])
def test_the_arrays_give_clip_benchmarks_metrics_also_with_ties(tmp_path, classes, images):
    logits, target = answers(images, classes)
    file = load_per_sample(save_per_sample(tmp_path / "a", logits, target))
    assert file["target"].dtype == file["predicted"].dtype == file["top"].dtype == np.int32
    assert file["top"].shape == (images, min(5, classes))
    expected = clip_benchmarks(logits, target)
    assert file["meta"]["metrics"] == pytest.approx(expected, rel=1e-12)
    assert metrics(file, classes) == file["meta"]["metrics"]
    assert all(len(set(row)) == len(row) for row in file["top"].tolist())
    values = torch.gather(logits, 1, torch.from_numpy(file["top"]).long())
    assert (values[:, :-1] >= values[:, 1:]).all()  # best first


def test_ties_are_what_is_tested(tmp_path):
    """argmax and the first of top differ somewhere, so that one of the two alone would not do."""
    file = load_per_sample(save_per_sample(tmp_path / "a", *answers()))
    assert (file["predicted"] != file["top"][:, 0]).any()


def test_several_labels(tmp_path):
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=(90, 7)).astype(np.float32))
    target = torch.from_numpy((rng.random((90, 7)) < 0.2).astype(np.int64))
    target[:, 6] = 0
    file = load_per_sample(save_per_sample(tmp_path / "b.npz", logits, target, {"model": "zhclip"}))
    assert file["target"].dtype == np.uint8 and file["scores"].dtype == np.float32
    assert np.array_equal(file["scores"], logits.numpy()) and np.array_equal(file["target"], target.numpy())
    expected = average_precision_per_class(logits, target).mean().item()
    assert file["meta"]["metrics"]["mean_average_precision"] == pytest.approx(expected, abs=1e-7)
    assert file["meta"]["metrics"]["map_11_points"] == classification.map_11_points(logits, target)
    assert file["meta"]["model"] == "zhclip" and file["meta"]["classes"] == 7


def test_what_the_file_tells(tmp_path):
    logits, target = answers()
    given = {"model": "模型", "dataset": "cifar10", "split": "test", "metrics": {"acc1": 0.5}}
    meta = load_per_sample(save_per_sample(tmp_path / "a", logits, target, given))["meta"]
    assert meta == {"format": 1, "task": "zeroshot_classification", "classes": 12, **given}


def test_the_same_content_gives_the_same_bytes(tmp_path, monkeypatch):
    logits, target = answers()
    first = save_per_sample(tmp_path / "first", logits, target, {"a": 1}).read_bytes()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time((2099, 1, 2, 3, 4, 5, 0, 0, 0)))
    assert save_per_sample(tmp_path / "second.npz", logits.numpy(), target.tolist(), {"a": 1}).read_bytes() == first


def test_half_precision_and_the_name_of_the_file(tmp_path):
    logits, target = answers(20)
    path = save_per_sample(tmp_path / "new" / "muge.v1", logits.half(), target)
    assert path == tmp_path / "new" / "muge.v1.npz" and oct(path.stat().st_mode)[-3:] == "644"
    assert load_per_sample(path)["meta"]["metrics"] == clip_benchmarks(logits, target)


def test_an_interrupted_file_leaves_the_old_one(tmp_path, monkeypatch):
    path = save_per_sample(tmp_path / "a", *answers())
    before = path.read_bytes()

    def replace(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_per_sample(path, *answers(seed=3))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(499,), (500, 11), (500, 12, 1)])
def test_shapes_that_do_not_fit(tmp_path, shape):
    logits, _ = answers()
    with pytest.raises(ValueError, match=re.escape(f"(500, 12) and labels of shape {shape}")):
        save_per_sample(tmp_path / "a", logits, torch.zeros(shape))
    assert not list(tmp_path.iterdir())


def test_no_images(tmp_path):
    file = load_per_sample(save_per_sample(tmp_path / "a", torch.zeros(0, 3), torch.zeros(0)))
    assert file["top"].shape == (0, 3) and file["meta"]["metrics"] == {}
