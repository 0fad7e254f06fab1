"""Which images are trained on, and what no probe can be trained on: one line each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features.finite import FiniteError
from zhclip_openclip.probes import evaluate, shots
from zhclip_openclip.probes.evaluate import Plan, Split

CLASSES = ["猫", "狗", "龙"]
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])


def test_a_seed_chooses_the_same_images_whatever_has_drawn_before():
    first = shots.choose(LABELS, 2, 5)
    torch.randn(3)
    assert torch.equal(first, shots.choose(LABELS, 2, 5)) and not torch.equal(first, shots.choose(LABELS, 2, 6))
    assert LABELS[first].bincount().tolist() == [2, 2, 2] and len(set(first.tolist())) == 6
    assert sorted(shots.choose(LABELS, -1, 0).tolist()) == list(range(10))


def test_folds_spread_each_class_and_hold_out_no_only_image():
    labels = np.array([0] * 7 + [1] * 2 + [2])
    fold = shots.folds(labels, 5, 0)
    assert sorted(fold[:7]) == [0, 0, 1, 1, 2, 3, 4] and sorted(fold[7:9]) == [0, 1] and fold[9] == -1
    kept, held = shots.hold_out(labels, 0.9, 0)
    assert np.bincount(labels[kept]).tolist() == [1, 1, 1] and np.bincount(labels[held]).tolist() == [6, 1]


@pytest.mark.parametrize(
    ("labels", "few", "told"),
    [
        (
            LABELS,
            4,
            r"--fewshot_k 4: pets, split train has fewer images of a class: 猫 has 3, 龙 has 3; give fewer shots",
        ),
        (LABELS, 0, "--fewshot_k 0: give the number of images of each class"),
        (LABELS, -3, "--fewshot_k -3"),
        (torch.ones(4, dtype=torch.long), -1, "split train has images of one class alone, 狗: there is nothing"),
        (torch.empty(0, dtype=torch.long), -1, "has no images; look at --train_split"),
        (torch.zeros(4, 3, dtype=torch.long), -1, "has several labels an image"),
        (torch.zeros(4), -1, "has labels that are no classes"),
        (torch.tensor([0, 1, 7]), -1, "sample 2 has the label 7, and there are 3 class names"),
    ],
)
def test_a_train_split_that_does_not_do(labels, few, told):
    with pytest.raises(ZhclipError, match=told) as error:
        shots.check(labels, CLASSES, few, "pets, split train")
    assert "\n" not in str(error.value)


def test_classes_of_the_test_split_that_the_train_split_lacks():
    with pytest.raises(ZhclipError) as error:
        shots.check_test(LABELS, LABELS[:7], CLASSES, "pets, split test", "pets, split train")
    assert str(error.value) == (
        "pets, split test has images of 1 of its classes that pets, split train has none of: 龙; a probe never answers "
        "them, so give another --train_split"
    )
    shots.check_test(LABELS[:7], LABELS, CLASSES, "", "")  # the other way round nothing is lost


def test_a_class_that_neither_split_has_is_never_answered():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2 * 2
    features = torch.nn.functional.normalize(torch.randn(40, 5, generator=random) + labels[:, None], dim=-1)
    both = Split(features, labels, "pets")
    for kind in evaluate.CLASSIFIERS:
        trained = evaluate.train(both, None, Plan(kind), [*CLASSES, "马", "牛", "羊"], 0)
        scores = evaluate.padded(trained.score(features), 6)
        assert scores.shape == (40, 6) and bool(scores.isfinite().all())
        found = evaluate.scored(scores, both, [*CLASSES, "马", "牛", "羊"], "pets")
        assert set(scores.argmax(1).tolist()) <= {0, 2} and found["lp_per_class_accuracy"]["狗"] is None
        assert np.isnan(found["lp_acc5"])  # no label above 4, as clip_benchmark has it


def test_features_that_are_not_finite():
    features = torch.ones(3, 2)
    probe = evaluate.train(Split(torch.randn(8, 2), torch.arange(8) % 2, "x"), None, Plan(shots=1), ["a", "b"], 0).probe
    features[1, 0] = torch.nan
    with pytest.raises(FiniteError, match="image 2 has features that are not finite"):
        probe.scores(features)


def test_mean_and_spread_over_seeds():
    found = [
        {"lp_acc1": 0.5, "lp_acc5": float("nan"), "lp_per_class_accuracy": {"猫": 0.0, "狗": None}},
        {"lp_acc1": 0.7, "lp_acc5": float("nan"), "lp_per_class_accuracy": {"猫": 1.0, "狗": None}},
    ]
    mean, spread = evaluate.together(found)
    assert mean["lp_acc1"] == pytest.approx(0.6) and mean["lp_per_class_accuracy"] == {"猫": 0.5, "狗": None}
    assert spread == {"lp_acc1": pytest.approx(0.1414213562)}
    assert evaluate.together(found[:1]) == (found[0], {})
