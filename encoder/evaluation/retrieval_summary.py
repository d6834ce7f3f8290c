"""The scores of analogs over all folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from encoder.evaluation.scoring import Result
from shared.forecast_tests import Estimate, combine

ANALOGS = "analogs"
# What finding moments gains beside how their outcomes are rescaled: with the same rescaling, and with less.
RETRIEVAL_ITSELF = (
    (ANALOGS, "forecast_random"),
    ("analogs_ewma", "ewma_random"),
    ("analogs_ewma", "matched_random"),
    ("analogs_raw", "matched_random"),
)


def horizons(results: Sequence[Result], group: str) -> list[str]:
    """Those that were scored in any fold."""
    found = [horizon for fold in _scored(results, group) for horizon in fold["horizons"]]
    return list(dict.fromkeys(found))


def reasons(results: Sequence[Result], group: str) -> list[str]:
    """Why folds have no scores."""
    parts = (fold.get(group, {}).get("retrieval", {}) for fold in results)
    return [part["why_not"] for part in parts if "why_not" in part]


def methods(results: Sequence[Result], group: str) -> list[str]:
    """In the order of encoder.evaluation.retrieval."""
    found = [m for fold in _scored(results, group) for h in fold["horizons"].values() for m in h["methods"]]
    return list(dict.fromkeys(found))


def mean_crps(results: Sequence[Result], group: str, horizon: str, method: str) -> float:
    return _mean([h["methods"][method]["crps"] for h in _of(results, group, horizon)])


def crps_gain(
    results: Sequence[Result], group: str, horizon: str, other: str, method: str = ANALOGS
) -> tuple[float, float]:
    """By what share the CRPS of analogs (as rescaled by ``method``) is lower than another method's, and the one-sided
    p that it is."""
    gains = [h["gains"][method][other] for h in _of(results, group, horizon)]
    test = combine([Estimate(**gain["test"]) for gain in gains])
    return _mean([gain["share"] for gain in gains]), test.p_above


def coverage_p(
    results: Sequence[Result], group: str, horizon: str, level: str, method: str = ANALOGS
) -> tuple[float, float]:
    """What share of outcomes a band held, and the p-value that it holds what it should."""
    parts = [h["methods"][method]["coverage"][level] for h in _of(results, group, horizon)]
    return _mean([part["share"] for part in parts]), combine([Estimate(**part["error"]) for part in parts]).p_two_sided


def _scored(results: Sequence[Result], group: str) -> list[dict[str, Any]]:
    parts = (fold.get(group, {}).get("retrieval", {}) for fold in results)
    return [part for part in parts if "horizons" in part]


def _of(results: Sequence[Result], group: str, horizon: str) -> list[dict[str, Any]]:
    return [fold["horizons"][horizon] for fold in _scored(results, group) if horizon in fold["horizons"]]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
