"""A market whose volatility follows its own past, for tests of the evaluation."""

from __future__ import annotations

import numpy as np

from shared.rows import UNKNOWN_TRADES, Candles

HOUR = 3600
START = 1_600_000_000 // 86_400 * 86_400


def clustered_candles(n: int, seed: int, persistence: float = 0.995, spread: float = 0.6) -> Candles:
    """n hourly candles from START on; ln volatility is an AR(1) of this persistence and standard deviation ``spread``.

    ``spread`` 0: independent returns of one size. Highs and lows are those of a walk of 12 steps inside the hour.
    """
    rng = np.random.default_rng(seed)
    shocks = rng.normal(0, np.sqrt(1 - persistence**2), n)
    level = np.zeros(n)
    for i in range(1, n):
        level[i] = persistence * level[i - 1] + shocks[i]
    sigma = 0.005 * np.exp(spread * level)
    steps = rng.normal(0, 1, (n, 12)) * (sigma / np.sqrt(12))[:, None]
    within = np.cumsum(steps, axis=1)
    before = np.concatenate([[0.0], np.cumsum(within[:-1, -1])])
    path = before[:, None] + within
    open_, close = 100 * np.exp(before), 100 * np.exp(path[:, -1])
    high, low = 100 * np.exp(np.maximum(path.max(1), before)), 100 * np.exp(np.minimum(path.min(1), before))
    volume = np.exp(rng.normal(2, 0.5, n) + level)
    as_of = START + HOUR * np.arange(1, n + 1)
    return Candles.from_columns([as_of, open_, high, low, close, volume, np.full(n, UNKNOWN_TRADES)])
