"""How sure a metric is, and whether of two runs on the same samples the better one is better.

Interval: the percentile interval of the bootstrap over queries or images (Efron and Tibshirani 1993, An Introduction to
the Bootstrap, chapter 13): n samples are drawn from the n with replacement, many times, and the interval holds the
middle 95% of the metric's values. The percentile interval never leaves 0..1 and means the same on every scale; BCa
would need the metric of n samples without each of them, n^2 outcomes, 2.5e9 for ImageNet.

Samples of a metric that is a mean have few different outcomes (a hit or a miss; 0 to 3 hits in a mean recall). How
often a resample of n holds each of them is multinomial, so that is what is drawn, instead of n numbers: the same
distribution as `scipy.stats.bootstrap` draws, at a cost that n does not enter (50,000 images, 9,999 resamples: 1 ms
instead of 2.6 s, and a report of all tables has some 500 of them). The other metrics, mean average precision and its
11-point kind, go through `scipy.stats.bootstrap` itself, with fewer resamples, many at once (`_precision.py`).

Tests, two-sided and on pairs, as both runs answer the same samples:

    hit or miss (acc1, recall@k)   McNemar's exact test (McNemar 1947, Psychometrika 12): of the samples that one run
                                   alone gets right, either has half. statsmodels
    mean recall                    permutation test of the mean difference (Good 2005, Permutation, Parametric and
                                   Bootstrap Tests of Hypotheses): whose answer is whose is exchanged for each sample.
                                   Its distribution is a sum of three binomial ones, so it is computed, not drawn: a p
                                   drawn 10,000 times is never small enough for a few hundred comparisons
    others                         the same test, drawn. scipy.stats.permutation_test

Correction for many comparisons: Holm (1979, Scandinavian Journal of Statistics 6). statsmodels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from zhclip_openclip.report import _names, _precision

LEVEL = 0.95
RESAMPLES = 9999
#: Of mean average precision: at VOC 2007's size (4,952 images, 20 classes) 500 take 0.5 s, and 999 exchanges 2 s.
SLOW_RESAMPLES = 500
SLOW_PERMUTATIONS = 999
MEAN_RECALL_KS = (1, 5, 10)
#: Numbers drawn at a time: bounds the memory at 16 MB whatever the classes.
_BATCH = 2_000_000


# ---------------------------------------------------------------- what a run answered


@dataclass(frozen=True)
class Labels:
    """One label an image: `per_sample.py`'s target, predicted and top; classes: how many there are."""

    target: np.ndarray
    predicted: np.ndarray
    top: np.ndarray
    classes: int
    fingerprint: str = ""


@dataclass(frozen=True)
class Scores:
    """Several labels an image: (images, classes) scores, and zeros and ones. kept: what was drawn from them."""

    target: np.ndarray
    scores: np.ndarray
    fingerprint: str = ""
    kept: dict[tuple, np.ndarray] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Ranks:
    """Retrieval. ranks: direction -> (queries,) rank of the first right item, 0 without any, of the queries that are
    counted. ids: their ids."""

    ranks: dict[str, np.ndarray]
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    fingerprint: str = ""


Outcomes = Labels | Scores | Ranks


class NotPaired(ValueError):
    """Two runs that did not answer the same samples."""


@dataclass(frozen=True)
class Hits:
    """A metric as a mean. points: (n,) int, out of `unit` each. group: (n,) class, where the mean is taken within each
    class and then over the classes that occur."""

    points: np.ndarray
    unit: int = 1
    group: np.ndarray | None = None


def hits(outcomes: Outcomes, metric: str) -> Hits | None:
    """The samples of a metric that is a mean; None for another metric, or one that these outcomes do not have."""
    recall = _names.RECALL.fullmatch(metric)
    if recall and isinstance(outcomes, Ranks) and recall[1] in outcomes.ranks:
        ranks = outcomes.ranks[recall[1]]
        if recall[2]:
            return Hits(((ranks >= 1) & (ranks <= int(recall[2]))).astype(np.int8))
        points = sum(((ranks >= 1) & (ranks <= k)).astype(np.int8) for k in MEAN_RECALL_KS)
        return Hits(points, len(MEAN_RECALL_KS))
    if isinstance(outcomes, Labels):
        if (name := metric.removeprefix(_names.PROBE_PREFIX)) == "acc1":
            return Hits((outcomes.top[:, 0] == outcomes.target).astype(np.int8))
        if name == "acc5" and outcomes.classes >= 5:
            return Hits((outcomes.top == outcomes.target[:, None]).any(axis=1).astype(np.int8))
        if name in ("mean_per_class_recall", "mean_per_class_accuracy"):
            return Hits((outcomes.predicted == outcomes.target).astype(np.int8), group=outcomes.target)
    return None


def samples(outcomes: Outcomes, metric: str) -> int | None:
    """How many queries or images are behind a metric, None if these outcomes do not have it."""
    found = hits(outcomes, metric)
    if found is not None:
        return len(found.points) or None
    return len(outcomes.target) or None if _is_precision(outcomes, metric) else None


def value(outcomes: Outcomes, metric: str) -> float | None:
    """The metric (0..1), None if these outcomes do not have it."""
    if samples(outcomes, metric) is None:
        return None
    found = hits(outcomes, metric)
    if found is None:
        return _precision_of(outcomes, metric)
    cells, counts = _cells(found.points, found.group)
    return float(_ratio(cells, counts[None], found.unit)[0])


# ---------------------------------------------------------------- intervals


def interval(
    outcomes: Outcomes, metric: str, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[float, float] | None:
    """Ends of the interval of a metric (0..1); None if these outcomes do not have it.

    Where every sample has the same outcome, so has every resample: both ends are the metric itself.
    """
    if samples(outcomes, metric) is None:
        return None
    found = hits(outcomes, metric)
    if found is None:
        if len(outcomes.target) < 2:  # scipy wants two; there is one resample
            return (_precision_of(outcomes, metric),) * 2
        return _percentiles(_resampled(outcomes, metric, resamples, seed), level)
    cells, counts = _cells(found.points, found.group)
    return _percentiles(_distribution(cells, counts, found.unit, resamples, seed), level)


def _cells(points: np.ndarray, group: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(cells, 2) the different (group, points) of the samples, sorted, and (cells,) how many samples have each."""
    points = points.astype(np.int64)
    lowest = points.min()
    span = points.max() - lowest + 1
    number = points - lowest if group is None else group.astype(np.int64) * span + (points - lowest)
    counts = np.bincount(number)
    found = np.flatnonzero(counts)
    return np.stack([found // span, found % span + lowest], axis=1), counts[found]


def _ratio(cells: np.ndarray, drawn: np.ndarray, unit: int) -> np.ndarray:
    """(b,) metric of b samples that hold each cell (b, cells) times: the mean over the groups that occur in them."""
    starts = np.flatnonzero(np.r_[True, np.diff(cells[:, 0]) != 0])
    size = np.add.reduceat(drawn, starts, axis=1)
    points = np.add.reduceat(drawn * cells[:, 1], starts, axis=1)
    occurs = size > 0
    shares = np.divide(points, size * unit, out=np.zeros(size.shape), where=occurs)
    return shares.sum(axis=1) / occurs.sum(axis=1)


def _distribution(cells: np.ndarray, counts: np.ndarray, unit: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples,) values of the metric, of as many samples as there are, drawn with replacement."""
    rng, total = np.random.default_rng(seed), int(counts.sum())
    batch = max(1, _BATCH // len(counts))
    sizes = [min(batch, resamples - start) for start in range(0, resamples, batch)]
    return np.concatenate([_ratio(cells, rng.multinomial(total, counts / total, size), unit) for size in sizes])


def _percentiles(distribution: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(distribution, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _resampled(outcomes: Scores, metric: str, resamples: int, seed: int) -> np.ndarray:
    """(b,) mean average precision of as many images as there are, drawn with replacement.

    The draws depend on the seed and the number of images alone, so that those of two runs on the same images are pairs.
    They are kept with the outcomes: the interval of a run and each of its comparisons need the same.
    """
    from scipy import stats

    key, size = (metric, resamples, seed), len(outcomes.target)
    if key not in outcomes.kept:
        compute = _precision.Precision(outcomes.scores, outcomes.target, metric)

        def statistic(index: np.ndarray, axis: int = -1) -> np.ndarray:
            drawn = np.moveaxis(index, axis, -1).reshape(-1, size)
            cells = drawn + size * np.arange(len(drawn))[:, None]
            return compute(np.bincount(cells.ravel(), minlength=len(drawn) * size).reshape(len(drawn), size).T)

        outcomes.kept[key] = stats.bootstrap(
            (np.arange(size),),
            statistic,
            n_resamples=min(resamples, SLOW_RESAMPLES),
            vectorized=True,
            batch=_batch(size),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    return outcomes.kept[key]


def _batch(size: int) -> int:
    """Samples at once, in eights as they are added."""
    return max(8, _BATCH // size // 8 * 8)


def _is_precision(outcomes: Outcomes, metric: str) -> bool:
    return isinstance(outcomes, Scores) and metric in _names.SEVERAL_LABELS


def _precision_of(outcomes: Scores, metric: str) -> float:
    import torch

    from zhclip_openclip.metrics import classification

    given = torch.from_numpy(outcomes.scores), torch.from_numpy(outcomes.target)
    if metric == "map_11_points":
        return classification.map_11_points(*given)
    return classification.average_precision_per_class(*given).mean().item()


# ---------------------------------------------------------------- two runs


@dataclass(frozen=True)
class Paired:
    """difference: of the metric (0..1), first minus second; low, high: its interval. p: of the test."""

    difference: float
    low: float
    high: float
    samples: int
    p: float
    test: str


def compare(
    first: Outcomes,
    second: Outcomes,
    metric: str,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Paired | None:
    """Two runs on the same samples; None if one of them does not have the metric.

    Raises NotPaired: they are not the same samples.
    """
    if samples(first, metric) is None or samples(second, metric) is None:
        return None
    second = aligned(first, second, metric)
    one, other = hits(first, metric), hits(second, metric)
    if one is None:
        return _compare_precision(first, second, metric, resamples, level, seed)
    apart = one.points.astype(np.int64) - other.points
    cells, counts = _cells(apart, one.group)
    drawn = _distribution(cells, counts, one.unit, resamples, seed)
    if one.group is not None:
        p, test = _permuted(_weighted(apart, one.group), resamples, seed), "paired permutation"
    elif one.unit == 1:
        p, test = _mcnemar(one.points, other.points), "McNemar, exact"
    else:
        p, test = sign_flip(apart), "paired permutation, exact"
    difference = float(_ratio(cells, counts[None], one.unit)[0])
    return Paired(difference, *_percentiles(drawn, level), len(apart), p, test)


def aligned(first: Outcomes, second: Outcomes, metric: str) -> Outcomes:
    """The second in the order of the first.

    Raises NotPaired: they are not the same samples.
    """
    if first.fingerprint and second.fingerprint and first.fingerprint != second.fingerprint:
        raise NotPaired("their fingerprints differ")
    if not isinstance(first, Ranks):
        if first.target.shape != second.target.shape:
            raise NotPaired(f"{len(first.target):,} images there, {len(second.target):,} here")
        if not np.array_equal(first.target, second.target):
            raise NotPaired("their images have other labels, or another order")
        return second
    way = _names.RECALL.fullmatch(metric)[1]
    ours, theirs = first.ids[way], second.ids[way]
    if len(ours) != len(theirs):
        raise NotPaired(f"{len(ours):,} queries there, {len(theirs):,} here")
    if np.array_equal(ours, theirs):
        return second
    here, there = np.argsort(ours, kind="stable"), np.argsort(theirs, kind="stable")
    if not np.array_equal(ours[here], theirs[there]):
        raise NotPaired("their queries have other ids")
    order = np.empty(len(ours), dtype=np.int64)
    order[here] = there
    return Ranks({way: second.ranks[way][order]}, {way: ours}, second.fingerprint)


def _mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    from statsmodels.stats.contingency_tables import mcnemar

    table = [[int(((one == a) & (other == b)).sum()) for b in (1, 0)] for a in (1, 0)]
    return float(min(1.0, mcnemar(table, exact=True).pvalue))


def sign_flip(apart: np.ndarray) -> float:
    """Exact p of the paired permutation test of the mean of (n,) small whole differences, two-sided.

    Exchanging the answers to a sample turns the sign of its difference d. Of the n_k samples with |d| = k, J_k keep
    theirs, binomial with 1/2; the sum over k of k (2 J_k - n_k) is what the sum of d is compared with. This is what
    `scipy.stats.permutation_test(..., permutation_type="samples")` gives when it tries all 2^n exchanges.
    """
    from scipy import stats

    weights = np.array([1.0])
    for k, count in enumerate(np.bincount(np.abs(apart))):
        if k and count:
            each = np.zeros(k * count + 1)
            each[::k] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
            weights = np.convolve(weights, each)
    sums = 2 * np.arange(len(weights)) - (len(weights) - 1)
    return float(min(1.0, weights[np.abs(sums) >= abs(int(apart.sum()))].sum()))


def _weighted(apart: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Differences weighted so that their sum is the difference of the means over classes; zeros left out."""
    size = np.bincount(group)
    weighted = apart / (size[group] * np.count_nonzero(size))
    return weighted[apart != 0]


def _permuted(weighted: np.ndarray, resamples: int, seed: int) -> float:
    """p of the paired permutation test of a sum, drawn."""
    from scipy import stats

    if len(weighted) < 2:  # scipy wants two; one difference turns as easily as not
        return 1.0
    return float(
        stats.permutation_test(
            (weighted, np.zeros_like(weighted)),
            # Rounded, since scipy tells equal sums apart by the rounding of their parts.
            lambda one, other, axis: (one - other).sum(axis=axis).round(12),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _BATCH // len(weighted)),
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def _compare_precision(first: Scores, second: Scores, metric: str, resamples: int, level: float, seed: int) -> Paired:
    from scipy import stats

    size, p = len(first.target), 1.0
    difference = _precision_of(first, metric) - _precision_of(second, metric)
    ends = (difference, difference)
    if size > 1:
        drawn = [_resampled(run, metric, resamples, seed) for run in (first, second)]
        ends = _percentiles(drawn[0] - drawn[1], level)
        exchanged = _precision.Exchanged(first.scores, second.scores, first.target, metric)

        def statistic(whose: np.ndarray, _: np.ndarray, axis: int = -1) -> np.ndarray:
            turned = np.moveaxis(whose, axis, -1)
            return exchanged(turned.reshape(-1, size).T).reshape(turned.shape[:-1]).round(12)

        p = stats.permutation_test(
            (np.zeros(size), np.ones(size)),
            statistic,
            permutation_type="samples",
            vectorized=True,
            n_resamples=min(resamples, SLOW_PERMUTATIONS),
            batch=_batch(size),
            rng=np.random.default_rng(seed),
        ).pvalue
    return Paired(difference, *ends, size, float(p), "paired permutation")


def holm(p: list[float], unasked: int = 0, level: float = LEVEL) -> Iterator[tuple[float, bool]]:
    """Each p corrected for all of them and `unasked` more that are not known, and whether it is significant."""
    if not p:
        return
    from statsmodels.stats.multitest import multipletests

    significant, corrected, _, _ = multipletests([*p, *[1.0] * unasked], alpha=1 - level, method="holm")
    for value, decided in zip(corrected[: len(p)], significant, strict=False):
        yield float(value), bool(decided)
