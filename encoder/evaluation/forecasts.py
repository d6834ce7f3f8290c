"""Everyone's forecasts of everything: fitted on the moments to learn from, made for all moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encoder.evaluation.baselines import (
    EWMA,
    FORECASTERS,
    LIGHTGBM,
    PERSISTENCE,
    PERSISTS,
    Inputs,
    choose_har,
    design,
    fit_lightgbm,
    smear,
)
from encoder.evaluation.probes import Design, Fit, logistic_probe, ridge_probe
from encoder.evaluation.splits import LONGEST_HORIZON_S
from encoder.evaluation.targets import CLASSES, REGRESSIONS
from shared.job import JobError
from shared.market_data import BoolArray
from shared.rows import FloatArray, IntArray

LEAST_LEARNT = 50  # moments


@dataclass(frozen=True, slots=True)
class Forecasts:
    """``of[task][forecaster]``: log volatilities [N] or probabilities [N, classes]. ``smears``: see baselines.smear.
    ``penalties``: those chosen. ``har``: the past volatilities that all HAR uses have."""

    of: dict[str, dict[str, FloatArray]]
    smears: dict[str, dict[str, float]]
    penalties: dict[str, dict[str, float]]
    har: tuple[str, ...]


def forecast_all(inputs: Inputs, learn: IntArray, cut: int) -> Forecasts:
    """``learn``: rows of ``inputs`` to fit on. Penalties and rounds are chosen on the moments to learn from at or
    after ``cut`` (Unix seconds), fitted on those whose labels end before it."""
    panel = inputs.panel.select(learn)
    early, late = panel.as_of + LONGEST_HORIZON_S <= cut, panel.as_of >= cut
    result = Forecasts({}, {}, {}, choose_har(panel, early, late))
    for task in (*REGRESSIONS, *CLASSES):
        result.of[task], result.smears[task], result.penalties[task] = {}, {}, {}
        asker = _Asker(task, inputs, learn, early, late, result.har)
        for forecaster in FORECASTERS:
            forecasts, smeared, penalty = asker.forecast(forecaster)
            result.of[task][forecaster] = forecasts
            if smeared is not None:
                result.smears[task][forecaster] = smeared
            if penalty is not None:
                result.penalties[task][forecaster] = penalty
    return result


@dataclass(frozen=True, slots=True)
class _Asker:
    """One task, put to one forecaster after the other."""

    task: str
    inputs: Inputs
    learn: IntArray
    early: BoolArray
    late: BoolArray
    har: tuple[str, ...]

    def forecast(self, forecaster: str) -> tuple[FloatArray, float | None, float | None]:
        """Forecasts, smearing factor (of numbers), penalty (where one was chosen)."""
        labels = self.inputs.panel.targets[self.task][self.learn]
        known = np.isfinite(labels)
        labels, rows = labels[known], self.learn[known]
        if min((self.early & known).sum(), (self.late & known).sum()) < LEAST_LEARNT:
            raise JobError(
                f"{known.sum()} moments to learn {self.task} from are too few ({LEAST_LEARNT} before and after the "
                "inner split are needed): evaluate over a longer span or with fewer folds"
            )
        if self.task in CLASSES:
            fit, penalty = self._fit(forecaster, rows, labels, known)
            return fit(self._design(forecaster)), None, penalty
        if forecaster in (PERSISTENCE, EWMA):
            column = "log_ewma" if forecaster == EWMA else PERSISTS[self.task]
            values = self.inputs.panel.known[column]
            offset = float((labels - values[rows]).mean())
            return values + offset, smear(labels - values[rows] - offset), None
        fit, penalty = self._fit(forecaster, rows, labels, known)
        forecasts = fit(self._design(forecaster))
        return forecasts, smear(labels - forecasts[rows]), penalty

    def _fit(self, forecaster: str, rows: IntArray, labels: FloatArray, known: BoolArray) -> tuple[Fit, float | None]:
        early, late = self.early[known], self.late[known]
        inputs = self._design(forecaster).select(rows)
        classes = CLASSES.get(self.task)
        if forecaster == LIGHTGBM:
            return fit_lightgbm(inputs.columns, labels, classes, early, late), None
        if classes is None:
            return ridge_probe(inputs, labels, early, late)
        return logistic_probe(inputs, labels.astype(np.int64), classes, early, late)

    def _design(self, forecaster: str) -> Design:
        return design(forecaster, self.task, self.inputs, self.har)
