"""Fee monotonicity: a higher fee never makes a policy trade more, and never makes the same weights earn more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policy.canaries.cells import BatchAct, Cell, run_cells
from policy.simulator import Costs
from policy.trading_env import Terms
from policy.training_data import TrainingData
from policy.weight_path import Occasions, WeightPaths
from shared.rows import FloatArray, PolicyConfig

FEES_BPS = (0.0, 10.0, 25.0, 45.0, 80.0)
# Of the turnover at a lower fee. What was paid is missing from the cash, so the same target weights drift a little
# differently: a policy that does not look at costs at all trades up to so much more.
ROUNDING = 0.005


def turnover_by_fee(
    data: TrainingData, act: BatchAct, terms: Terms, steering: PolicyConfig, starts: Sequence[int], steps: int,
    fees_bps: Sequence[float] = FEES_BPS,
) -> FloatArray:  # fmt: skip
    """[F]: mean value traded a step ÷ equity, of the same policy on the same stretches, the fee apart."""
    cells = [Cell(steering, Costs(fee, 0.0, 0.0)) for fee in fees_bps]
    traded: FloatArray = run_cells(data, act, terms, cells, starts, steps).traded.mean(axis=(0, 2))
    return traded


def profit_by_fee(data: TrainingData, weights: FloatArray, fees_bps: Sequence[float] = FEES_BPS) -> FloatArray:
    """[F]: log growth of the same weights [T, N] at each decision time, everything sold at the end."""
    occasions = Occasions(
        times=data.times, price=data.price, volatility=data.volatility, band=np.zeros(data.price.shape),
        tradable=data.tradable, delay_s=0, step_s=data.step_s,
    )  # fmt: skip
    paths, capital = WeightPaths(data.grid, data.rules, occasions), 10_000.0
    return np.array([np.log(paths.run(weights, Costs(fee, 0.0, 0.0)).closed / capital) for fee in fees_bps])


def largest_rise(values: FloatArray) -> float:
    """The most by which a value exceeds the one at the next lower fee, ÷ the first; negative when all fall."""
    return float(np.diff(values).max() / max(abs(float(values[0])), 1e-12))
