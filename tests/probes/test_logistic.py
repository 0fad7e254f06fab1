"""The sweep over the regularisation, against scikit-learn asked directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from zhclip_openclip.probes import evaluate, logistic, shots
from zhclip_openclip.probes.evaluate import Plan, Split

CLASSES = ["零", "一", "二", "三", "四", "五"]


def made(count, seed, classes=6, noise=1.5):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = np.random.default_rng(0).normal(size=(classes, 10))[labels] + noise * random.normal(size=(count, 10))
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def split(count, seed, name="made up, split train", classes=6):
    features, labels = made(count, seed, classes)
    return Split(torch.from_numpy(features).float(), torch.from_numpy(labels), name)


def swept(pairs):
    """The protocol of the paper, written down a second time, with scikit-learn's own scores."""

    def of(strength):
        right, losses = 0, 0.0
        for features, labels, held, answers in pairs:
            model = LogisticRegression(C=1 / strength, max_iter=1000).fit(features, labels)
            right += accuracy_score(answers, model.predict(held), normalize=False)
            losses += log_loss(answers, model.predict_proba(held), labels=model.classes_, normalize=False)
        return right, -losses, strength

    places = [10.0**power for power in range(-6, 7, 2)]
    best = max(map(of, places))
    factor = 100.0
    for _ in range(4):
        factor **= 0.5
        around = [best[2] / factor, best[2] * factor]
        best = max([best, *(of(one) for one in around if 0.99e-6 <= one <= 1.01e6)])
    return best


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_strength_is_the_one_that_scikit_learn_scores_best():
    features, labels = made(240, 1)
    held, answers = made(120, 2)
    chosen = logistic.sweep([logistic.Round(features, labels, held, answers)])
    right, _, strength = swept([(features, labels, held, answers)])
    assert chosen.strength == pytest.approx(strength) and chosen.accuracy == right / 120
    assert 1e-6 < chosen.strength < 1e6 and len(chosen.tried) == 15
    assert chosen.accuracy == max(chosen.tried.values()) > min(chosen.tried.values())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_images_with_a_fifth_held_out_and_then_trained_on():
    data, test = split(240, 1), split(180, 3, "made up, split test")
    trained = evaluate.train(data, None, Plan(), CLASSES, 7)
    order = shots.choose(data.labels, -1, 7).numpy()
    features, labels = data.features.double().numpy()[order], data.labels.numpy()[order]
    fold = shots.folds(labels, 5, 7)
    pair = features[fold != 0], labels[fold != 0], features[fold == 0], labels[fold == 0]
    assert len(pair[3]) == 48 and np.bincount(pair[3]).tolist() == [8] * 6
    _, _, strength = swept([pair])
    reference = LogisticRegression(C=1 / strength, max_iter=1000).fit(features, labels)
    found = reference.predict(test.features.double().numpy())
    ours = evaluate.scored(trained.score(test.features), test, CLASSES, "made up")
    assert ours["lp_acc1"] == accuracy_score(test.labels, found)
    assert ours["lp_mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(test.labels, found))
    assert list(ours["lp_per_class_accuracy"]) == CLASSES
    assert trained.facts["C"] == pytest.approx(1 / strength) and trained.facts["train_images"] == 240


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_few_shots_are_chosen_by_folds_of_themselves():
    data, test = split(240, 1), split(180, 3, "made up, split test")
    trained = evaluate.train(data, None, Plan(shots=4), CLASSES, 2)
    order = shots.choose(data.labels, 4, 2).numpy()
    features, labels = data.features.double().numpy()[order], data.labels.numpy()[order]
    assert np.bincount(labels).tolist() == [4] * 6
    fold = shots.folds(labels, 4, 2)
    pairs = [(features[fold != f], labels[fold != f], features[fold == f], labels[fold == f]) for f in range(4)]
    _, _, strength = swept(pairs)
    reference = LogisticRegression(C=1 / strength, max_iter=1000).fit(features, labels)
    ours = evaluate.scored(trained.score(test.features), test, CLASSES, "made up")
    assert ours["lp_acc1"] == reference.score(test.features.double().numpy(), test.labels.numpy())
    assert trained.facts["validation"] == "4 folds of the images trained on"


def test_validation_images_are_trained_on_with_all_images_and_not_with_a_few():
    data, held = split(120, 1), split(60, 2, "made up, split val")
    whole = evaluate.train(data, held, Plan(), CLASSES, 0)
    both = torch.cat([data.features, held.features]).double().numpy(), torch.cat([data.labels, held.labels]).numpy()
    reference = LogisticRegression(C=whole.facts["C"], max_iter=1000).fit(*both)
    # L-BFGS stops where the gradient is 1e-4, and the images come in another order here.
    assert np.allclose(whole.probe.weight.numpy(), reference.coef_, rtol=0, atol=0.02 * np.abs(reference.coef_).max())
    few = evaluate.train(data, held, Plan(shots=3), CLASSES, 0)
    chosen = data.rows(shots.choose(data.labels, 3, 0))
    reference = LogisticRegression(C=few.facts["C"], max_iter=1000)
    reference.fit(chosen.features.double().numpy(), chosen.labels.numpy())
    assert np.array_equal(few.probe.weight.numpy(), reference.coef_)
    assert few.facts["validation"] == "60 images of made up, split val"
    assert (whole.facts["train_images"], few.facts["train_images"]) == (180, 18)


def test_two_classes_and_one_shot():
    data, test = split(80, 1, classes=2), split(40, 5, classes=2)
    trained = evaluate.train(data, None, Plan(shots=1), ["猫", "狗"], 0)
    assert trained.facts["C"] == 1 and trained.facts["validation_accuracy"] is None
    chosen = data.rows(shots.choose(data.labels, 1, 0))
    reference = LogisticRegression(max_iter=1000).fit(chosen.features.double().numpy(), chosen.labels.numpy())
    scores = trained.score(test.features)
    decision = reference.decision_function(test.features.double().numpy())
    assert np.allclose((scores[:, 1] - scores[:, 0]).numpy(), decision, atol=1e-6)
    assert np.array_equal(scores.argmax(1).numpy(), reference.predict(test.features.double().numpy()))


def test_validation_by_a_share_of_the_train_split():
    data = split(120, 1)
    trained = evaluate.train(data, None, Plan(proportion=0.25), CLASSES, 3)
    kept, held = shots.hold_out(data.labels.numpy(), 0.25, 3)
    assert sorted([*kept, *held]) == list(range(120)) and np.bincount(data.labels[held]).tolist() == [5] * 6
    assert trained.facts["validation"].startswith("30 images of made up")
    with pytest.raises(evaluate.ProbeError, match="--val_proportion 1.5"):
        shots.hold_out(data.labels.numpy(), 1.5, 0)
