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
from encoder.evaluation.panel import Panel
from encoder.evaluation.probes import Design, logistic_probe, ridge_probe
from encoder.evaluation.splits import LONGEST_HORIZON_S
from encoder.evaluation.targets import CLASSES, REGRESSIONS
from shared.job import JobError
from shared.market_data import BoolArray
from shared.rows import FloatArray, IntArray

LEAST_LEARNT = 50  # moments


@dataclass(frozen=True, slots=True)
class Forecasts:
    """``of[task][forecaster]``: log volatilities [N] or probabilities [N, classes]. ``smears``: see baselines.smear,
    of the later moments to learn from when fitted on the earlier. ``penalties``: those chosen. ``har``: the past
    volatilities that all HAR uses have."""

    of: dict[str, dict[str, FloatArray]]
    smears: dict[str, dict[str, float]]
    penalties: dict[str, dict[str, float]]
    har: tuple[str, ...]


def forecast_all(inputs: Inputs, learn: IntArray, cut: int) -> Forecasts:
    """``learn``: rows of ``inputs`` to fit on. Penalties and rounds are chosen on the moments to learn from at or
    after ``cut`` (Unix seconds), fitted on those whose labels end before it."""
    panel = inputs.panel.select(learn)
    early, late = split_to_learn(panel, cut)
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


def split_to_learn(panel: Panel, cut: int) -> tuple[BoolArray, BoolArray]:
    """The moments to learn from [N] whose labels end before ``cut`` (Unix seconds), and those at or after it.

    JobError when fewer than 50 of either know a task's target.
    """
    early, late = panel.as_of + LONGEST_HORIZON_S <= cut, panel.as_of >= cut
    for task in (*REGRESSIONS, *CLASSES):
        known = np.isfinite(panel.targets[task])
        if min((early & known).sum(), (late & known).sum()) < LEAST_LEARNT:
            raise JobError(
                f"{(early & known).sum()} and {(late & known).sum()} moments to learn {task} from, at least "
                f"{LEAST_LEARNT} before and {LEAST_LEARNT} after the inner split are needed: evaluate over a longer "
                "span (--from, --to) or with fewer folds (--folds)"
            )
    return early, late


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
        early, late = self.early[known], self.late[known]
        if self.task in CLASSES:
            return self._classes(forecaster, rows, labels, early, late)
        if forecaster in (PERSISTENCE, EWMA):
            column = "log_ewma" if forecaster == EWMA else PERSISTS[self.task]
            values = self.inputs.panel.known[column]
            offsets = labels - values[rows]
            return values + offsets.mean(), smear(offsets[late] - offsets[early].mean()), None
        asked = self._design(forecaster)
        inputs, penalty = asked.select(rows), None
        if forecaster == LIGHTGBM:
            fit, trial = fit_lightgbm(inputs.columns, labels, None, early, late)
        else:
            fit, trial, penalty = ridge_probe(inputs, labels, early, late)
        return fit(asked), smear(labels[late] - trial(inputs.select(late))), penalty

    def _classes(
        self, forecaster: str, rows: IntArray, labels: FloatArray, early: BoolArray, late: BoolArray
    ) -> tuple[FloatArray, None, float | None]:
        asked, classes = self._design(forecaster), CLASSES[self.task]
        inputs = asked.select(rows)
        if forecaster == LIGHTGBM:
            fit, _ = fit_lightgbm(inputs.columns, labels, classes, early, late)
            return fit(asked), None, None
        fit, penalty = logistic_probe(inputs, labels.astype(np.int64), classes, early, late)
        return fit(asked), None, penalty

    def _design(self, forecaster: str) -> Design:
        return design(forecaster, self.task, self.inputs, self.har)
