"""The multinomial logit that several experts end in, and the measures of a history that they share.

Everything that calls are made of is either a running sum from the history's first bar or an operation on each row by
itself: a bar's call has the same bits whether it is asked for alone or in a batch, so no matrix products here outside
of the fit (their last bits vary with the number of rows).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from meta_controller.market_index import DAY_S, MarketHistory
from meta_controller.outcomes import REFERENCE_S, realised_volatility
from meta_controller.regimes.expert import FLOOR
from shared.rows import FloatArray, IntArray

LEAST_PAST_S = 60 * DAY_S  # what these experts learn from: a month of outcomes, after a month to measure
LONGEST_STRIDE = 5.0  # standard deviations; beyond what was learnt from, a feature says no more than this
LEAST_SCALE = 1e-9  # of a feature; less is rounding
LEAST_VARIANCE = 1e-12  # of a bar: a move of 0.0001 %, below any tick
INTERCEPT_RIDGE = 1.0  # observations; keeps the odds finite where a class was never seen
NEWTON_STEPS = 25
SETTLED = 1e-9


def fit_logit(features: FloatArray, classes: IntArray, ridge: float) -> dict[str, Any]:
    """A ridge-penalised multinomial logit of ``classes`` (0, 1, 2; [n]) on ``features`` [n, k], as JSON can hold it.

    Features are standardised first, and ``ridge`` (in observations) is on all three classes' weights, so that no class
    is the reference (Friedman, Hastie, Tibshirani 2010, §4). Newton's method from 0 with step halving: the objective
    is strictly concave, so what it ends at does not depend on the way. ValueError without any observation.
    """
    if not len(classes):
        raise ValueError("no observation to fit a logit on: a longer past is needed")
    centre, scale = moments(features)
    design = np.column_stack([standardised(features, centre, scale), np.ones(len(features))])
    penalty = np.append(np.full(features.shape[1], ridge), INTERCEPT_RIDGE)
    weights = _newton(design, np.eye(3)[classes], penalty)
    return {"centre": centre.tolist(), "scale": scale.tolist(), "weights": weights.tolist()}


def call_logit(parameters: Mapping[str, Any], features: FloatArray) -> FloatArray:
    """Class probabilities [n, 3] from ``features`` [n, k]: each at least FLOOR, each row sums to 1."""
    strides = standardised(features, parameters["centre"], parameters["scale"])
    *slopes, intercepts = parameters["weights"]
    triples = _softmax([linear(strides, [slope[c] for slope in slopes], intercepts[c]) for c in range(3)])
    return np.asarray(FLOOR + (1.0 - 3.0 * FLOOR) * triples)


def moments(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations of the columns of ``features``; 1 for the deviation of a constant one."""
    scale = features.std(axis=0)
    return features.mean(axis=0), np.where(scale > LEAST_SCALE, scale, 1.0)


def standardised(features: FloatArray, centre: ArrayLike, scale: ArrayLike) -> FloatArray:
    """``features`` [n, k] in standard deviations from their means, within ±LONGEST_STRIDE."""
    strides = (features - np.asarray(centre)) / np.asarray(scale)
    return np.asarray(np.clip(strides, -LONGEST_STRIDE, LONGEST_STRIDE))


def linear(columns: FloatArray, slopes: Sequence[float], intercept: float) -> FloatArray:
    """intercept + Σ slope·column, [n], column by column: each row's bits are its own."""
    total = np.full(len(columns), intercept)
    for k, slope in enumerate(slopes):
        total = total + slope * columns[:, k]
    return total


def _softmax(scores: Sequence[FloatArray]) -> FloatArray:
    """Three columns of scores to rows of probabilities, [n, 3]."""
    highest = np.maximum(np.maximum(scores[0], scores[1]), scores[2])
    low, mid, high = (np.exp(score - highest) for score in scores)
    total = low + mid + high
    return np.stack([low / total, mid / total, high / total], axis=1)


def _newton(design: FloatArray, chosen: FloatArray, penalty: FloatArray) -> FloatArray:
    """argmax of Σ log p(chosen) - ½ Σ penalty·w², w [k, 3]; ``design`` [n, k], ``chosen`` [n, 3] is one-hot."""
    weights = np.zeros((design.shape[1], 3))
    value, p = _objective(design, chosen, penalty, weights)
    for _ in range(NEWTON_STEPS):
        gradient = design.T @ (chosen - p) - penalty[:, None] * weights
        step = np.linalg.solve(_curvature(design, p, penalty), gradient.T.ravel()).reshape(3, -1).T
        length = 1.0
        new_value, new_p = _objective(design, chosen, penalty, weights + step)
        while new_value < value and length > 1e-6:
            length /= 2.0
            new_value, new_p = _objective(design, chosen, penalty, weights + length * step)
        weights, value, p = weights + length * step, new_value, new_p
        if np.abs(length * step).max() < SETTLED:
            break
    return weights


def _objective(
    design: FloatArray, chosen: FloatArray, penalty: FloatArray, weights: FloatArray
) -> tuple[float, FloatArray]:
    p = _softmax(list((design @ weights).T))
    likelihood = np.log(np.maximum((p * chosen).sum(axis=1), 1e-300)).sum()
    return float(likelihood - 0.5 * (penalty[:, None] * weights**2).sum()), p


def _curvature(design: FloatArray, p: FloatArray, penalty: FloatArray) -> FloatArray:
    """The negative Hessian, [3k, 3k], class by class."""
    k = design.shape[1]
    curvature = np.empty((3 * k, 3 * k))
    for a in range(3):
        for b in range(a, 3):
            share = p[:, a] * ((a == b) - p[:, b])
            block = design.T @ (design * share[:, None]) + (np.diag(penalty) if a == b else 0.0)
            curvature[a * k : (a + 1) * k, b * k : (b + 1) * k] = block
            curvature[b * k : (b + 1) * k, a * k : (a + 1) * k] = block
    return curvature


def running(values: FloatArray) -> FloatArray:
    """Σ of all before each bar and of all in the end, [n + 1]: what ``mean_over`` takes its differences of."""
    return np.concatenate([[0.0], values.cumsum()])


def mean_over(sums: FloatArray, rows: IntArray, window: int) -> FloatArray:
    """The mean of the ``window`` values up to each of ``rows``, or of those there are."""
    start = np.maximum(rows + 1 - window, 0)
    return np.asarray((sums[rows + 1] - sums[start]) / (rows + 1 - start))


def log_volatility(mean_variance: FloatArray) -> FloatArray:
    """Log of the volatility a bar, from mean variances a bar; what is below any tick is read as a tick."""
    return np.asarray(0.5 * np.log(np.maximum(mean_variance, LEAST_VARIANCE)))


def log_terciles(history: MarketHistory, h: int, rows: IntArray) -> FloatArray:
    """Logs of outcomes.volatility_terciles at consecutive ``rows``, as a volatility a bar (over √h); [len(rows), 2].

    One sort and two insertions a row instead of a walk through all bars. Where there are too few bars for a label the
    terciles are of those there are; before the first h bars, both are the volatility of the bars so far.
    """
    longest = history.bars(REFERENCE_S)
    first = max(0, int(rows[0]) + 1 - longest - (h - 1))  # the tail that reaches back far enough
    values = realised_volatility(_tail(history, first), h)[h - 1 :].tolist()  # values[j] ended at bar first + h - 1 + j
    end = int(rows[0]) - first - h + 1  # of row 0
    window = sorted(values[max(0, end + 1 - longest) : max(0, end)])
    found = np.empty((len(rows), 2))
    for n, row in enumerate(rows.tolist()):
        if end + n >= 0:
            insort(window, values[end + n])
        if len(window) > longest:
            del window[bisect_left(window, values[end + n - longest])]
        if window:
            found[n] = window[len(window) // 3], window[2 * len(window) // 3]
        else:
            found[n] = np.sqrt(h * (history.returns[: row + 1] ** 2).mean())
    return np.asarray(np.log(np.maximum(found, (LEAST_VARIANCE * h) ** 0.5)) - 0.5 * np.log(h))


def _tail(history: MarketHistory, first: int) -> MarketHistory:
    begin = history.first + first * history.timeframe_s
    return MarketHistory(begin, history.timeframe_s, history.returns[first:], history.variance[first:],
                         history.present[first:], history.instruments)  # fmt: skip
