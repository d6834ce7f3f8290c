"""Fold results taken together: means over series, then over folds; estimates combined; what the numbers say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from encoder.evaluation.baselines import FORECASTERS
from encoder.evaluation.scoring import Result
from encoder.evaluation.targets import REGRESSIONS
from shared.forecast_tests import Estimate, combine

GROUPS = ("seen", "unseen")
ALPHA = 0.05
HIGHER_IS_BETTER = {"r2": True, "macro_f1": True, "auroc": True, "average_precision": True}  # else lower is


def groups(results: Sequence[Result]) -> list[str]:
    """Those that any fold has."""
    return [group for group in GROUPS if any(group in fold for fold in results)]


def fold_means(results: Sequence[Result], group: str, task: str, forecaster: str, measure: str) -> list[float]:
    """The mean over series, of each fold that has the group; a fold in which nothing could be scored is left out."""
    means = []
    for fold in results:
        if group in fold:
            series = fold[group]["tasks"][task]["scores"].get(forecaster, {})
            values = [scores[measure] for scores in series.values()]
            known = [value for value in values if value is not None]
            if known:
                means.append(float(np.mean(known)))
    return means


def mean_score(results: Sequence[Result], group: str, task: str, forecaster: str, measure: str) -> float:
    means = fold_means(results, group, task, forecaster, measure)
    return float(np.mean(means)) if means else math.nan


def spread(results: Sequence[Result], group: str, task: str, forecaster: str, measure: str) -> float:
    """Standard deviation over folds; NaN for fewer than two."""
    means = fold_means(results, group, task, forecaster, measure)
    return float(np.std(means, ddof=1)) if len(means) > 1 else math.nan


def combined(results: Sequence[Result], group: str, task: str, *path: str) -> Estimate:
    """The estimate at ``path`` of a task's result, over all folds that have it."""
    found = []
    for fold in results:
        node = fold.get(group, {}).get("tasks", {}).get(task, {})
        for key in path:
            node = node.get(key, {}) if isinstance(node, dict) else {}
        if node and None not in node:
            found.append(Estimate(*node))
    return combine(found)


def best(results: Sequence[Result], group: str, task: str, measure: str, among: Sequence[str] = FORECASTERS) -> str:
    """Who has the best mean; the first of equals."""
    sign = 1 if HIGHER_IS_BETTER.get(measure, False) else -1

    def rank(forecaster: str) -> float:
        value = mean_score(results, group, task, forecaster, measure)
        return sign * value if math.isfinite(value) else -math.inf

    return max(among, key=rank)


def primary(task: str) -> str:
    """The measure by which a task is decided."""
    if task in REGRESSIONS:
        return "qlike"
    return "auroc" if task == "large_move" or task.startswith("direction") else "log_loss"


def primary_gain(results: Sequence[Result], group: str, task: str, judged: str, other: str) -> Estimate:
    """By how much ``judged`` (an encoder's forecaster) is better than ``other`` in the primary measure."""
    return combined(results, group, task, "area_gains" if primary(task) == "auroc" else "gains", judged, other)
