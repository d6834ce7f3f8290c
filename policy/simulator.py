"""One book run through base bars by the compiled kernel: what a backtest stands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from policy.execution.plan import TradingRules
from shared.clock import to_unix
from shared.rows import Candles, FloatArray
from shared.simulation.compiled import advance, close_out
from shared.simulation.kernel import FEES, FILL_COLUMNS, SLIPPAGE, TOTALS, TRADED, bar_years_sqrt

BAR_FIELDS = ("open", "high", "low", "close", "volume")
FILL_KINDS = ("market", "stop", "target", "close out")  # by the kernel's number


@dataclass(frozen=True, slots=True)
class BarGrid:
    """Base bars of N instruments on one grid: bar b opens at start + b * base_s; [B, N], NaN where one is missing.
    Prices in quote, volume in base units."""

    start: int
    base_s: int
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    @staticmethod
    def of(series: Sequence[Candles], base_s: int, start: int, end: int) -> BarGrid:
        """The bars that open at or after ``start`` and close by ``end`` (Unix seconds)."""
        start = -(-start // base_s) * base_s
        bars = max((end - start) // base_s, 0)
        columns = {name: np.full((bars, len(series)), np.nan) for name in BAR_FIELDS}
        for n, candles in enumerate(series):
            bar = (candles.as_of - base_s - start) // base_s
            inside = (bar >= 0) & (bar < bars)
            for name, column in columns.items():
                column[bar[inside], n] = getattr(candles, name)[inside]
        return BarGrid(start, base_s, **columns)

    def first_bar_from(self, t: int) -> int:
        """The first bar that opens at or after ``t``."""
        return -(-(t - self.start) // self.base_s)

    def bars_closed_by(self, t: int) -> int:
        return min(max((t - self.start) // self.base_s, 0), len(self.open))


@dataclass(frozen=True, slots=True)
class Costs:
    """What trading costs a side: the fee and half the spread, and how strongly an order moves the price: see
    shared.simulation.kernel.slippage_bps."""

    fee_bps: float
    slippage_bps: float
    impact: float


@dataclass(frozen=True, slots=True)
class SimulatedFill:
    """One fill: opening time of its bar (Unix seconds), instrument, signed quantity, price, cost, fee, kind (one of
    FILL_KINDS). A close-out is dated at the close of the last bar."""

    filled_at: int
    instrument: int
    quantity: float
    price: float
    cost: float
    fee: float
    kind: str = "market"


class Simulator:
    """A wallet's book on a BarGrid; orders placed at a decision fill as the paper venue would fill them."""

    def __init__(
        self, grid: BarGrid, rules: TradingRules, costs: Costs, delay_s: int, step_s: int, capital: float
    ) -> None:
        self._grid, self._rules, self._costs = grid, rules, costs
        self._delay_s, self._step_s, self._capital = delay_s, step_s, capital
        n = grid.open.shape[1]
        self._fill_buffer = np.zeros((2 * n, FILL_COLUMNS))  # no more in one span: see the kernel
        self._slot = np.arange(n, dtype=np.int64)
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
        self._stop, self._target, self._volatility = np.zeros(n), np.zeros(n), np.zeros(n)
        self._mark = np.full(n, np.nan)
        self._totals = np.zeros(TOTALS)
        self.bar = bar
        self.fills = []

    @property
    def fees(self) -> float:
        return float(self._totals[FEES])

    @property
    def traded(self) -> float:
        """Value bought and sold, in quote."""
        return float(self._totals[TRADED])

    @property
    def slippage(self) -> float:
        """What spread and impact cost, in quote."""
        return float(self._totals[SLIPPAGE])

    @property
    def in_flight(self) -> NDArray[np.bool_]:
        working: NDArray[np.bool_] = self.order != 0.0
        return working

    def place(
        self,
        quantity: FloatArray,
        as_of: datetime,
        volatility: FloatArray,
        stop: FloatArray | None = None,
        target: FloatArray | None = None,
    ) -> None:
        """Adds the orders ``quantity`` [N], signed, decided at ``as_of``: good from the delay on, for one decision
        interval. ``volatility`` [N] as the decision knew it, annualised. ``stop`` and ``target`` [N] in quote, 0 for
        none, replace those of all instruments; None leaves them. ValueError: no volatility of what is ordered."""
        new = quantity != 0.0
        if not np.isfinite(volatility[new]).all() or (volatility[new] < 0.0).any():
            raise ValueError(f"an order at {as_of} needs its instrument's volatility, got {volatility[new]}")
        earliest = to_unix(as_of) + self._delay_s
        self.order[new] = quantity[new]
        self._volatility[new] = volatility[new]
        self._first[new] = self._grid.first_bar_from(earliest)
        self._last[new] = self._grid.first_bar_from(earliest + self._step_s) - 1
        if stop is not None:
            self._stop[:] = stop
        if target is not None:
            self._target[:] = target

    def advance_to(self, as_of: datetime) -> None:
        """Runs all bars that have closed by ``as_of``."""
        grid, costs = self._grid, self._costs
        end = grid.bars_closed_by(to_unix(as_of))
        if end <= self.bar:
            return
        self.cash, fills = advance(
            self.cash, self.held, self.order, self._first, self._last, self._stop, self._target, self._slot,
            grid.open, grid.high, grid.low, grid.close, grid.volume, self._volatility, self._mark, self.bar, end,
            bar_years_sqrt(grid.base_s), costs.fee_bps, costs.slippage_bps, costs.impact, self._rules.tick,
            self._rules.lot, self.equity_by_bar, self._fill_buffer, self._totals,
        )  # fmt: skip
        self.bar = end
        self._take(fills)

    def close_out(self) -> float:
        """The end: sells all that is held at its last close, less half the spread and the fee, which the last point
        of equity_by_bar then shows; what that cost, in quote."""
        fills = int(((self.held > 0.0) & ~np.isnan(self._mark)).sum())
        costs: float
        self.cash, costs = close_out(
            self.cash, self.held, self.order, self._stop, self._target, self._slot, self._mark, self.bar,
            self._costs.fee_bps, self._costs.slippage_bps, self._rules.tick, self._rules.lot, self._fill_buffer,
            self._totals,
        )  # fmt: skip
        self._take(fills)
        if fills:
            self.equity_by_bar[self.bar - 1] = self.cash
        return costs

    def _take(self, fills: int) -> None:
        for bar, n, quantity, price, cost, fee, kind in self._fill_buffer[:fills].tolist():
            opened = self._grid.start + int(bar) * self._grid.base_s
            self.fills.append(SimulatedFill(opened, int(n), quantity, price, cost, fee, FILL_KINDS[int(kind)]))
