"""What the encoder sees: the last 96 candles as twelve channels that know no price level and no unit of volume.

Every value is a function of those candles alone, computed on their own contiguous copy one window at a
time. A sum over a batch of windows could add in another order and differ in the last bit, and then a live
embedding would not be the one that was trained on.

To add a feature: write its function with its formula, add a line to FEATURES, train the encoder anew (the
names are in the model's schema, so an encoder of other features is refused).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.rows import Candles, FloatArray, IntArray

WINDOW = 96  # candles
LEAST_PRESENT = 87  # of 96: fewer than 90 % is doubt, and doubt is no embedding
CLIP = 8.0
HALF_LIFE = 24.0  # candles; of the weights in sigma
SMALLEST_SIGMA = 1e-6  # a window without any movement must not divide by zero
DAY_S = 86_400

_AGE = np.arange(WINDOW)[::-1].astype(np.float64)
_WEIGHTS = 0.5 ** (_AGE / HALF_LIFE)
_WEIGHTS /= _WEIGHTS.sum()


@dataclass(frozen=True, slots=True)
class Window:
    """L candles on an unbroken grid, oldest first; every array has shape [L].

    A missing candle is flat at the close before it (before the first one: at its open), has no volume and
    ``missing`` 1. ``returns[i]`` = ln(close[i] / close[i-1]), the first from its own open. ``sigma`` =
    sqrt(Σ w·returns²), weights halving every 24 candles of age and summing to 1.
    """

    as_of: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    missing: FloatArray
    returns: FloatArray
    sigma: float


Feature = Callable[[Window], FloatArray | float]


def scaled_return(w: Window) -> FloatArray:
    """returns / sigma"""
    return w.returns / w.sigma


def absolute_return(w: Window) -> FloatArray:
    """|returns| / sigma"""
    return np.abs(w.returns) / w.sigma


def scaled_range(w: Window) -> FloatArray:
    """(high - low) / close / sigma"""
    return (w.high - w.low) / w.close / w.sigma


def close_location(w: Window) -> FloatArray:
    """Where the close lies between low (-1) and high (+1): (2·close - high - low) / (high - low); 0 without range"""
    return _per_range(w, 2.0 * w.close - w.high - w.low)


def upper_wick(w: Window) -> FloatArray:
    """(high - max(open, close)) / (high - low); 0 without range"""
    return _per_range(w, w.high - np.maximum(w.open, w.close))


def lower_wick(w: Window) -> FloatArray:
    """(min(open, close) - low) / (high - low); 0 without range"""
    return _per_range(w, np.minimum(w.open, w.close) - w.low)


def relative_volume(w: Window) -> FloatArray | float:
    """ln(volume / mean volume of the window + 0.001); 0 in a window without volume"""
    mean = w.volume.sum() / WINDOW
    return np.log(w.volume / mean + 0.001) if mean > 0 else 0.0


def missing(w: Window) -> FloatArray:
    """1 where there is no candle, else 0"""
    return w.missing


def hour_sine(w: Window) -> FloatArray:
    """sin(2π · time of day of the close)"""
    return np.sin(_day_angle(w))


def hour_cosine(w: Window) -> FloatArray:
    """cos(2π · time of day of the close)"""
    return np.cos(_day_angle(w))


def log_sigma(w: Window) -> float:
    """ln(sigma / 1 %), the same in every slot: without it the level of volatility would be lost"""
    return float(np.log(w.sigma * 100.0))


def trend(w: Window) -> float:
    """t-statistic of a drift, Σ returns / sqrt(Σ returns²), the same in every slot; 0 without movement"""
    energy = float((w.returns * w.returns).sum())
    return float(w.returns.sum() / np.sqrt(energy)) if energy > 0 else 0.0


FEATURES: dict[str, Feature] = {
    "scaled_return": scaled_return,
    "absolute_return": absolute_return,
    "scaled_range": scaled_range,
    "close_location": close_location,
    "upper_wick": upper_wick,
    "lower_wick": lower_wick,
    "relative_volume": relative_volume,
    "missing": missing,
    "hour_sine": hour_sine,
    "hour_cosine": hour_cosine,
    "log_sigma": log_sigma,
    "trend": trend,
}


def window_features(candles: Candles, as_of: int, timeframe_s: int) -> NDArray[np.float32] | None:
    """The features of the window that ends with the candle closed at ``as_of`` (Unix seconds).

    ``candles`` may begin earlier and end later; only those on the grid of L slots count. Returns float32
    [C, L] in the order of FEATURES, clipped to ±8; None when the last candle is missing or fewer than 90 %
    are there. ValueError for candles off the grid.
    """
    window = lay_out(candles, as_of, timeframe_s)
    return None if window is None else features_of(window)


def features_of(window: Window) -> NDArray[np.float32]:
    """A laid-out window as float32 [C, L]."""
    channels = np.empty((len(FEATURES), WINDOW), dtype=np.float64)
    for row, feature in zip(channels, FEATURES.values(), strict=True):
        row[:] = feature(window)
    return np.clip(channels, -CLIP, CLIP).astype(np.float32)


def lay_out(candles: Candles, as_of: int, timeframe_s: int) -> Window | None:
    """The window ending at ``as_of`` on its grid, gaps filled; None where there is not enough of it."""
    start = as_of - WINDOW * timeframe_s
    first, last = (int(i) for i in candles.as_of.searchsorted((start, as_of), side="right"))
    if last - first < LEAST_PRESENT or candles.as_of[last - 1] != as_of:
        return None
    grid = np.arange(start + timeframe_s, as_of + 1, timeframe_s)
    slots, off_grid = np.divmod(candles.as_of[first:last] - grid[0], timeframe_s)
    if off_grid.any():
        raise ValueError(f"candles before {as_of} are not on the grid of {timeframe_s} s")
    return _measure(grid, _fill(candles[first:last], slots))


def _fill(candles: Candles, slots: IntArray) -> tuple[FloatArray, ...]:
    """open, high, low, close, volume, missing on all L slots, each a contiguous copy."""
    present = np.zeros(WINDOW, dtype=bool)
    present[slots] = True
    columns = tuple(np.empty(WINDOW) for _ in range(5))
    sources = (candles.open, candles.high, candles.low, candles.close, candles.volume)
    for column, values in zip(columns, sources, strict=True):
        column[slots] = values
    if len(slots) < WINDOW:
        flat = columns[3][np.maximum.accumulate(np.where(present, np.arange(WINDOW), -1))]
        flat[: slots[0]] = candles.open[0]
        for column in columns[:4]:
            np.copyto(column, flat, where=~present)
        columns[4][~present] = 0.0
    return (*columns, 1.0 - present)


def _measure(grid: IntArray, columns: tuple[FloatArray, ...]) -> Window:
    open_, high, low, close, volume, absent = columns
    before = np.empty(WINDOW)
    before[0], before[1:] = open_[0], close[:-1]
    returns = np.log(close / before)
    sigma = max(float(np.sqrt((_WEIGHTS * returns * returns).sum())), SMALLEST_SIGMA)
    return Window(grid, open_, high, low, close, volume, absent, returns, sigma)


def _per_range(w: Window, values: FloatArray) -> FloatArray:
    span = w.high - w.low
    return np.divide(values, span, out=np.zeros(WINDOW), where=span > 0)


def _day_angle(w: Window) -> FloatArray:
    return np.asarray((w.as_of % DAY_S) * (2.0 * np.pi / DAY_S), dtype=np.float64)
