"""Everyone who is asked, by name: simple baselines first, then the encoder, all read in the same way.

HAR: log volatility over the last hour, day and week, and whatever else of 4h and 30d helps in training (Corsi,
Journal of Financial Econometrics 7, 2009; in logarithms); with the clock, also the time of day and of week. PCA-64:
the window's channels on their first 64 components, beside the level of volatility, which channels are scaled free of.
A class task's own thresholds are known to everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.evaluation.panel import Panel
from encoder.evaluation.probes import Design, Fit, fit_ridge
from encoder.evaluation.targets import CLASSES, REGRESSIONS
from shared.features import FEATURES
from shared.market_data import BoolArray
from shared.rows import FloatArray

PERSISTENCE, EWMA, HAR, CLOCK, PCA = "persistence", "EWMA", "HAR", "HAR + clock", "PCA-64"
RIDGE, LIGHTGBM = "features + ridge", "features + LightGBM"
UNTRAINED, EMBEDDING, BOTH = "untrained net", "embedding", "HAR ⊕ embedding"
FORECASTERS = (PERSISTENCE, EWMA, HAR, CLOCK, PCA, RIDGE, LIGHTGBM, UNTRAINED, EMBEDDING, BOTH)

HAR_SETS = (("1h", "1d", "1w"), ("1h", "4h", "1d", "1w"), ("1h", "1d", "1w", "30d"), ("1h", "4h", "1d", "1w", "30d"))
CONTEXT = {"volatility_class": ("tercile_low", "tercile_high"), "large_move": ("log_ewma",)}
PERSISTS = dict(zip(REGRESSIONS, ("1h", "4h", "1d"), strict=True))
LEVEL = list(FEATURES).index("log_ewma_volatility")
TIME = [
    list(FEATURES).index(f"{span}_{wave}")
    for span in ("day", "half_day", "week", "half_week")
    for wave in ("sine", "cosine")
]
COMPONENTS = 64
POWER_STEPS = 4
OVERSAMPLED = 16
ROUNDS = 200  # of boosting, at most
PATIENCE = 20  # rounds without gain on the later moments
BOOSTING: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 7,
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known at N moments: ``features`` [N, F], ``pca``, ``untrained`` and ``embedding`` [N, 64], float32."""

    panel: Panel
    features: NDArray[np.float32]
    pca: NDArray[np.float32]
    untrained: NDArray[np.float32]
    embedding: NDArray[np.float32]


def design(forecaster: str, task: str, inputs: Inputs, har: Sequence[str]) -> Design:
    """What a linear forecaster of this name reads for this task."""
    known = inputs.panel.known
    context = columns(inputs.panel, CONTEXT.get(task, ()))
    if forecaster == PERSISTENCE:
        return Design.of(free=np.column_stack([context, _one_hot(known[f"last_{task}"], CLASSES[task])]))
    if forecaster == EWMA:
        return Design.of(free=np.column_stack([context, known["log_ewma"]]))
    history = np.column_stack([context, columns(inputs.panel, har)])
    if forecaster == HAR:
        return Design.of(free=history)
    if forecaster == CLOCK:
        return Design.of(free=np.column_stack([history, inputs.features[:, TIME]]))
    if forecaster == BOTH:
        return Design.of(inputs.embedding, free=history)
    if forecaster == PCA:
        return Design.of(inputs.pca, free=np.column_stack([context, inputs.features[:, LEVEL]]))
    read = {RIDGE: inputs.features, LIGHTGBM: inputs.features, UNTRAINED: inputs.untrained, EMBEDDING: inputs.embedding}
    return Design.of(read[forecaster], free=context)


def columns(panel: Panel, names: Sequence[str]) -> FloatArray:
    """[N, names]"""
    return np.asarray(np.column_stack([np.empty((len(panel), 0)), *(panel.known[name] for name in names)]))


def _one_hot(classes: FloatArray, count: int) -> FloatArray:
    """[N, classes - 1], all 0 for the last class; where nothing is known, the same as for the last."""
    return np.asarray(classes[:, None] == np.arange(count - 1), dtype=np.float64)


def choose_har(panel: Panel, early: BoolArray, late: BoolArray) -> tuple[str, ...]:
    """The set of past volatilities that forecasts the later moments best, summed over the three horizons."""

    def loss(names: Sequence[str]) -> float:
        inputs, total = Design.of(free=columns(panel, names)), 0.0
        for task in REGRESSIONS:
            wanted = panel.targets[task]
            known = np.isfinite(wanted)
            first, second = early & known, late & known
            forecast = fit_ridge(inputs.select(first), wanted[first], 0.0)(inputs.select(second))
            total += float(((forecast - wanted[second]) ** 2).mean() / wanted[second].var())
        return total

    return min(HAR_SETS, key=loss)


def fit_pca(sample: NDArray[np.float32], seed: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """``sample`` [n, D] → a function from [m, D] to [m, 64], each component with deviation 1 over the sample.

    Randomised subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53, 2011) on standardised columns.
    """
    mean, scale = sample.mean(0), np.maximum(sample.std(0), 1e-3).astype(np.float32)
    X = (sample - mean) / scale
    size = min(COMPONENTS + OVERSAMPLED, *X.shape)
    basis = np.random.default_rng(seed).normal(size=(X.shape[1], size)).astype(np.float32)
    for _ in range(POWER_STEPS):
        basis, _ = np.linalg.qr(X.T @ (X @ basis))
    _, values, rows = np.linalg.svd(X @ basis, full_matrices=False)
    kept = min(COMPONENTS, size)
    unit = np.maximum(values[:kept] / np.sqrt(len(X)), 1e-6)
    directions = (basis @ rows[:kept].T / unit).astype(np.float32)
    return lambda new: np.asarray((new - mean) / scale @ directions)


def fit_lightgbm(
    inputs: FloatArray, labels: FloatArray, classes: int | None, early: BoolArray, late: BoolArray
) -> tuple[Fit, Fit]:
    """Gradient-boosted trees on all moments, and on the earlier ones alone, with as many rounds as then did best on the
    later; one thread, deterministic. ``classes``: None for numbers."""
    import lightgbm

    objective: dict[str, Any] = {"objective": "regression", "metric": "l2"}
    if classes is not None:
        objective = {"objective": "multiclass", "num_class": classes, "metric": "multi_logloss"}
    if classes == 2:
        objective = {"objective": "binary", "metric": "binary_logloss"}
    settings = BOOSTING | objective
    first = lightgbm.Dataset(inputs[early], labels[early])
    second = lightgbm.Dataset(inputs[late], labels[late], reference=first)
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    trial = lightgbm.train(settings, first, ROUNDS, valid_sets=[second], callbacks=[stop])
    model = lightgbm.train(settings, lightgbm.Dataset(inputs, labels), max(1, trial.best_iteration))

    def forecast(trees: lightgbm.Booster, new: Design) -> FloatArray:
        given = np.asarray(trees.predict(new.columns, num_threads=1))  # up to the best round, where one was found
        return np.column_stack([1.0 - given, given]) if classes == 2 else given

    return partial(forecast, model), partial(forecast, trial)


def smear(residuals: FloatArray) -> float:
    """What turns the exponential of a log volatility forecast, squared, into a variance: mean exp(2·residual)
    (Duan, JASA 78, 1983). Of moments that were not fitted: fitted residuals are too small, the more so the more is
    fitted."""
    return float(np.exp(2.0 * residuals).mean())
