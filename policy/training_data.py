"""What training and evaluation run on: everything known at each decision time of a span, and the bars between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policy.decision_kernel import Bools
from policy.execution.plan import TradingRules
from policy.observation import Market
from policy.simulator import BarGrid
from shared.rows import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class TrainingData:
    """T decision times of M instruments, on the grid of ``step_s`` with nothing left out; see policy.observation.Market
    for the fields. A decision at ``times[i]`` is marked at ``price[i]``, the close of the bars up to it."""

    symbols: tuple[str, ...]
    times: IntArray  # [T] Unix seconds, times[i + 1] - times[i] = step_s
    price: FloatArray  # [T, M], NaN where there never was one
    trend: FloatArray  # [T, M]
    volatility: FloatArray  # [T, M]
    ood: FloatArray  # [T, M], NaN where unknown
    block: NDArray[np.float32]  # [T, M, MARKET_SIZE]
    complete: Bools  # [T, M]
    tradable: Bools  # [T, M]
    grid: BarGrid
    rules: TradingRules
    step_s: int

    def __len__(self) -> int:
        return len(self.times)

    def part(self, first: int, last: int) -> TrainingData:
        """The decision times [first, last); the bars stay."""
        names = ("times", "price", "trend", "volatility", "ood", "block", "complete", "tradable")
        return replace(self, **{name: getattr(self, name)[first:last] for name in names})

    @staticmethod
    def of(
        symbols: Sequence[str],
        times: Sequence[int],
        markets: Sequence[Market],
        grid: BarGrid,
        rules: TradingRules,
        step_s: int,
    ) -> TrainingData:
        """ValueError where a time of the grid is left out."""
        moments = np.array(times, dtype=np.int64)
        if len(moments) > 1 and np.any(np.diff(moments) != step_s):
            raise ValueError(f"decision times must follow each other every {step_s} s")
        stacked = {
            name: np.array([getattr(market, name) for market in markets])
            for name in ("trend", "volatility", "ood", "block", "complete", "tradable")
        }
        price = np.array([market.prices for market in markets])
        return TrainingData(tuple(symbols), moments, price, grid=grid, rules=rules, step_s=step_s, **stacked)
