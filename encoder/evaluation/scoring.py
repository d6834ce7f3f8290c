"""One fold's forecasts against what happened: scores series by series, and who is better by more than chance.

Everything returned is JSON: ``scores[forecaster][series][measure]``, ``gains[forecaster][other]`` (mean loss saved),
estimates as [mean, variance, times] so that folds can be combined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from encoder.evaluation.baselines import BOTH, EMBEDDING, HAR
from encoder.evaluation.panel import STRIDE_S, Panel
from encoder.evaluation.targets import TASK_HORIZON_S
from shared.forecast_tests import Estimate, clark_west, diebold_mariano, estimate
from shared.market_data import BoolArray
from shared.rows import FloatArray, IntArray
from shared.scores import auroc, auroc_parts, average_precision, brier_loss, log_loss, macro_f1, qlike_loss, r2

JUDGED = (EMBEDDING, BOTH)  # whose gains over everyone else are tested
LEAST_MOMENTS = 48  # of a series, else it is not scored

Result = dict[str, Any]


def score_regression(
    panel: Panel, task: str, forecasts: Mapping[str, FloatArray], smears: Mapping[str, float], names: Sequence[str]
) -> Result:
    """``forecasts`` [N] of log volatility; their variances are exp(2·forecast) · smear. Gains: QLIKE saved;
    ``clark_west``: what HAR ⊕ embedding knows beyond HAR."""
    panel, forecasts = _known(panel, task, forecasts)
    wanted = panel.targets[task]
    variance = np.exp(2 * wanted)
    losses = {f: qlike_loss(variance, np.exp(2 * forecast) * smears[f]) for f, forecast in forecasts.items()}

    def measures(forecaster: str, rows: IntArray) -> dict[str, float]:
        qlike = float(losses[forecaster][rows].mean())
        return {"r2": r2(wanted[rows], forecasts[forecaster][rows]), "qlike": qlike}

    steps = TASK_HORIZON_S[task] // STRIDE_S
    beyond = clark_west(wanted, forecasts[HAR], forecasts[BOTH], steps, panel.as_of)
    return {
        "scores": _by_series(panel, forecasts, names, measures),
        "gains": _gains(losses, steps, panel.as_of),
        "clark_west": astuple(beyond),
    }


def score_classes(panel: Panel, task: str, forecasts: Mapping[str, FloatArray], names: Sequence[str]) -> Result:
    """``forecasts`` [N, classes] of probabilities. Gains: log loss saved. Of two classes also ``areas`` under the ROC
    curve, each series by itself, their mean as an estimate, and ``area_gains``."""
    panel, forecasts = _known(panel, task, forecasts)
    happened = panel.targets[task].astype(np.int64)
    losses = {f: log_loss(given, happened) for f, given in forecasts.items()}
    binary = next(iter(forecasts.values())).shape[1] == 2

    def measures(forecaster: str, rows: IntArray) -> dict[str, float]:
        given, truth = forecasts[forecaster][rows], happened[rows]
        scores = {
            "macro_f1": macro_f1(truth, given.argmax(axis=1), given.shape[1]),
            "log_loss": float(losses[forecaster][rows].mean()),
            "brier": float(brier_loss(given, truth).mean()),
        }
        if binary:
            scores["auroc"] = auroc(given[:, 1], truth == 1)
            scores["average_precision"] = average_precision(given[:, 1], truth == 1)
        return scores

    steps = TASK_HORIZON_S[task] // STRIDE_S
    result: Result = {
        "scores": _by_series(panel, forecasts, names, measures),
        "gains": _gains(losses, steps, panel.as_of),
    }
    return result | (_areas(panel, forecasts, happened == 1, steps) if binary else {})


def _known(panel: Panel, task: str, forecasts: Mapping[str, FloatArray]) -> tuple[Panel, dict[str, FloatArray]]:
    """The moments whose target is known, of series that have enough of them."""
    known = np.isfinite(panel.targets[task])
    counts = np.bincount(panel.series[known], minlength=int(panel.series.max(initial=0)) + 1)
    chosen = known & (counts[panel.series] >= LEAST_MOMENTS)
    return panel.select(chosen), {f: forecast[chosen] for f, forecast in forecasts.items()}


def _by_series(panel: Panel, forecasts: Mapping[str, FloatArray], names: Sequence[str], measures: Any) -> Result:
    rows = {names[k]: np.flatnonzero(panel.series == k) for k in np.unique(panel.series)}
    return {f: {name: measures(f, chosen) for name, chosen in rows.items()} for f in forecasts}


def _gains(losses: Mapping[str, FloatArray], steps: int, as_of: IntArray) -> Result:
    return {
        judged: {
            other: astuple(diebold_mariano(losses[judged], losses[other], steps, as_of))
            for other in losses
            if other != judged
        }
        for judged in JUDGED
    }


def _areas(panel: Panel, forecasts: Mapping[str, FloatArray], happened: BoolArray, steps: int) -> Result:
    parts = {f: _area(panel, given[:, 1], happened) for f, given in forecasts.items()}
    areas = {f: astuple(_with_mean(area, influence, steps, panel.as_of)) for f, (area, influence) in parts.items()}
    gains: Result = {judged: {} for judged in JUDGED}
    for judged in JUDGED:
        area, influence = parts[judged]
        for other, (other_area, other_influence) in parts.items():
            if other != judged:
                difference = influence - other_influence
                gains[judged][other] = astuple(_with_mean(area - other_area, difference, steps, panel.as_of))
    return {"areas": areas, "area_gains": gains}


def _area(panel: Panel, score: FloatArray, happened: BoolArray) -> tuple[float, FloatArray]:
    """The mean over series of the area under the ROC curve, and each moment's influence on it [N]."""
    areas, influence = [], np.zeros(len(panel))
    for k in np.unique(panel.series):
        rows = np.flatnonzero(panel.series == k)
        area, influences = auroc_parts(score[rows], happened[rows])
        if np.isfinite(area):
            areas.append(area)
            influence[rows] = influences * (len(panel) / len(rows))
    return float(np.mean(areas)) if areas else float("nan"), influence / max(len(areas), 1)


def _with_mean(mean: float, influence: FloatArray, steps: int, as_of: IntArray) -> Estimate:
    around = estimate(influence, steps, as_of)
    return Estimate(mean, around.variance, around.n)
