"""Logistic regression with a sweep over its regularisation: the linear probe of the CLIP paper.

Definition: Radford et al. 2021 (arXiv:2103.00020), appendix A.3. scikit-learn's L-BFGS with at most 1,000 iterations;
the strength lambda of the L2 penalty is searched between 1e-6 and 1e6, first at 1e-6, 1e-4, ..., 1e6, then at half the
distance around the peak, down to 8 steps in each factor of 10; by the accuracy on validation images; then trained
anew on training and validation images together. With x unit features, y labels, W and b the weights:

    minimise  sum_i -log softmax(W x_i + b)[y_i] + lambda/2 |W|^2        (scikit-learn's C is 1/lambda)

of two classes scikit-learn's binary form of it. What the paper leaves open is decided here: of equal accuracies the
lower cross-entropy on the same images wins, then the stronger penalty. The paper takes the features before the
projection, which not every image tower has; here they are the projected unit features, as in clip_benchmark.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: lambda, 8 steps in each factor of 10, and the distance of the first ones that are tried.
STRENGTHS = np.logspace(-6, 6, 97)
FIRST_STEP = 16
MAX_ITERATIONS = 1000
#: lambda where no image is left to choose it by: scikit-learn's default of 1/C.
FIXED = 1.0


@dataclass(frozen=True)
class Fitted:
    """weight (rows, d), bias (rows,), labels (rows,) the class of each row, in float64; iterations of the solver, and
    whether it came to its end before it had to stop."""

    weight: np.ndarray
    bias: np.ndarray
    labels: np.ndarray
    iterations: int
    converged: bool

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(n, rows) of unit features (n, d)."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True)
class Round:
    """Features (n, d) in float64 and labels (n,) to train on, and those to choose by."""

    features: np.ndarray
    labels: np.ndarray
    held_features: np.ndarray
    held_labels: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """The strength that was chosen; its accuracy on the validation images, None where there were none; lambda ->
    accuracy of all that were tried."""

    strength: float
    accuracy: float | None
    tried: dict[float, float]


def fit(features: np.ndarray, labels: np.ndarray, strength: float) -> Fitted:
    """features (n, d) in float64, labels (n,) of two classes at least."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1 / strength, max_iter=MAX_ITERATIONS).fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two classes it keeps the second one's scores; the first one's are 0
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    iterations = int(np.max(model.n_iter_))
    return Fitted(weight, bias, model.classes_, iterations, iterations < MAX_ITERATIONS)


def sweep(rounds: list[Round], told: Callable[[], None] = lambda: None) -> Chosen:
    """The strength with which most validation images of all rounds together are right.

    told: called after each strength that was tried.
    """
    outcomes: dict[int, tuple[float, float, float]] = {}

    def best_of(places: list[int]) -> int:
        for place in places:
            if place not in outcomes:
                outcomes[place] = _outcome(rounds, STRENGTHS[place])
                told()
        return max(places, key=outcomes.__getitem__)

    step = FIRST_STEP
    peak = best_of(list(range(0, len(STRENGTHS), step)))
    while step > 1:
        step //= 2
        peak = best_of([place for place in (peak - step, peak, peak + step) if 0 <= place < len(STRENGTHS)])
    tried = {float(STRENGTHS[place]): outcomes[place][0] for place in sorted(outcomes)}
    return Chosen(float(STRENGTHS[peak]), outcomes[peak][0], tried)


def _outcome(rounds: list[Round], strength: float) -> tuple[float, float, float]:
    """The more the better: accuracy, minus the cross-entropy, strength."""
    right = images = 0
    entropy = 0.0
    for one in rounds:
        fitted = fit(one.features, one.labels, strength)
        scores = fitted.scores(one.held_features)
        right += int((fitted.labels[scores.argmax(axis=1)] == one.held_labels).sum())
        images += len(one.held_labels)
        entropy += _cross_entropy(scores, fitted.labels, one.held_labels)
    return right / images, -entropy / images, strength


def _cross_entropy(scores: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> float:
    """Summed over the images whose class the probe has; of the others it is infinite for every strength."""
    known = np.isin(labels, rows)
    scores, columns = scores[known], np.searchsorted(rows, labels[known])
    highest = scores.max(axis=1, keepdims=True)
    sums = np.log(np.exp(scores - highest).sum(axis=1)) + highest[:, 0]
    return float((sums - scores[np.arange(len(scores)), columns]).sum())
