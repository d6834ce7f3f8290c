"""HAR-logit: the textbook forecast of a volatility class, and the one that others are measured against.

The log realised volatilities of the last hours, day, week and month are the heterogeneous autoregressive model's
regressors (Corsi 2009, in logs as Andersen, Bollerslev, Diebold 2007); here they stand against the terciles that the
label will compare with, and a ridge-penalised multinomial logit turns them into probabilities. The trend's regressors
are the t-statistics of the same spans and their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from meta_controller.controller import HORIZONS_S
from meta_controller.market_index import DAY_S, LEAST_BARS, MarketHistory
from meta_controller.outcomes import outcomes
from meta_controller.regimes.expert import Calls, Expert
from meta_controller.regimes.logit import (
    LEAST_PAST_S,
    LEAST_VARIANCE,
    call_logit,
    fit_logit,
    log_terciles,
    log_volatility,
    mean_over,
    running,
)
from shared.rows import FloatArray, IntArray

SPANS_S = (4 * 3600, DAY_S, 7 * DAY_S, 30 * DAY_S)
SETTLING_S = 30 * DAY_S  # what is learnt from has the longest span behind it
VOLATILITY_RIDGE = 100.0
TREND_RIDGE = 3000.0


def fit(past: MarketHistory) -> dict[str, Any] | None:
    """One logit a horizon and axis, on every bar whose outcome is known by the past's end.

    None from less than LEAST_PAST_S.
    """
    if len(past) < past.bars(LEAST_PAST_S):
        return None
    return {str(horizon): _fit_horizon(past, horizon) for horizon in HORIZONS_S}


def _fit_horizon(past: MarketHistory, horizon: int) -> dict[str, Any]:
    followed = outcomes(past, horizon)
    rows = np.arange(past.bars(SETTLING_S), len(past) - past.bars(horizon))
    trend, volatility = features(past, horizon, rows)
    return {
        "trend": fit_logit(trend, followed.trend[rows], TREND_RIDGE),
        "volatility": fit_logit(volatility, followed.volatility[rows], VOLATILITY_RIDGE),
    }


def call(history: MarketHistory, parameters: Mapping[str, Any], bars: int) -> Calls:
    rows = np.arange(len(history) - bars, len(history))
    calls = []
    for horizon in HORIZONS_S:
        logits = parameters[str(horizon)]
        trend, volatility = features(history, horizon, rows)
        calls.append(np.hstack([call_logit(logits["trend"], trend), call_logit(logits["volatility"], volatility)]))
    return np.stack(calls, axis=1)


def features(history: MarketHistory, horizon: int, rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """The regressors at consecutive ``rows``: of the trend [len(rows), 8], of the volatility [len(rows), 5]."""
    returns, squares = running(history.returns), running(history.returns**2)
    logs, scores = [], []
    for span in SPANS_S:
        window = history.bars(span)
        variance = np.maximum(mean_over(squares, rows, window), LEAST_VARIANCE)
        count = np.minimum(rows + 1, window)
        logs.append(log_volatility(variance))
        scores.append(np.clip(mean_over(returns, rows, window) * np.sqrt(count / variance), -4.0, 4.0))
    terciles = log_terciles(history, history.bars(horizon), rows)
    middle = terciles.mean(axis=1)
    volatility = np.stack([*(log - middle for log in logs), terciles[:, 1] - terciles[:, 0]], axis=1)
    return np.stack([*scores, *(np.abs(score) for score in scores)], axis=1), volatility


EXPERT = Expert(call=call, fit=fit, least_bars=LEAST_BARS)
