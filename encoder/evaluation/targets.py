"""What is asked of embeddings and baselines alike: volatility, its class, the trend, large moves, and direction.

Targets [n] of each slot say what comes after its close and nothing else (thresholds apart, which are known at
it); NaN where a candle of the horizon is missing.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from encoder.dataset import SMALLEST_VOLATILITY
from encoder.evaluation.slots import Slots, ahead, behind, log_volatility
from encoder.schema import HORIZONS_S
from shared.rows import FloatArray

HOUR_S, HOURS_4_S, DAY_S = HORIZONS_S
LARGE = 2.0  # standard deviations
TREND_STATISTIC = 0.75  # of Σr / sqrt(Σr²)
TREND_EFFICIENCY = 0.3  # of |Σr| / Σ|r|
CLASS_DAYS = 180  # of volatility before, that terciles are taken of
CLASS_LEAST = 0.5  # of those that must be known
DOWN, FLAT, UP = 0.0, 1.0, 2.0

REGRESSIONS = tuple(f"log_volatility_{h}s" for h in HORIZONS_S)
CLASSES = {"volatility_class": 3, "trend_class": 3, "large_move": 2, "direction_14400s": 2, "direction_86400s": 2}
TASK_HORIZON_S = {
    **dict(zip(REGRESSIONS, HORIZONS_S, strict=True)),
    "volatility_class": DAY_S,
    "trend_class": DAY_S,
    "large_move": HOURS_4_S,
    "direction_14400s": HOURS_4_S,
    "direction_86400s": DAY_S,
}


def future(slots: Slots, log_ewma: FloatArray, terciles: FloatArray) -> dict[str, FloatArray]:
    """Every target by name, classes as 0, 1, 2, and ``return_<horizon>s``, the log returns that follow.

    ``log_ewma`` [n]: ln of the volatility of a candle known at the close; ``terciles`` [n, 2]: bounds of the
    volatility class known at it. Volatility is the root mean square return of a candle of the horizon; of a
    horizon of one candle, Parkinson's (Journal of Business 53, 1980).
    """
    targets = {name: _log_volatility(slots, h) for name, h in zip(REGRESSIONS, HORIZONS_S, strict=True)}
    targets["volatility_class"] = volatility_class(targets[REGRESSIONS[-1]], terciles)
    day = slots.count(DAY_S)
    r = slots.returns
    targets["trend_class"] = trend_class(ahead(r, day), ahead(r * r, day), ahead(np.abs(r), day))
    for h in HORIZONS_S:
        targets[f"return_{h}s"] = ahead(r, slots.count(h))
    for h in (HOURS_4_S, DAY_S):
        targets[f"direction_{h}s"] = sign(targets[f"return_{h}s"])
    targets["large_move"] = large_move(targets[f"return_{HOURS_4_S}s"], log_ewma, slots.count(HOURS_4_S))
    return targets


def _log_volatility(slots: Slots, horizon_s: int) -> FloatArray:
    """NaN also where nothing moved: no forecast of a variance of nothing can be scored."""
    n = slots.count(horizon_s)
    mean_square = ahead(slots.ranges**2 if n == 1 else slots.returns**2, n) / n
    return np.where(mean_square > SMALLEST_VOLATILITY**2, log_volatility(mean_square), np.nan)


def volatility_class(volatility: FloatArray, terciles: FloatArray) -> FloatArray:
    """0 low, 1 middle, 2 high; NaN where the volatility or a bound is."""
    classes = (volatility > terciles[:, 0]).astype(np.float64) + (volatility > terciles[:, 1])
    return np.where(np.isfinite(volatility) & np.isfinite(terciles).all(axis=1), classes, np.nan)


def trend_class(total: FloatArray, squares: FloatArray, sizes: FloatArray) -> FloatArray:
    """0 down, 1 flat, 2 up, of Σr, Σr² and Σ|r|: a trend has |Σr| / sqrt(Σr²) > 0.75 and |Σr| / Σ|r| > 0.3."""
    strong = (np.abs(total) > TREND_STATISTIC * np.sqrt(squares)) & (np.abs(total) > TREND_EFFICIENCY * sizes)
    classes = np.where(strong, np.where(total > 0, UP, DOWN), FLAT)
    return np.where(np.isfinite(total), classes, np.nan)


def large_move(returns: FloatArray, log_ewma: FloatArray, candles: int) -> FloatArray:
    """1 where |return over ``candles``| > 2 σ·sqrt(candles), else 0; NaN where either is unknown."""
    limit = LARGE * np.exp(log_ewma) * np.sqrt(candles)
    return np.where(np.isfinite(returns) & np.isfinite(limit), (np.abs(returns) > limit).astype(np.float64), np.nan)


def sign(returns: FloatArray) -> FloatArray:
    """1 up, 0 down; a return of exactly 0 is neither, NaN."""
    return np.where(np.isfinite(returns) & (returns != 0), (returns > 0).astype(np.float64), np.nan)


def terciles(slots: Slots) -> FloatArray:
    """[n, 2]: the terciles of the 24h log volatilities that were complete at the last midnight (UTC), over the 180
    days before it, each whole hour one; NaN where less than half of them are known."""
    known = log_volatility(behind(slots.returns**2, slots.count(DAY_S)) / slots.count(DAY_S))
    hourly = max(1, HOUR_S // slots.timeframe_s)
    hours = DAY_S // (hourly * slots.timeframe_s)  # values a day
    phase = int(-(slots.as_of[0] // slots.timeframe_s) % hourly)
    values, at = known[phase::hourly], slots.as_of[phase::hourly]
    span = CLASS_DAYS * hours
    padded = np.concatenate([np.full(span - 1, np.nan), values])
    midnights = np.flatnonzero(at % DAY_S == 0)
    bounds = np.full((len(midnights) + 1, 2), np.nan)
    windows = sliding_window_view(padded, span)
    for row, midnight in enumerate(midnights, start=1):
        there = windows[midnight][np.isfinite(windows[midnight])]
        if len(there) >= CLASS_LEAST * span:
            bounds[row] = np.quantile(there, [1 / 3, 2 / 3])
    return bounds[np.searchsorted(at[midnights], slots.as_of, side="right")]
