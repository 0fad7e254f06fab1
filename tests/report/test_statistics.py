"""Intervals and tests against scipy, scikit-learn, clip_benchmark and sums by hand.

A drawn interval has an error of its own: with 9,999 resamples the 2.5% point has a standard error of 0.027 of the
distribution's standard deviation (Efron and Tibshirani 1993, chapter 13). `NEAR` is five of them.
"""

from __future__ import annotations

import itertools
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from tests.support.report_files import answers_with, ranks_with
from zhclip_openclip.metrics import classification, per_sample, recall
from zhclip_openclip.report import statistics
from zhclip_openclip.report.statistics import Labels, NotPaired, Ranks, Scores

pytestmark = pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")

NEAR = 5 * 0.027
T2I = "image_retrieval"


def labels(logits: torch.Tensor, target: torch.Tensor) -> Labels:
    top = per_sample._top(logits).numpy()
    return Labels(target.numpy(), logits.argmax(1).numpy(), top, logits.shape[1])


def random_labels(samples=600, classes=8, seed=0, right=0.6) -> Labels:
    """Classes of very different sizes; class 2 has no image."""
    rng = np.random.default_rng(seed)
    target = rng.choice(np.delete(np.arange(classes), 2), samples, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.04, 0.01])
    logits = rng.random((samples, classes)).astype(np.float32)
    logits[np.arange(samples), target] += np.where(rng.random(samples) < right, 0.6, 0.1)
    return labels(torch.from_numpy(logits), torch.from_numpy(target))


def random_ranks(samples=700, seed=0, shift=0) -> Ranks:
    rng = np.random.default_rng(7)
    ranks = rng.geometric(0.12, samples)
    ranks = np.maximum(1, ranks + np.random.default_rng(seed).integers(-3, 4, samples) + shift)
    ranks[::50] = 0  # no right item
    return Ranks({T2I: ranks}, {T2I: np.array([f"q{n}" for n in range(samples)])}, "same")


def random_scores(samples=80, classes=5, seed=0) -> Scores:
    rng = np.random.default_rng(3)
    target = (rng.random((samples, classes)) < 0.25).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(size=target.shape)
    return Scores(target, (target + noise).astype(np.float32))


# ---------------------------------------------------------------- values


def test_values_are_those_of_the_metrics_themselves():
    given = random_labels()
    assert statistics.value(given, "acc1") == np.mean(given.top[:, 0] == given.target)
    assert statistics.value(given, "acc5") == np.mean(
        [t in row for t, row in zip(given.target, given.top, strict=True)]
    )
    expected = balanced_accuracy_score(given.target, given.predicted)
    for name in ("mean_per_class_recall", "mean_per_class_accuracy"):
        assert statistics.value(given, name) == pytest.approx(expected, rel=1e-12)
    ranks = random_ranks()
    for k in (1, 3, 5, 10):
        assert statistics.value(ranks, f"{T2I}_recall@{k}") == recall.recall_at_k(ranks.ranks[T2I], k)
    mean = statistics.value(ranks, f"{T2I}_mean_recall")
    assert mean == pytest.approx(recall.mean_recall(ranks.ranks[T2I]), rel=1e-12)
    scores = random_scores()
    both = torch.from_numpy(scores.scores), torch.from_numpy(scores.target)
    assert statistics.value(scores, "map_11_points") == classification.map_11_points(*both)
    average = classification.average_precision_per_class(*both).mean().item()
    assert statistics.value(scores, "mean_average_precision") == average


def test_metrics_that_outcomes_do_not_have():
    few = random_labels()
    few = Labels(few.target % 3, few.predicted % 3, few.top[:, :3] % 3, 3)
    for given, metric in (
        (few, "acc5"),
        (few, "mean_average_precision"),
        (few, f"{T2I}_recall@1"),
        (random_ranks(), "text_retrieval_recall@1"),
        (random_ranks(), "acc1"),
        (random_scores(), "acc1"),
    ):
        assert statistics.value(given, metric) is statistics.interval(given, metric) is None
        assert statistics.samples(given, metric) is statistics.compare(given, given, metric) is None


# ---------------------------------------------------------------- intervals


def plain(given, metric: str, resamples=9999):
    """scipy's own bootstrap over the indices of the samples, with the metric in its plainest form."""
    if isinstance(given, Ranks):
        ranks = given.ranks[T2I]
        ks = (1, 5, 10) if metric.endswith("mean_recall") else (int(metric.rpartition("@")[2]),)
        points = np.mean([(ranks >= 1) & (ranks <= k) for k in ks], axis=0)
        data, statistic = (points,), np.mean
    elif metric in ("acc1", "acc5"):
        k = int(metric[3:])
        data, statistic = ((given.top[:, :k] == given.target[:, None]).any(axis=1).astype(np.int8),), np.mean
    else:
        data = (np.arange(len(given.target)),)

        def statistic(index):
            return balanced_accuracy_score(given.target[index], given.predicted[index])

    vectorized = statistic is np.mean
    found = stats.bootstrap(
        data, statistic, n_resamples=resamples, vectorized=vectorized, method="percentile", batch=500, rng=11
    )
    return found.confidence_interval, found.standard_error


@pytest.mark.parametrize(
    "given, metric, resamples",
    [
        (random_labels(), "acc1", 9999),
        (random_labels(), "acc5", 9999),
        (random_labels(300), "mean_per_class_recall", 1500),
        (random_ranks(), f"{T2I}_recall@1", 9999),
        (random_ranks(), f"{T2I}_recall@10", 9999),
        (random_ranks(), f"{T2I}_mean_recall", 9999),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_interval_is_that_of_scipys_plain_bootstrap(given, metric, resamples):
    (low, high), error = plain(given, metric, resamples)
    near = NEAR * (9999 / resamples) ** 0.5 * 2**0.5 * error + 1.01 / 3 / statistics.samples(given, metric)
    assert statistics.interval(given, metric) == pytest.approx((low, high), abs=near)


@pytest.mark.parametrize("metric", ["acc1", "mean_per_class_recall", f"{T2I}_mean_recall"])
def test_resampling_has_the_distribution_of_plain_resampling(metric):
    """Drawn by hand: n of the n samples with replacement. Kolmogorov and Smirnov's test finds no difference."""
    given = random_ranks() if metric.startswith(T2I) else random_labels()
    hits = statistics.hits(given, metric)
    group = np.zeros(len(hits.points), dtype=int) if hits.group is None else hits.group
    rng, by_hand = np.random.default_rng(5), []
    for _ in range(3000):
        index = rng.integers(0, len(hits.points), len(hits.points))
        points, of = hits.points[index] / hits.unit, group[index]
        by_hand.append(np.mean([points[of == one].mean() for one in np.unique(of)]))
    ours = statistics._distribution(*statistics._cells(hits.points, hits.group), hits.unit, 3000, seed=1)
    assert stats.ks_2samp(np.round(by_hand, 9), np.round(ours, 9)).pvalue > 0.01


@pytest.mark.parametrize("share", [3.87, 56.25, 99.2])
def test_interval_of_hits_is_near_the_exact_one(share):
    """The bootstrap of a share is binomial, so that endless resampling has a closed form."""
    given = Ranks({T2I: ranks_with([share, 99.9, 100], 5008, seed=2)})
    hits = round(share * 5008 / 100)
    exact = stats.binom.ppf([0.025, 0.975], 5008, hits / 5008) / 5008
    near = NEAR * (hits / 5008 * (1 - hits / 5008) / 5008) ** 0.5 + 1.01 / 5008
    assert statistics.interval(given, f"{T2I}_recall@1") == pytest.approx(tuple(exact), abs=near)


@pytest.mark.parametrize("metric", ["mean_average_precision", "map_11_points"])
def test_interval_of_average_precision_is_scipys(metric):
    given = random_scores()
    compute = {
        "map_11_points": classification.map_11_points,
        "mean_average_precision": lambda *both: float(classification.average_precision_per_class(*both).mean()),
    }[metric]

    def statistic(index):
        return compute(torch.from_numpy(given.scores[index]), torch.from_numpy(given.target[index]))

    for resamples, drawn in ((200, 200), (9999, statistics.SLOW_RESAMPLES)):
        expected = stats.bootstrap(
            (np.arange(80),),
            statistic,
            n_resamples=drawn,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(4),
        ).confidence_interval
        # The plain one is summed in float32.
        assert statistics.interval(given, metric, resamples, seed=4) == pytest.approx(tuple(expected), abs=1e-6)


def test_the_same_seed_gives_the_same_interval():
    given = random_labels()
    first = statistics.interval(given, "mean_per_class_recall", seed=3)
    assert first == statistics.interval(given, "mean_per_class_recall", seed=3)
    assert first != statistics.interval(given, "mean_per_class_recall", seed=4)
    wider = statistics.interval(given, "mean_per_class_recall", level=0.99)
    assert wider[0] < first[0] and wider[1] > first[1]


@pytest.mark.parametrize("samples", [1, 2, 400])
def test_samples_that_all_have_one_outcome(samples):
    logits, target = answers_with(100, samples, classes=7)
    right, wrong = labels(logits, target), labels(logits.roll(1, dims=1), target)
    precision = Scores(np.ones((samples, 1), dtype=np.uint8), np.zeros((samples, 1), dtype=np.float32))
    ranks = Ranks({T2I: np.full(samples, 4)}, {T2I: np.arange(samples).astype(str)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in ("acc1", "acc5", "mean_per_class_recall"):
            assert statistics.interval(right, metric) == (1, 1)
        assert statistics.interval(wrong, "acc1") == (0, 0)
        assert statistics.interval(ranks, f"{T2I}_mean_recall") == pytest.approx((2 / 3, 2 / 3))
        assert statistics.interval(precision, "mean_average_precision") == (1, 1)
        for given, metric in ((right, "acc1"), (ranks, f"{T2I}_mean_recall"), (precision, "mean_average_precision")):
            found = statistics.compare(given, given, metric)
            assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_memory_of_the_largest_data_set_is_bounded():
    """ImageNet: 50,000 images, 1,000 classes. Plain resampling at once would take 4 GB."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 1000, 50_000)
    predicted = np.where(rng.random(50_000) < 0.5, target, (target + 1) % 1000)
    given = Labels(target, predicted, predicted[:, None] + np.arange(5), 1000)
    tracemalloc.start()
    for metric in ("acc1", "mean_per_class_recall"):
        statistics.interval(given, metric)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


# ---------------------------------------------------------------- two runs


def test_mcnemar_is_scipys_binomial_test():
    one, other = random_ranks(seed=1), random_ranks(seed=2, shift=1)
    for k in (1, 5, 10):
        found = statistics.compare(one, other, f"{T2I}_recall@{k}")
        hit = [(given.ranks[T2I] >= 1) & (given.ranks[T2I] <= k) for given in (one, other)]
        alone, beside = int((hit[0] & ~hit[1]).sum()), int((hit[1] & ~hit[0]).sum())
        assert alone + beside > 10 and found.test == "McNemar, exact"
        assert found.p == pytest.approx(stats.binomtest(alone, alone + beside).pvalue, rel=1e-9)
        assert found.difference == pytest.approx((alone - beside) / 700) and found.samples == 700


def test_interval_of_a_difference_is_scipys():
    one, other = random_ranks(seed=1), random_ranks(seed=2, shift=1)
    for metric in (f"{T2I}_recall@5", f"{T2I}_mean_recall"):
        points = [statistics.hits(given, metric) for given in (one, other)]
        apart = (points[0].points.astype(float) - points[1].points) / points[0].unit
        expected = stats.bootstrap((apart,), np.mean, method="percentile", batch=500, rng=8)
        found = statistics.compare(one, other, metric)
        near = NEAR * 2**0.5 * expected.standard_error + 1.01 / 3 / 700
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=near)


@pytest.mark.parametrize("seed", range(6))
def test_permutation_of_mean_recall_is_scipys_which_tries_all(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 4, (2, 12))

    def statistic(a, b, axis):
        return a.mean(axis=axis) - b.mean(axis=axis)

    expected = stats.permutation_test(
        (one, other), statistic, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    assert statistics.sign_flip(one - other) == pytest.approx(expected, rel=1e-9)


def test_permutation_of_mean_recall_is_near_what_scipy_draws():
    """In whole hits: of sums of thirds, scipy takes some that are equal for unequal."""
    one, other = random_ranks(seed=1), random_ranks(seed=2)
    points = tuple(statistics.hits(given, f"{T2I}_mean_recall").points.astype(int) for given in (one, other))

    def statistic(a, b, axis):
        return a.sum(axis=axis) - b.sum(axis=axis)

    expected = stats.permutation_test(
        points, statistic, permutation_type="samples", n_resamples=9999, vectorized=True, batch=500, rng=1
    ).pvalue
    found = statistics.compare(one, other, f"{T2I}_mean_recall")
    assert found.test == "paired permutation, exact" and 0.01 < found.p < 0.99
    # Twice the smaller tail, whose share is p / 2 and drawn with a binomial error.
    assert found.p == pytest.approx(expected, abs=2 * 5 * (expected / 2 * (1 - expected / 2) / 9999) ** 0.5)


def test_permutation_of_thousands_of_queries_is_exact_to_the_last_digit():
    """All that differ, differ by one: the sum is binomial, whose tail scipy gives without a sum over pieces."""
    apart = np.concatenate([np.ones(1500, dtype=int), -np.ones(1300, dtype=int), np.zeros(2208, dtype=int)])
    assert statistics.sign_flip(apart) == pytest.approx(stats.binomtest(1300, 2800).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_permutation_of_the_mean_over_classes_tries_all(seed):
    rng = np.random.default_rng(seed)
    target = np.array([0, 0, 0, 0, 1, 1, 3, 3, 3])
    answers = [np.where(rng.random(9) < 0.5, target, 2) for _ in range(2)]
    one, other = (Labels(target, answer, np.tile(np.arange(4), (9, 1)), 4) for answer in answers)

    def score(predicted):
        return np.mean([(predicted[target == c] == c).mean() for c in (0, 1, 3)])

    observed, among = score(answers[0]) - score(answers[1]), []
    for turned in itertools.product([False, True], repeat=9):
        turned = np.array(turned)
        among.append(score(np.where(turned, *answers[::-1])) - score(np.where(turned, *answers)))
    expected = np.mean(np.abs(among) >= abs(observed) - 1e-12)
    found = statistics.compare(one, other, "mean_per_class_recall")
    assert found.difference == pytest.approx(observed)
    assert found.p == pytest.approx(expected, abs=1e-9) and found.test == "paired permutation"


def test_average_precision_in_pairs():
    one, other = random_scores(seed=1), random_scores(seed=2)
    found = statistics.compare(one, other, "mean_average_precision", resamples=300)
    values = [statistics.value(given, "mean_average_precision") for given in (one, other)]
    assert found.difference == pytest.approx(values[0] - values[1])
    assert found.low < found.difference < found.high and 0.02 < found.p < 1
    back = statistics.compare(other, one, "mean_average_precision", resamples=300)
    assert back.difference == pytest.approx(-found.difference) and back.p == pytest.approx(found.p, abs=0.15)
    better = Scores(one.target, (3 * one.target).astype(np.float32) + one.scores)
    assert statistics.compare(better, other, "mean_average_precision", resamples=300).p < 0.01
    few = [Scores(given.target[:7], given.scores[:7]) for given in (one, other)]
    among = []
    for turned in itertools.product([False, True], repeat=7):  # all 2^7, which scipy tries too
        turned = np.array(turned)[:, None]
        parts = [np.where(turned, few[1 - n].scores, few[n].scores) for n in range(2)]
        left, right = (statistics.value(Scores(few[0].target, part), "mean_average_precision") for part in parts)
        among.append(left - right)
    expected = min(1, 2 * min(np.mean(np.array(among) >= among[0] - 1e-9), np.mean(np.array(among) <= among[0] + 1e-9)))
    assert statistics.compare(*few, "mean_average_precision").p == pytest.approx(expected, abs=0.02)


def test_queries_in_another_order_are_put_in_order():
    one, other = random_ranks(seed=1), random_ranks(seed=2, shift=1)
    order = np.random.default_rng(0).permutation(700)
    turned = Ranks({T2I: other.ranks[T2I][order]}, {T2I: other.ids[T2I][order]}, "same")
    assert statistics.compare(one, turned, f"{T2I}_mean_recall") == statistics.compare(one, other, f"{T2I}_mean_recall")


def test_runs_that_are_no_pair():
    one, other = random_ranks(seed=1), random_ranks(seed=2)
    renamed = Ranks(other.ranks, {T2I: np.char.add(other.ids[T2I], "b")}, "same")
    fewer = Ranks({T2I: other.ranks[T2I][1:]}, {T2I: other.ids[T2I][1:]}, "same")
    elsewhere = Ranks(other.ranks, other.ids, "other")
    for wrong, reason in ((renamed, "other ids"), (fewer, "700 queries there, 699 here"), (elsewhere, "fingerprints")):
        with pytest.raises(NotPaired, match=reason):
            statistics.compare(one, wrong, f"{T2I}_recall@1")
    given = random_labels()
    turned = Labels(given.target[::-1], given.predicted[::-1], given.top[::-1], 8)
    with pytest.raises(NotPaired, match="other labels, or another order"):
        statistics.compare(given, turned, "acc1")
    with pytest.raises(NotPaired, match="600 images there, 599 here"):
        statistics.compare(given, Labels(given.target[1:], given.predicted[1:], given.top[1:], 8), "acc1")


def test_holm_by_hand():
    p = [0.01, 0.04, 0.03, 0.005, 0.2]
    expected, running = {}, 0.0
    for place, index in enumerate(sorted(range(5), key=p.__getitem__)):
        running = max(running, min(1.0, (5 - place) * p[index]))
        expected[index] = running
    found = list(statistics.holm(p))
    assert [value for value, _ in found] == pytest.approx([expected[index] for index in range(5)])
    assert [decided for _, decided in found] == [expected[index] <= 0.05 for index in range(5)]
    assert list(statistics.holm([])) == []


def test_holm_counts_what_is_not_asked():
    p = [0.01, 0.0004, 0.03]
    expected = list(statistics.holm([*p, *[1.0] * 97]))[:3]
    assert list(statistics.holm(p, unasked=97)) == expected
    assert [value for value, _ in expected] == pytest.approx([0.99, 0.04, 1.0])
