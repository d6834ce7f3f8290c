"""The band around an equity curve: what luck would have made of the same days."""

from __future__ import annotations

import numpy as np

from policy.report_data import Band
from policy.report_words import signed
from shared.performance.bootstrap import LEAST_BLOCK, LEAST_DAYS, block_length, resample
from shared.performance.metrics import DAY_S, daily_equity
from shared.rows import FloatArray, IntArray

LOW, HIGH = 0.05, 0.95
REPLICATES = 1_000


def luck_band(
    first_day: int, returns: FloatArray, folds: IntArray | None = None, replicates: int = REPLICATES, seed: int = 0
) -> Band | None:
    """The 5–95 % band of the growth that the policy's own days, drawn anew in blocks, would have made.

    ``returns`` [S, T] daily returns of S seeds (or [T]), ``first_day``: the UTC midnight (Unix seconds) at which the
    first of them begins; ``folds`` [T] as in shared.performance.bootstrap. None for too few days.
    """
    returns = np.atleast_2d(returns)
    days = returns.shape[1]
    if days < LEAST_DAYS:
        return None
    block = max(LEAST_BLOCK, block_length(returns.mean(axis=0)))
    rng = np.random.default_rng(seed)
    growth = np.concatenate(
        [np.cumprod(1.0 + drawn, axis=1) for drawn in resample(returns, folds, block, replicates, rng)]
    )
    times = first_day + DAY_S * np.arange(days + 1, dtype=np.int64)
    low, high = (np.append(1.0, bound) for bound in np.quantile(growth, [LOW, HIGH], axis=0))
    said = f"{signed(float(low[-1]) - 1.0)} to {signed(float(high[-1]) - 1.0)}"
    return Band("luck", "the same days drawn anew, 5–95 %", times, low, high, said)


def luck_band_of(times: IntArray, equity: FloatArray) -> Band | None:
    """``luck_band`` of one equity curve, on its UTC midnights; None for too few days."""
    midnights, daily = daily_equity(times, equity)
    return luck_band(int(midnights[0]), daily[1:] / daily[:-1] - 1.0) if len(daily) > 1 else None
