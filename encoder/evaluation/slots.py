"""One series on its unbroken grid, NaN where a candle is missing, with sums over what came before and comes after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encoder.dataset import PARKINSON, SMALLEST_VOLATILITY
from shared.rows import Candles, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Slots:
    """Arrays [n], one value a slot: ``as_of`` its close (Unix seconds); ``returns`` ln(close / close before), NaN
    unless both candles are there; ``ranges`` Parkinson's ln(high/low) / sqrt(4 ln 2); ``slot`` [candles]: where
    each candle is."""

    timeframe_s: int
    as_of: IntArray
    returns: FloatArray
    ranges: FloatArray
    slot: IntArray

    def count(self, seconds: int) -> int:
        """Candles in a span, at least one."""
        return max(1, seconds // self.timeframe_s)


def lay_out(candles: Candles, timeframe_s: int) -> Slots:
    slot = (candles.as_of - candles.as_of[0]) // timeframe_s
    close, ranges = np.full(int(slot[-1]) + 1, np.nan), np.full(int(slot[-1]) + 1, np.nan)
    close[slot] = np.log(candles.close)
    ranges[slot] = np.log(candles.high / candles.low) / PARKINSON
    as_of = candles.as_of[0] + timeframe_s * np.arange(len(close))
    return Slots(timeframe_s, as_of, np.diff(close, prepend=np.nan), ranges, slot)


def ahead(values: FloatArray, n: int) -> FloatArray:
    """The sum of the n values after each slot; NaN where one of them is missing or not yet there."""
    return np.append(behind(values, n)[n:], np.full(min(n, len(values)), np.nan))


def behind(values: FloatArray, n: int, least: float = 1.0) -> FloatArray:
    """The sum of the last n values up to each slot, scaled up for missing ones; NaN where less than ``least`` of
    them are there."""
    there = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(there, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(there)])
    sums, counts = total[n:] - total[:-n], count[n:] - count[:-n]
    enough = (counts >= least * n) & (counts > 0)
    scaled = np.where(enough, sums * (n / np.maximum(counts, 1)), np.nan)
    return np.append(np.full(min(n - 1, len(values)), np.nan), scaled)[: len(values)]


def log_volatility(mean_square: FloatArray) -> FloatArray:
    """ln of the root, with the floor that labels have; NaN stays NaN."""
    return np.asarray(0.5 * np.log(np.maximum(mean_square, SMALLEST_VOLATILITY**2)))
