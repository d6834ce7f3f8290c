"""What followed each moment, by one fixed rule: the labels that calls are scored by, and experts learn from.

Volatility: the realised volatility of the horizon against the terciles of the REFERENCE_S before the moment, all
known at it. Trend: up or down where the t-statistic of the path is over 0.75 and its efficiency over 0.3, else flat.
A label is known when its horizon has passed. It is never a feature.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from meta_controller.market_index import DAY_S, MarketHistory
from shared.rows import FloatArray, IntArray

REFERENCE_S = 180 * DAY_S
LEAST_REFERENCE_S = 14 * DAY_S  # fewer than these to compare with: no label
TREND_T, TREND_EFFICIENCY = 0.75, 0.3
UNKNOWN = -1
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What followed each bar of a history within one horizon; every array is [n], row i about bars (i, i + h].

    ``trend`` and ``volatility`` are classes 0, 1, 2 (down, flat, up; low, mid, high), UNKNOWN where the horizon has
    not passed by the history's end or too little is known to compare with. ``realised`` is √Σr², NaN where unknown.
    """

    trend: IntArray
    volatility: IntArray
    log_return: FloatArray
    realised: FloatArray
    t_statistic: FloatArray
    efficiency: FloatArray


def outcomes(history: MarketHistory, horizon_s: int) -> Outcomes:
    h = history.bars(horizon_s)
    total, length = _ahead(_sums(history.returns, h), h), _ahead(_sums(np.abs(history.returns), h), h)
    realised = _ahead(realised_volatility(history, h), h)
    t = np.where(realised > 0, total / np.maximum(realised, TINY), 0.0)
    efficiency = np.where(length > 0, np.abs(total) / np.maximum(length, TINY), 0.0)
    moved = (np.abs(t) > TREND_T) & (efficiency > TREND_EFFICIENCY)
    trend = np.where(moved, np.where(t > 0, 2, 0), 1)
    terciles = volatility_terciles(history, h)
    volatility = (realised > terciles[:, 0]).astype(np.int64) + (realised > terciles[:, 1])
    unknown = np.isnan(realised) | np.isnan(terciles[:, 0])
    return Outcomes(np.where(unknown, UNKNOWN, trend).astype(np.int64), np.where(unknown, UNKNOWN, volatility),
                    total, realised, t, efficiency)  # fmt: skip


def realised_volatility(history: MarketHistory, h: int) -> FloatArray:
    """√Σ of the squared returns of the h bars up to each bar, [n]; NaN for the first h - 1."""
    return np.asarray(np.sqrt(_sums(history.returns**2, h)))


def volatility_terciles(history: MarketHistory, h: int) -> FloatArray:
    """The lower and upper tercile of the realised volatilities of h bars that ended in the REFERENCE_S up to each bar,
    [n, 2]: what is low and what is high, as known at the bar. NaN while there are fewer than LEAST_REFERENCE_S."""
    longest, least = history.bars(REFERENCE_S), history.bars(LEAST_REFERENCE_S)
    values = realised_volatility(history, h).tolist()
    found = np.full((len(history), 2), np.nan)
    window: list[float] = []
    for i in range(h - 1, len(values)):
        insort(window, values[i])
        if len(window) > longest:
            del window[bisect_left(window, values[i - longest])]
        if len(window) >= least:
            found[i] = window[len(window) // 3], window[2 * len(window) // 3]
    return found


def _ahead(past: FloatArray, h: int) -> FloatArray:
    """What is said of each bar's last h bars, moved to the bar before them; NaN where they are not over."""
    return np.concatenate([past[h:], np.full(min(h, len(past)), np.nan)])


def _sums(values: FloatArray, h: int) -> FloatArray:
    """Σ of the h values up to each, [n]; NaN for the first h - 1. Each sum by itself: running sums would differ in
    their last bits with where they began."""
    if len(values) < h:
        return np.full(len(values), np.nan)
    sums = np.lib.stride_tricks.sliding_window_view(values, h).sum(axis=1)
    return np.concatenate([np.full(h - 1, np.nan), sums])
