"""Linear probes: ridge and multinomial logistic regression, small, exact, the penalty chosen on later moments.

What is asked of an embedding is what a straight line reads from it; every other input is read the same way. Inputs
are standardised by the moments that are fitted. ``free`` columns carry no penalty, or next to none, so that what is
added to a baseline can't take from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.market_data import BoolArray
from shared.rows import FloatArray, IntArray

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # a moment, on standardised columns
LEAST_PENALTY = 1e-9  # of free columns: two that say the same must not stop the solver
FREE_LOGISTIC = 1e-5  # a moment, of free columns: a logit of near twins must not explode on a short span
SMALLEST_SCALE = 1e-9
NEWTON_STEPS = 12
NEWTON_TOLERANCE = 1e-6  # of the mean loss


@dataclass(frozen=True, slots=True)
class Design:
    """Inputs [n, p]: ``free`` [p], which columns carry no penalty."""

    columns: FloatArray
    free: BoolArray

    @staticmethod
    def of(shrunk: NDArray[np.floating] | None = None, free: FloatArray | None = None) -> Design:
        """Of columns [n, p] with and without penalty."""
        columns = np.concatenate([part for part in (free, shrunk) if part is not None], axis=1, dtype=np.float64)
        unpenalised = 0 if free is None else free.shape[1]
        return Design(columns, np.arange(columns.shape[1]) < unpenalised)

    def select(self, chosen: BoolArray | IntArray) -> Design:
        return Design(self.columns[chosen], self.free)


Fit = Callable[[Design], FloatArray]  # new inputs → forecasts: [n] of numbers, [n, classes] of probabilities


def fit_ridge(design: Design, labels: FloatArray, penalty: float) -> Fit:
    """Least squares with ``penalty`` · n · Σ weight² of the columns that are not free; the intercept is free."""
    mean, scale = design.columns.mean(0), np.maximum(design.columns.std(0), SMALLEST_SCALE)
    X = (design.columns - mean) / scale
    ridge = np.where(design.free, LEAST_PENALTY, penalty) * len(X)
    weights = np.linalg.solve(X.T @ X + np.diag(ridge), X.T @ (labels - labels.mean()))
    center = float(labels.mean())
    return lambda new: np.asarray((new.columns - mean) / scale @ weights + center)


def fit_logistic(design: Design, labels: IntArray, classes: int, penalty: float) -> Fit:
    """Multinomial logistic regression by Newton's method with halved steps; penalties as in fit_ridge, with a small
    one on free columns.

    The last class is the reference; a class that never occurs in ``labels`` keeps a tiny probability.
    """
    mean, scale = design.columns.mean(0), np.maximum(design.columns.std(0), SMALLEST_SCALE)
    X = np.column_stack([np.ones(len(design.columns)), (design.columns - mean) / scale])
    ridge = np.concatenate([[LEAST_PENALTY], np.where(design.free, FREE_LOGISTIC, penalty)])
    weights = _newton(X, labels, classes, ridge)

    def probabilities(new: Design) -> FloatArray:
        inputs = np.column_stack([np.ones(len(new.columns)), (new.columns - mean) / scale])
        return _softmax(inputs, weights)

    return probabilities


def _softmax(X: FloatArray, weights: FloatArray) -> FloatArray:
    """[n, classes] of ``weights`` [p, classes - 1]; the last class has the score 0."""
    scores = np.column_stack([X @ weights, np.zeros(len(X))])
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _newton(X: FloatArray, labels: IntArray, classes: int, ridge: FloatArray) -> FloatArray:
    n, p = X.shape
    truth = (labels[:, None] == np.arange(classes - 1)).astype(np.float64)
    weights = np.zeros((p, classes - 1))
    loss, probability = _loss(X, labels, weights, ridge)
    for _ in range(NEWTON_STEPS):
        gradient = X.T @ (probability[:, :-1] - truth) / n + ridge[:, None] * weights
        step = np.linalg.solve(_hessian(X, probability, ridge), gradient.T.ravel()).reshape(classes - 1, p).T
        size, before = 1.0, loss
        while size > 1e-4:
            loss, probability = _loss(X, labels, weights - size * step, ridge)
            if loss <= before:
                break
            size /= 2
        else:
            break
        weights = weights - size * step
        if before - loss < NEWTON_TOLERANCE:
            break
    return weights


def _loss(X: FloatArray, labels: IntArray, weights: FloatArray, ridge: FloatArray) -> tuple[float, FloatArray]:
    probability = _softmax(X, weights)
    given = np.maximum(probability[np.arange(len(labels)), labels], 1e-300)
    return float(-np.log(given).mean() + 0.5 * (ridge[:, None] * weights**2).sum()), probability


def _hessian(X: FloatArray, probability: FloatArray, ridge: FloatArray) -> FloatArray:
    """[(classes - 1)·p, (classes - 1)·p], class by class."""
    n, p = X.shape
    classes = probability.shape[1] - 1
    whole = np.empty((classes, p, classes, p))
    for a in range(classes):
        for b in range(a, classes):
            weight = probability[:, a] * ((a == b) - probability[:, b])
            block = (X * weight[:, None]).T @ X / n
            whole[a, :, b], whole[b, :, a] = block, block.T
        whole[a, :, a] += np.diag(ridge)
    return whole.reshape(classes * p, classes * p)


def choose_penalty(losses: Sequence[float]) -> float:
    """The penalty with the smallest loss; of equal ones the strongest."""
    best = min(losses)
    return max(penalty for penalty, loss in zip(PENALTIES, losses, strict=True) if loss == best)


def ridge_probe(design: Design, labels: FloatArray, early: BoolArray, late: BoolArray) -> tuple[Fit, Fit, float]:
    """Fitted on all moments, and on the ``early`` alone, with the penalty that then forecasts the ``late`` best."""
    first, second = design.select(early), design.select(late)
    penalty = 0.0
    if not design.free.all():
        trials = [fit_ridge(first, labels[early], penalty)(second) for penalty in PENALTIES]
        penalty = choose_penalty([float(((trial - labels[late]) ** 2).mean()) for trial in trials])
    return fit_ridge(design, labels, penalty), fit_ridge(first, labels[early], penalty), penalty


def logistic_probe(
    design: Design, labels: IntArray, classes: int, early: BoolArray, late: BoolArray
) -> tuple[Fit, float]:
    """Fitted on all moments with the penalty that forecasts the ``late`` best, by their log loss, when fitted on the
    ``early`` ones."""
    if design.free.all():
        return fit_logistic(design, labels, classes, 0.0), 0.0
    first, second = design.select(early), design.select(late)
    rows = np.arange(int(late.sum()))
    losses = []
    for penalty in PENALTIES[1:]:
        given = fit_logistic(first, labels[early], classes, penalty)(second)[rows, labels[late]]
        losses.append(float(-np.log(np.maximum(given, 1e-12)).mean()))
    penalty = choose_penalty([float("inf"), *losses])
    return fit_logistic(design, labels, classes, penalty), penalty
