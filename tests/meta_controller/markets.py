"""Markets that the tests of the meta-controller make for themselves."""

from __future__ import annotations

import numpy as np

from meta_controller.market_index import BLOCK_S, Grid, MarketHistory
from shared.rows import FloatArray, IntArray

HOUR_S = 3600
WEEK = BLOCK_S // HOUR_S
START = 1_600_000_000 // BLOCK_S * BLOCK_S  # a block begins here
SEGMENT_BARS = 20 * 24


def history_of(returns: FloatArray, first: int = START + HOUR_S, timeframe_s: int = HOUR_S) -> MarketHistory:
    """An index of one member without holes; its range is what Brownian motion of that return would have on average."""
    variance = np.maximum(returns * returns, 1e-12)
    return MarketHistory(first, timeframe_s, returns, variance, np.ones(len(returns), bool), (0,))


def grid_of(returns: FloatArray, first: int = START + HOUR_S) -> Grid:
    """``returns`` [instruments, bars] as closes from 100, with ranges that follow the size of each return."""
    close = 100.0 * np.exp(np.cumsum(returns, axis=1))
    return Grid(first, HOUR_S, close, np.maximum(returns * returns, 1e-12))


def wandering(bars: int, seed: int = 0, instruments: int = 2) -> FloatArray:
    """Log returns [instruments, bars] whose volatility wanders (AR(1) in logs, a week's memory), half in common."""
    rng = np.random.default_rng(seed)
    log_volatility = np.zeros(bars)
    shocks = 0.08 * rng.standard_normal(bars)
    for k in range(1, bars):
        log_volatility[k] = 0.994 * log_volatility[k - 1] + shocks[k]
    scale = 0.005 * np.exp(log_volatility)
    common, own = rng.standard_normal(bars), rng.standard_normal((instruments, bars))
    returns: FloatArray = scale * (common + own) / np.sqrt(2.0)
    return returns


def segments(seed: int, count: int, tied: bool = True, ratio: float = 2.0) -> tuple[FloatArray, IntArray, IntArray]:
    """Returns, true trend (0 down, 2 up) and true volatility (0 low, 2 high), [bars] each, of 20-day segments.

    The drift's t-statistic over a segment is ±3; volatility is ``ratio`` times higher in half of them. ``tied``: falls
    are wild and rises calm, as in markets; else both by lot.
    """
    rng = np.random.default_rng(seed)
    rising = rng.permutation(np.arange(count) % 2)
    wild = 1 - rising if tied else rng.permutation(np.arange(count) % 2)
    trend, high = np.repeat(2 * rising - 1, SEGMENT_BARS), np.repeat(wild, SEGMENT_BARS)
    shocks = rng.standard_normal(count * SEGMENT_BARS) + trend * 3.0 / np.sqrt(SEGMENT_BARS)
    returns: FloatArray = 0.005 * (1.0 + (ratio - 1.0) * high) * shocks
    return returns, (trend + 1).astype(np.int64), (2 * high).astype(np.int64)
