"""Training data of made-up markets: log returns in, TrainingData out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policy.decision_kernel import MARKET_SIZE
from policy.execution.plan import TradingRules
from policy.observation import EMBEDDING_SIZE
from policy.simulator import BarGrid
from policy.training_data import TrainingData
from shared.rows import FloatArray

START = 1_600_000_000 // 86_400 * 86_400
FINENESS = 1e-8  # of a tick, as a share of the lowest price: a walk of thousands of steps goes far down
NOTIONAL_VOLUME = 1e9  # in quote a bar: so much that an order of thousands moves nothing


def market_of(
    returns: FloatArray,
    volatility: FloatArray,
    trend: FloatArray | None = None,
    seen: FloatArray | None = None,
    bars_a_step: int = 1,
    step_s: int = 3600,
    wiggle: float = 0.0,
    seed: int = 0,
) -> TrainingData:
    """``returns`` [T · bars_a_step, N]: the log return of each bar; ``volatility``, ``trend`` [T, N] as the signals
    would say them, ``seen`` [T, N, K]: numbers of size 1 in the embedding's place (K ≤ 64); nothing else is seen.

    A decision at close i fills at the open of the next bar, which is that close; ``wiggle`` moves opens away from the
    closes before them (standard deviation in log price). Ticks and lots are tiny, volumes huge."""
    bars, n = returns.shape
    steps = bars // bars_a_step
    closes = 100.0 * np.exp(np.vstack([np.zeros(n), np.cumsum(returns, axis=0)]))  # [bars + 1, N]
    opens = closes[:-1] * np.exp(np.random.default_rng(seed).normal(0.0, wiggle, (bars, n)) if wiggle else 0.0)
    high, low = np.maximum(opens, closes[1:]), np.minimum(opens, closes[1:])
    base_s = step_s // bars_a_step
    grid = BarGrid(START, base_s, opens, high, low, closes[1:].copy(), NOTIONAL_VOLUME / closes[1:])
    block = np.zeros((steps, n, MARKET_SIZE), np.float32)
    if seen is not None:
        block[:, :, : seen.shape[2]] = seen
    trend = np.zeros((steps, n)) if trend is None else trend
    block[:, :, EMBEDDING_SIZE + 1] = trend
    block[:, :, EMBEDDING_SIZE + 2] = np.log(np.maximum(volatility, 0.01) / 0.5)
    every: NDArray[np.bool_] = np.ones((steps, n), dtype=np.bool_)
    rules = TradingRules(closes.min(axis=0) * FINENESS, np.full(n, 1e-8), np.zeros(n), 0.0, float("inf"))
    return TrainingData(
        symbols=tuple(f"M{k}" for k in range(n)),
        times=START + step_s * np.arange(steps, dtype=np.int64),
        price=closes[:-1][::bars_a_step][:steps].copy(),
        trend=trend,
        volatility=volatility,
        ood=np.zeros((steps, n)),
        block=block,
        complete=every,
        tradable=every.copy(),
        grid=grid,
        rules=rules,
        step_s=step_s,
    )
