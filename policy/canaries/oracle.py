"""Oracle: the next return is leaked, with noise, into an embedding entry: training must turn it into net profit.

(A public framework for reinforcement learning on markets failed this test: FinRL, issue 1248.)
"""

from __future__ import annotations

import numpy as np

from policy.canaries.cells import BatchAct, run_cells
from policy.canaries.known_answer import (
    BAR_VOLATILITY,
    Market,
    free_steering,
    grid,
    market_that_shows,
    optimal_act,
    training_terms,
)
from shared.rows import FloatArray

INFORMATION = 0.45  # correlation of what is leaked with the next return
COSTS_BPS = (10.0, 45.0)
STARTS = 12  # stretches of the unseen market


def leaking_market(steps: int, seed: int, instruments: int = 1) -> Market:
    """The entry is the next return plus noise: E[return | entry] = INFORMATION · σ · entry; no more is known."""
    rng = np.random.default_rng(seed)
    surprise = rng.normal(0.0, 1.0, (steps, instruments))
    error = rng.normal(0.0, np.sqrt(1.0 / INFORMATION**2 - 1.0), (steps, instruments))
    entry = np.clip((surprise + error) * INFORMATION, -4.0, 4.0)
    deviation = INFORMATION * BAR_VOLATILITY
    drift = deviation * entry
    return market_that_shows(drift, BAR_VOLATILITY * surprise - drift, deviation, 0.0, seed)


def captured(act: BatchAct, market: Market, costs_bps: tuple[float, ...] = COSTS_BPS) -> FloatArray:
    """By cost: net profit (log growth over all stretches) ÷ that of the optimum on the same stretches."""
    cells = grid(free_steering(), aversions=(1.0,), costs_bps=costs_bps)
    steps = (len(market.drift) - 1) // STARTS
    starts = [k * steps for k in range(STARTS)]
    ours, best = (
        np.log(run.equity[-1] / run.equity[0]).sum(axis=1)
        for run in (
            run_cells(market.data, one, training_terms(), cells, starts, steps)
            for one in (act, optimal_act(market, cells))
        )
    )
    if (best <= 0.0).any():
        raise ArithmeticError(f"the optimum earns nothing here ({best}): nothing can be said of the policy")
    share: FloatArray = ours / best
    return share
