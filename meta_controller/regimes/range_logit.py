"""Range-logit: forecasts the log realised volatility by a ridge, and says by a logit which class that will be.

What it has over HAR-logit: Parkinson's range variance, several times less noisy than the squared return (Parkinson
1980; in a HAR: Patton, Sheppard 2009); the week's own pattern, taken out of the past and put into the hours ahead
(Andersen, Bollerslev 1997); past returns with their sign (the leverage effect) and size; how bursty the variance was;
three months of memory. Forecasting the number and not the class uses all that the label rounds away. The logit then
sees only how far the forecast lies from the two terciles, on forecasts made without the days that they are about.

For the trend nothing known beats its long-run frequencies by much: the same logit, shrunk strongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from meta_controller.controller import HORIZONS_S
from meta_controller.market_index import DAY_S, LEAST_BARS, MarketHistory
from meta_controller.outcomes import Outcomes, outcomes
from meta_controller.regimes.expert import Calls, Expert
from meta_controller.regimes.logit import (
    LEAST_PAST_S,
    LEAST_VARIANCE,
    call_logit,
    fit_logit,
    linear,
    log_terciles,
    log_volatility,
    mean_over,
    moments,
    running,
    standardised,
)
from shared.rows import FloatArray, IntArray

HOUR_S = 3600
WEEK_HOURS = 168
RANGE_SPANS_S = (4 * HOUR_S, 12 * HOUR_S, DAY_S, 3 * DAY_S, 7 * DAY_S, 30 * DAY_S, 90 * DAY_S)
MONTH, RISING = 5, (0, 2)  # of RANGE_SPANS_S: the last 4 hours and the last day against the month
BURST_SPANS_S = (DAY_S, 7 * DAY_S, 30 * DAY_S)
RETURN_SPANS_S = (4 * HOUR_S, DAY_S, 7 * DAY_S, 30 * DAY_S)
SCALE_S = 30 * DAY_S  # returns are measured in the volatility of
SETTLING_S = 30 * DAY_S  # what is learnt from has this behind it
LONGEST_T = 4.0

# Chosen by the scores on BTC and ETH in 2019 to 2021; 2022 to 2024 were looked at and not chosen by.
RIDGE = 2000.0  # observations; those of 24 hours overlap 24 times
CLASS_RIDGE = 30.0
TREND_RIDGE = 3000.0
FOLDS = 8
DAY_AND_HOUR_WEIGHT = 24.0  # weeks of the product of day's and hour's means, in each hour of the week's mean
FLAT_WEIGHT = 30.0  # days of no pattern, in each hour's and each day's mean
WILDEST = 10.0  # times the week's variance: an hour counts no more in the pattern
LEAST_LOG_BELOW = 3.0  # under the median: a quieter log volatility is a market that stood still

Pattern = FloatArray  # [WEEK_HOURS]: the variance of each hour of the week, 1 on average


@dataclass(frozen=True, slots=True)
class Features:
    """What is known at consecutive rows of a history: of the volatility [n, k], of the trend [n, 14], and the log
    terciles [n, 2]."""

    volatility: FloatArray
    trend: FloatArray
    terciles: FloatArray


def fit(past: MarketHistory) -> dict[str, Any] | None:
    """The week's pattern; a horizon's ridge and two logits, on every bar whose outcome is known by the past's end.

    None from less than LEAST_PAST_S.
    """
    if len(past) < past.bars(LEAST_PAST_S):
        return None
    pattern = weekly_pattern(past)
    fits = {str(horizon): _fit_horizon(past, horizon, pattern) for horizon in HORIZONS_S}
    return {"pattern": pattern.tolist(), **fits}


def _fit_horizon(past: MarketHistory, horizon: int, pattern: Pattern) -> dict[str, Any]:
    followed, h = outcomes(past, horizon), past.bars(horizon)
    rows = np.arange(past.bars(SETTLING_S), len(past) - h)
    known = features(past, horizon, rows, pattern)
    ridge, forecasts = _fit_forecast(known.volatility, _log_realised(followed, rows, h), h)
    distances = forecasts[:, None] - known.terciles
    return {
        "forecast": ridge,
        "volatility": fit_logit(distances, followed.volatility[rows], CLASS_RIDGE),
        "trend": fit_logit(known.trend, followed.trend[rows], TREND_RIDGE),
    }


def _log_realised(followed: Outcomes, rows: IntArray, h: int) -> FloatArray:
    logs = log_volatility(followed.realised[rows] ** 2 / h)
    return np.maximum(logs, np.median(logs) - LEAST_LOG_BELOW)


def _fit_forecast(volatility: FloatArray, target: FloatArray, h: int) -> tuple[dict[str, Any], FloatArray]:
    """The ridge of ``target`` on ``volatility``, and forecasts of it [n] by ridges that saw nothing within h rows of
    what they forecast: as uncertain as a forecast is later, when the logit is asked about it."""
    centre, scale = moments(volatility)
    design = np.column_stack([standardised(volatility, centre, scale), np.ones(len(volatility))])
    forecasts = np.empty(len(target))
    edges = [len(target) * k // FOLDS for k in range(FOLDS + 1)]
    for begin, end in pairwise(edges):
        seen = np.r_[0 : max(0, begin - h), min(end + h, len(target)) : len(target)]
        forecasts[begin:end] = design[begin:end] @ _ridge(design[seen], target[seen])
    *slopes, intercept = _ridge(design, target).tolist()
    ridge = {"centre": centre.tolist(), "scale": scale.tolist(), "slopes": slopes, "intercept": intercept}
    return ridge, forecasts


def _ridge(design: FloatArray, target: FloatArray) -> FloatArray:
    """Weights [k] of the ridge; the last column is the intercept's, which is not shrunk."""
    penalty = np.append(np.full(design.shape[1] - 1, RIDGE), 0.0)
    return np.asarray(np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ target))


def call(history: MarketHistory, parameters: Mapping[str, Any], bars: int) -> Calls:
    rows = np.arange(len(history) - bars, len(history))
    pattern = np.array(parameters["pattern"])
    calls = []
    for horizon in HORIZONS_S:
        fitted, known = parameters[str(horizon)], features(history, horizon, rows, pattern)
        ridge = fitted["forecast"]
        strides = standardised(known.volatility, ridge["centre"], ridge["scale"])
        distances = linear(strides, ridge["slopes"], ridge["intercept"])[:, None] - known.terciles
        calls.append(np.hstack([call_logit(fitted["trend"], known.trend), call_logit(fitted["volatility"], distances)]))
    return np.stack(calls, axis=1)


def features(history: MarketHistory, horizon: int, rows: IntArray, pattern: Pattern) -> Features:
    """What is known at consecutive ``rows``; all variances but the label's own have the week's pattern taken out."""
    usual = pattern[_hours(history, np.arange(len(history)))]
    ranges, squares = history.variance / usual, history.returns**2 / usual
    logs, bursts = list(_range_logs(history, ranges, rows)), list(_bursts(history, ranges, rows))
    scores = list(_scores(history, running(history.returns), running(squares), rows))
    sizes = [np.abs(score) for score in scores]
    ahead = 0.5 * np.log(_ahead(history, history.bars(horizon), rows, pattern))
    rises = [logs[k] - logs[MONTH] for k in RISING]
    terciles = log_terciles(history, history.bars(horizon), rows)
    volatility = np.stack([*logs, *bursts, *scores, *sizes, ahead], axis=1)
    return Features(volatility, np.stack([*scores, *sizes, *rises, *bursts, ahead], axis=1), terciles)


def _range_logs(history: MarketHistory, ranges: FloatArray, rows: IntArray) -> Iterator[FloatArray]:
    sums = running(ranges)
    for span in RANGE_SPANS_S:
        yield log_volatility(mean_over(sums, rows, history.bars(span)))


def _bursts(history: MarketHistory, ranges: FloatArray, rows: IntArray) -> Iterator[FloatArray]:
    """log of the mean square of the variance over its squared mean: 0 where each hour was like the next."""
    sums, squares = running(ranges), running(ranges**2)
    for span in BURST_SPANS_S:
        level = np.maximum(mean_over(sums, rows, history.bars(span)), LEAST_VARIANCE) ** 2
        yield np.log(np.maximum(mean_over(squares, rows, history.bars(span)), level) / level)


def _scores(history: MarketHistory, returns: FloatArray, squares: FloatArray, rows: IntArray) -> Iterator[FloatArray]:
    """Returns over spans in the last month's volatilities of such spans, within ±LONGEST_T."""
    scale = np.sqrt(np.maximum(mean_over(squares, rows, history.bars(SCALE_S)), LEAST_VARIANCE))
    for span in RETURN_SPANS_S:
        window = history.bars(span)
        t = mean_over(returns, rows, window) * np.sqrt(np.minimum(rows + 1, window)) / scale
        yield np.clip(t, -LONGEST_T, LONGEST_T)


def _ahead(history: MarketHistory, h: int, rows: IntArray, pattern: Pattern) -> FloatArray:
    """The pattern's mean over the h bars after each row."""
    total = np.zeros(len(rows))
    for k in range(1, h + 1):
        total = total + pattern[_hours(history, rows + k)]
    return total / h


def weekly_pattern(past: MarketHistory) -> Pattern:
    """The variance of each hour of the week over the mean of the week before it.

    Each hour's mean is drawn to the product of its hour of day's and its day of week's, and those to 1: half a year
    has only 26 of an hour.
    """
    week = past.bars(7 * DAY_S)
    rows = np.arange(week, len(past))
    level = np.maximum(mean_over(running(past.variance), rows, week), LEAST_VARIANCE)
    ratio, hours = np.minimum(past.variance[rows] / level, WILDEST), _hours(past, rows)
    bars = max(1.0, HOUR_S / past.timeframe_s)  # in an hour
    of_hour = _drawn(hours % 24, ratio, np.ones(24), FLAT_WEIGHT * bars)
    of_day = _drawn(hours // 24, ratio, np.ones(7), FLAT_WEIGHT * bars)
    return _drawn(hours, ratio, np.outer(of_day, of_hour).ravel(), DAY_AND_HOUR_WEIGHT * bars)


def _drawn(groups: IntArray, values: FloatArray, centre: FloatArray, weight: float) -> FloatArray:
    """The mean of each group's values, with ``weight`` more values that are its centre."""
    sums = np.bincount(groups, values, minlength=len(centre))
    return np.asarray((sums + weight * centre) / (np.bincount(groups, minlength=len(centre)) + weight))


def _hours(history: MarketHistory, rows: IntArray) -> IntArray:
    """The hour of the (Unix) week in which each row's bar begins."""
    return np.asarray((history.first + (rows - 1) * history.timeframe_s) // HOUR_S % WEEK_HOURS)


EXPERT = Expert(call=call, fit=fit, least_bars=LEAST_BARS)
