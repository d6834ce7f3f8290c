"""One book run through base bars by the compiled kernel: what training and backtest stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from policy.execution.plan import TradingRules
from shared.clock import to_unix
from shared.rows import Candles, FloatArray
from shared.simulation.compiled import advance


@dataclass(frozen=True, slots=True)
class BarGrid:
    """Base bars of N instruments on one grid: bar b opens at start + b * base_s; NaN where it is missing."""

    start: int
    base_s: int
    open: FloatArray  # [B, N]
    close: FloatArray  # [B, N]

    @staticmethod
    def of(series: Sequence[Candles], base_s: int, start: int, end: int) -> BarGrid:
        """The bars that open at or after ``start`` and close by ``end`` (Unix seconds)."""
        start = -(-start // base_s) * base_s
        bars = max((end - start) // base_s, 0)
        opens, closes = np.full((bars, len(series)), np.nan), np.full((bars, len(series)), np.nan)
        for n, candles in enumerate(series):
            bar = (candles.as_of - base_s - start) // base_s
            inside = (bar >= 0) & (bar < bars)
            opens[bar[inside], n] = candles.open[inside]
            closes[bar[inside], n] = candles.close[inside]
        return BarGrid(start, base_s, opens, closes)

    def first_bar_from(self, t: int) -> int:
        """The first bar that opens at or after ``t``."""
        return -(-(t - self.start) // self.base_s)

    def bars_closed_by(self, t: int) -> int:
        return min(max((t - self.start) // self.base_s, 0), len(self.open))


@dataclass(frozen=True, slots=True)
class Costs:
    fee_bps: float
    slippage_bps: float


@dataclass(frozen=True, slots=True)
class SimulatedFill:
    """One fill: opening time of its bar (Unix seconds), instrument, signed quantity, price, cost, fee."""

    filled_at: int
    instrument: int
    quantity: float
    price: float
    cost: float
    fee: float


class Simulator:
    """A wallet's book on a BarGrid; orders placed at a decision fill as the paper venue would fill them."""

    def __init__(
        self, grid: BarGrid, rules: TradingRules, costs: Costs, delay_s: int, step_s: int, capital: float
    ) -> None:
        self._grid, self._rules, self._costs = grid, rules, costs
        self._delay_s, self._step_s, self._capital = delay_s, step_s, capital
        self._fill_buffer = np.zeros((max(len(grid.open), 1) * grid.open.shape[1], 6))
        self.equity_by_bar = np.full(len(grid.open), np.nan)
        self.fills: list[SimulatedFill] = []
        self.reset(0)

    def reset(self, bar: int) -> None:
        """An empty book with all its capital in cash, before bar ``bar``."""
        n = self._grid.open.shape[1]
        self.cash = self._capital
        self.held = np.zeros(n)
        self.order = np.zeros(n)
        self._first, self._last = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self._mark = np.full(n, np.nan)
        self.bar = bar
        self.fills = []
        self.fees = 0.0
        self.traded = 0.0

    @property
    def in_flight(self) -> NDArray[np.bool_]:
        working: NDArray[np.bool_] = self.order != 0.0
        return working

    def place(self, quantity: FloatArray, as_of: datetime) -> None:
        """Adds the orders decided at ``as_of``: good from the delay on, for one decision interval."""
        earliest = to_unix(as_of) + self._delay_s
        new = quantity != 0.0
        self.order[new] = quantity[new]
        self._first[new] = self._grid.first_bar_from(earliest)
        self._last[new] = self._grid.first_bar_from(earliest + self._step_s) - 1

    def advance_to(self, as_of: datetime) -> None:
        """Runs all bars that have closed by ``as_of``."""
        end = self._grid.bars_closed_by(to_unix(as_of))
        if end <= self.bar:
            return
        self.cash, fills = advance(
            self.cash,
            self.held,
            self.order,
            self._first,
            self._last,
            self._grid.open,
            self._grid.close,
            self._mark,
            self.bar,
            end,
            self._costs.slippage_bps,
            self._costs.fee_bps,
            self._rules.tick,
            self._rules.lot,
            self.equity_by_bar,
            self._fill_buffer,
        )
        self.bar = end
        for bar, n, quantity, price, cost, fee in self._fill_buffer[:fills].tolist():
            opened = self._grid.start + int(bar) * self._grid.base_s
            self.fills.append(SimulatedFill(opened, int(n), quantity, price, cost, fee))
            self.fees += fee
            self.traded += cost
