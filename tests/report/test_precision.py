"""Mean average precision of many samples at once, against clip_benchmark's of each, and scikit-learn's curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class
from sklearn.metrics import precision_recall_curve

from zhclip_openclip.report._precision import Exchanged, Precision

IMAGES, CLASSES, SAMPLES = 70, 6, 43
METRICS = "mean_average_precision", "map_11_points"


def scores(seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels; class 5 has no image, and class 4 one."""
    target = (np.random.default_rng(3).random((IMAGES, CLASSES)) < 0.2).astype(np.uint8)
    target[:, 4], target[7, 4], target[:, 5] = 0, 1, 0
    given = (target + np.random.default_rng(seed).normal(size=target.shape)).astype(np.float32)
    return (given.round(1) if ties else given), target


def plain(metric: str, given: np.ndarray, target: np.ndarray) -> float:
    """The metric of one sample, by clip_benchmark, or by scikit-learn's precision and recall."""
    if metric == "mean_average_precision":
        return average_precision_per_class(torch.from_numpy(given), torch.from_numpy(target)).mean().item()
    values = []
    for c in np.flatnonzero(target.any(axis=0)):
        precision, recall, _ = precision_recall_curve(target[:, c], given[:, c])
        values.append(np.mean([precision[recall >= point].max() for point in np.linspace(1, 0, 11)]))
    return float(np.mean(values)) if values else 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_resamples(metric):
    given, target = scores(1, ties=metric == "map_11_points")  # the order of equal scores is anybody's
    index = np.random.default_rng(0).integers(0, IMAGES, (SAMPLES, IMAGES))
    counts = np.stack([np.bincount(one, minlength=IMAGES) for one in index], axis=1)
    expected = [plain(metric, given[one], target[one]) for one in index]
    assert Precision(given, target, metric)(counts) == pytest.approx(expected, abs=1e-6)
    assert any(not target[one, 4].any() for one in index)  # samples without the one image of a class


@pytest.mark.parametrize("metric", METRICS)
def test_exchanged_answers(metric):
    (one, target), (other, _) = (scores(seed, ties=metric == "map_11_points") for seed in (1, 2))
    turned = np.random.default_rng(0).random((IMAGES, SAMPLES)) < 0.5
    turned[:, 0], turned[:, 1] = False, True
    expected = [
        plain(metric, np.where(which[:, None], other, one), target)
        - plain(metric, np.where(which[:, None], one, other), target)
        for which in turned.T
    ]
    found = Exchanged(one, other, target, metric)(turned)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[0] == pytest.approx(-found[1], abs=1e-12) and abs(found[0]) > 1e-3


@pytest.mark.parametrize("metric", METRICS)
def test_a_run_and_itself_do_not_differ_whatever_is_exchanged(metric):
    """With equal scores too, whose order must not depend on whose they are."""
    given, target = scores(1, ties=True)
    turned = np.random.default_rng(0).random((IMAGES, SAMPLES)) < 0.5
    assert np.abs(Exchanged(given, given, target, metric)(turned)).max() < 1e-12


@pytest.mark.parametrize("copies", [1, 3, 254, 255])
def test_images_that_are_drawn_often(copies):
    """Copies change no precision where all images have as many; bytes must not overflow on the way."""
    rng = np.random.default_rng(0)
    target = np.zeros((3000, 1), np.uint8)
    target[[10, 1500, 2999]] = 1
    given = rng.normal(size=target.shape).astype(np.float32)
    metric = "map_11_points"
    once = Precision(given, target, metric)(np.ones((3000, 1), int))
    assert once == pytest.approx([plain(metric, given, target)], abs=1e-9)
    assert Precision(given, target, metric)(np.full((3000, 9), copies)) == pytest.approx(np.repeat(once, 9), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_no_label_at_all(metric):
    given, target = scores(1)
    assert (Precision(given, target * 0, metric)(np.ones((IMAGES, 3))) == 0).all()
