"""How good a forecast was: scores of numbers, probabilities, quantiles and ensembles. Pure, numpy only.

What ends in ``_loss`` or says so gives one loss a forecast [n], so that losses can be compared moment by moment
(shared.forecast_tests); lower is better. The others give one number. ValueError for shapes that do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.rows import FloatArray, IntArray

BoolArray = NDArray[np.bool_]

SMALLEST_PROBABILITY = 1e-12  # a forecaster that was certain and wrong pays 27.6 nats, not infinity


def r2(actual: FloatArray, forecast: FloatArray) -> float:
    """1 - Σ(actual - forecast)² / Σ(actual - mean of actual)², of one series [n]; NaN where nothing varies.

    Against the mean of the very sample that is scored: harder than against what was known before.
    """
    _same_length(actual, forecast)
    spread = float(((actual - actual.mean()) ** 2).sum()) if len(actual) else 0.0
    return 1.0 - float(((actual - forecast) ** 2).sum()) / spread if spread > 0 else float("nan")


def qlike_loss(variance: FloatArray, forecast: FloatArray) -> FloatArray:
    """σ²/ŝ² - ln(σ²/ŝ²) - 1, at least 0 [n] (Patton, Journal of Econometrics 160, 2011); both above zero."""
    _same_length(variance, forecast)
    if (variance <= 0).any() or (forecast <= 0).any():
        raise ValueError("QLIKE is of variances above zero; put a floor under them")
    ratio = variance / forecast
    return np.asarray(ratio - np.log(ratio) - 1.0)


def log_loss(probability: FloatArray, happened: IntArray) -> FloatArray:
    """-ln of the probability given to the class that happened, in nats [n]; ``probability`` [n, classes]."""
    _same_length(probability, happened)
    given = probability[np.arange(len(happened)), happened]
    return np.asarray(-np.log(np.maximum(given, SMALLEST_PROBABILITY)))


def brier_loss(probability: FloatArray, happened: IntArray) -> FloatArray:
    """Σ over classes of (probability - 1 if it happened)², between 0 and 2 [n] (Brier, 1950)."""
    _same_length(probability, happened)
    truth = np.zeros_like(probability)
    truth[np.arange(len(happened)), happened] = 1.0
    return np.asarray(((probability - truth) ** 2).sum(axis=1))


def macro_f1(actual: IntArray, forecast: IntArray, classes: int) -> float:
    """The mean over classes of 2·hits / (times forecast + times happened); classes that never occur do not count."""
    _same_length(actual, forecast)
    hits = np.bincount(actual[actual == forecast], minlength=classes)
    either = np.bincount(actual, minlength=classes) + np.bincount(forecast, minlength=classes)
    return float((2 * hits[either > 0] / either[either > 0]).mean()) if len(actual) else float("nan")


def auroc(score: FloatArray, happened: BoolArray) -> float:
    """The chance that a moment at which it happened had the higher score, ties counted half; NaN for one class.

    Area under the ROC curve by ranks (Mann and Whitney, 1947).
    """
    return float(auroc_parts(score, happened)[0])


def auroc_parts(score: FloatArray, happened: BoolArray) -> tuple[float, FloatArray]:
    """The area, and each moment's influence on it [n]: influences have mean 0, and the variance of their mean is
    the area's (DeLong et al., Biometrics 44, 1988). Take it by a method that knows of overlap (newey_west)."""
    _same_length(score, happened)
    yes, no = int(happened.sum()), int((~happened).sum())
    if not yes or not no:
        return float("nan"), np.full(len(score), np.nan)
    beaten_by_yes = _share_below(np.sort(score[~happened]), score[happened])
    beats_no = 1.0 - _share_below(np.sort(score[happened]), score[~happened])
    area = float(beaten_by_yes.mean())
    influence = np.empty(len(score))
    influence[happened] = (beaten_by_yes - area) * (len(score) / yes)
    influence[~happened] = (beats_no - area) * (len(score) / no)
    return area, influence


def _share_below(ordered: FloatArray, values: FloatArray) -> FloatArray:
    """The share of ``ordered`` that lies below each value, ties counted half."""
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(below / (2.0 * len(ordered)))


def average_precision(score: FloatArray, happened: BoolArray) -> float:
    """Σ over thresholds of (recall - recall before) · precision, equal scores taken together; NaN if it never was."""
    _same_length(score, happened)
    if not happened.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(happened[order])[last_of_ties]
    called = np.arange(1, len(score) + 1)[last_of_ties]
    return float((np.diff(hits, prepend=0) / hits[-1] * (hits / called)).sum())


def crps_loss(samples: FloatArray, actual: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Continuous ranked probability score of weighted ensembles: E|X - y| - E|X - X'| / 2 [n].

    ``samples`` [n, members]; ``weights`` the same shape, or None for equal ones; they need not sum to 1. The
    ensemble is taken as the distribution itself (Gneiting and Raftery, JASA 102, 2007, eq. 21).
    """
    _same_length(samples, actual)
    weights = np.ones_like(samples) if weights is None else weights
    order = np.argsort(samples, axis=1)
    x = np.take_along_axis(samples, order, axis=1)
    w = np.take_along_axis(weights, order, axis=1)
    w = w / w.sum(axis=1, keepdims=True)
    distance = (w * np.abs(x - actual[:, None])).sum(axis=1)
    before = np.cumsum(w, axis=1) - w
    # E|X - X'| = 2 Σ w·x·(weight before - weight after), after = 1 - before - w
    spread = 2.0 * (w * x * (2.0 * before + w - 1.0)).sum(axis=1)
    return np.asarray(distance - spread / 2.0)


def pit(samples: FloatArray, actual: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Probability integral transform: the weight of the ensemble below each outcome, ties counted half [n].

    Uniform between 0 and 1 when forecasts are calibrated (Dawid, 1984). Shapes as in crps_loss.
    """
    _same_length(samples, actual)
    weights = np.ones_like(samples) if weights is None else weights
    below = (samples < actual[:, None]) + 0.5 * (samples == actual[:, None])
    return np.asarray((below * weights).sum(axis=1) / weights.sum(axis=1))


def _same_length(a: NDArray[np.generic], b: NDArray[np.generic]) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} forecasts cannot be scored against {len(b)} outcomes")
