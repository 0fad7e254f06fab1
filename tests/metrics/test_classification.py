"""Classification metrics against CLIP_benchmark's functions, scikit-learn, and sums a reader can do in the head."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.metrics.classification import evaluate, map_11_points

theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
sklearn_metrics = pytest.importorskip("sklearn.metrics")
ACCURACY = theirs.accuracy


def their_accuracy(logits, target, topk):
    """CLIP_benchmark's `accuracy`, which turns an array of one number into a float: numpy 2.4 does so no longer."""
    original = torch.Tensor.numpy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "numpy", lambda self: original(self).squeeze())
        return ACCURACY(logits, target, topk=topk)


def one_label(seed, images, classes, ties, missing=0):
    """Scores and labels; with `ties` few different scores, and the last `missing` classes without an image."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator)
    if ties:
        logits = logits.round()
    return logits, torch.randint(0, classes - missing, (images,), generator=generator)


def several_labels(seed, images, classes, ties, missing=0):
    logits, _ = one_label(seed, images, classes, ties)
    target = (torch.rand(images, classes, generator=torch.Generator().manual_seed(seed + 1)) < 0.3).float()
    if missing:
        target[:, -missing:] = 0
    return logits, target


SHAPES = [
    (200, 10, False, 0),
    (200, 10, True, 0),
    (50, 37, True, 5),
    (3, 100, False, 0),
    (1, 10, True, 0),
    (40, 5, True, 1),
    (40, 4, True, 1),
    (40, 2, False, 1),
]


@pytest.mark.parametrize(("images", "classes", "ties", "missing"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_one_label_is_clip_benchmarks(seed, images, classes, ties, missing):
    logits, target = one_label(seed, images, classes, ties, missing)
    names = [f"c{i}" for i in range(classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # classes that do not occur are nothing to warn about
        result = evaluate(logits, target, names, "cifar10")
    if classes >= 5:
        assert [result["acc1"], result["acc5"]] == their_accuracy(logits, target, (1, 5))
    else:
        assert [result["acc1"]] == their_accuracy(logits, target, (1,))
        assert math.isnan(result["acc5"])
    predicted = logits.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert result["mean_per_class_recall"] == sklearn_metrics.balanced_accuracy_score(target, predicted)
        report = sklearn_metrics.recall_score(
            target, predicted, labels=range(classes), average=None, zero_division=np.nan
        )
    expected = {name: None if math.isnan(value) else value for name, value in zip(names, report, strict=True)}
    assert result["per_class_accuracy"] == expected


def test_keys_are_clip_benchmarks_first():
    logits, target = one_label(0, 20, 10, False)
    assert list(evaluate(logits, target, list("abcdefghij"), "mnist"))[:3] == ["acc1", "acc5", "mean_per_class_recall"]


def test_whole_evaluation_is_clip_benchmarks(monkeypatch):
    """The same numbers as its `evaluate` from the same model, through its loader."""
    features = torch.nn.functional.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.arange(30) % 6

    class Model:
        def encode_image(self, images):
            return images

        def encode_text(self, ids):
            return torch.nn.functional.one_hot(ids[:, 0], 8).float()

    def tokenizer(texts):
        return torch.tensor([[int(text)] for text in texts])

    dataset = torch.utils.data.TensorDataset(features, labels)
    dataset.classes = [str(i) for i in range(6)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=7)
    monkeypatch.setattr(theirs, "accuracy", their_accuracy)
    expected = theirs.evaluate(Model(), loader, tokenizer, dataset.classes, ["{c}"], "cpu", amp=False)
    logits = 100 * features @ torch.eye(8)[:, :6]
    result = evaluate(logits, labels, dataset.classes, "cifar10")
    assert {key: result[key] for key in expected} == expected


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("images", "missing"), [(100, 0), (30, 2), (1, 0)])
def test_several_labels_are_clip_benchmarks(images, missing, ties):
    logits, target = several_labels(3, images, 6, ties, missing)
    result = evaluate(logits, target, list("abcdef"), "voc2007_multilabel")
    expected = theirs.average_precision_per_class(logits, target)
    assert result["mean_average_precision"] == expected.mean().item()
    for c, name in enumerate("abcdef"):
        value = result["per_class_average_precision"][name]
        assert value is None if not target[:, c].any() else value == expected[c].item()


def test_several_labels_are_scikit_learns_where_nothing_ties():
    logits, target = several_labels(4, 80, 6, ties=False)
    result = evaluate(logits, target, list("abcdef"), "voc2007_multilabel")
    expected = sklearn_metrics.average_precision_score(target.numpy(), logits.numpy(), average="macro")
    assert result["mean_average_precision"] == pytest.approx(expected, abs=1e-6)


def eleven_points(logits, target):
    """The definition of ELEVATER's metric on scikit-learn's curve, point by point."""
    values = []
    for c in range(logits.shape[1]):
        if not target[:, c].any():
            continue
        precision, recall, _ = sklearn_metrics.precision_recall_curve(target[:, c].numpy(), logits[:, c].numpy())
        values.append(np.mean([max(precision[recall >= point]) for point in np.linspace(1, 0, 11)]))
    return np.mean(values)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("images", "missing"), [(100, 0), (20, 2), (10, 0), (2, 0)])
def test_map_11_points_is_scikit_learns_curve(images, missing, ties):
    logits, target = several_labels(5, images, 6, ties, missing)
    target[0, 0] = 1
    assert map_11_points(logits, target) == pytest.approx(eleven_points(logits, target), abs=1e-12)


@pytest.mark.parametrize(("different", "expected"), [(20, 0.5748573751669727), (6, 0.5181818181818182)])
def test_map_11_points_is_elevaters(different, expected):
    """Values of vision-evaluation 0.2.14 (MeanAveragePrecisionNPointsEvaluator); the last class is empty."""
    scores = torch.tensor([[float((7 * i + 3 * c) % different) for c in range(4)] for i in range(20)])
    target = torch.tensor([[float(c < 3 and (i * i + c) % 5 in (1, 4)) for c in range(4)] for i in range(20)])
    assert map_11_points(scores, target) == pytest.approx(expected, abs=1e-12)


def test_map_11_points_by_hand():
    """Right, wrong, right, wrong: precision 1 up to recall 1/2 (six points), 2/3 from there on (five)."""
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.1]])
    target = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    assert map_11_points(scores, target) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert map_11_points(scores, torch.zeros(4, 1)) == 0.0


def test_one_label_by_hand():
    logits = torch.tensor([[3.0, 1, 0], [3, 1, 0], [3, 1, 0], [0, 1, 3]])
    target = torch.tensor([0, 0, 1, 2])
    result = evaluate(logits, target, ["猫", "狗", "鸟"], "wds/vtab/pets")
    assert result["acc1"] == 3 / 4
    assert result["per_class_accuracy"] == {"猫": 1.0, "狗": 0.0, "鸟": 1.0}
    assert result["mean_per_class_recall"] == result["mean_per_class_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("pets", True),
        ("fgvc_aircraft", True),
        ("wds/vtab/caltech101", True),
        ("elevater/oxford-flower-102", True),
        ("cifar10", False),
        ("somebody/elses", False),
    ],
)
def test_published_metric_where_it_is_another(name, has):
    logits, target = one_label(0, 20, 10, False)
    assert ("mean_per_class_accuracy" in evaluate(logits, target, list("abcdefghij"), name)) == has


def test_result_is_json():
    logits, target = one_label(0, 20, 10, False, missing=2)
    text = json.dumps(evaluate(logits, target, list("abcdefghij"), "pets"), allow_nan=False)
    assert json.loads(text)["per_class_accuracy"]["j"] is None


def test_two_classes_of_one_name_both_stay():
    logits, target = one_label(0, 20, 3, False)
    assert list(evaluate(logits, target, ["鹤", "鹤", "鸟"], "x")["per_class_accuracy"]) == ["鹤", "鹤 (1)", "鸟"]


def test_label_outside_the_classes():
    logits, _ = one_label(0, 3, 5, False)
    with pytest.raises(ZhclipError, match=r"sample 2 has the label 5, and there are 5 class names \(0 to 4\)"):
        evaluate(logits, torch.tensor([0, 4, 5]), list("abcde"), "cifar10")


def test_no_images():
    with pytest.raises(ZhclipError, match="no images"):
        evaluate(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), list("abcde"), "cifar10")


def test_other_number_of_classes():
    with pytest.raises(ZhclipError, match="5 classes"):
        evaluate(torch.zeros(2, 6), torch.zeros(2, dtype=torch.long), list("abcde"), "cifar10")
    with pytest.raises(ZhclipError, match="labels of 4 classes"):
        evaluate(torch.zeros(2, 5), torch.zeros(2, 4), list("abcde"), "voc2007_multilabel")
