"""What a backtest found: the curves, the decisions and fills behind them, and on what terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from policy.decision_path import Decision
from policy.simulator import SimulatedFill
from shared.rows import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Curve:
    """One strategy's equity: ``times`` are bar closes (Unix seconds), ``equity`` in quote, same length.

    The last point of ``equity`` is what is left once every open position is sold and charged; ``marked`` is the same
    point at the last prices, as a wallet that goes on would show it (None: nothing was open). Fees, traded value,
    slippage (what fills cost beyond their reference price) and trades include the closing."""

    name: str
    times: IntArray
    equity: FloatArray
    fees: float = 0.0
    traded: float = 0.0  # sum of the values bought and sold, in quote
    trades: int = 0
    slippage: float = 0.0  # in quote
    marked: float | None = None

    @property
    def last_marked(self) -> float:
        """The equity at the last prices, before the closing: what the paper wallet shows."""
        return float(self.equity[-1]) if self.marked is None else self.marked


@dataclass(frozen=True, slots=True)
class Shifts:
    """The policy's own weights, shifted in time: what its exposure and turnover alone would have earned.

    ``returns`` and ``sharpes`` [K] of K circular shifts (NaN where undefined); ``low``, ``median``, ``high`` [D] are
    the 5th, 50th and 95th percentile of their equities at ``times`` [D] (Unix seconds, a day apart). ``percentile``
    in 0 … 1: the share of shifts whose Sharpe ratio is below the policy's own, None where that is undefined."""

    times: IntArray
    low: FloatArray
    median: FloatArray
    high: FloatArray
    returns: FloatArray
    sharpes: FloatArray
    percentile: float | None


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """``curves[0]`` is what was asked for, the wallet's own policy unless named; the baselines follow. ``terms`` are
    shown as they are. ``decisions`` may be empty: rules that look at the market only are run without the decision
    path's explanations."""

    curves: Sequence[Curve]
    symbols: Sequence[str]
    closes: FloatArray  # [B, N] at curves[0].times, NaN for missing bars
    decision_times: Sequence[datetime]
    decisions: Sequence[Decision]
    fills: Sequence[SimulatedFill]  # of curves[0], the closing not among them
    provenance: str
    in_sample: str  # empty, or why this result was not known in time and proves nothing
    terms: dict[str, str] = field(default_factory=dict)
    closing: Sequence[SimulatedFill] = ()  # how what was open at the end was sold
    regimes: Sequence[str] = ()  # market_state.regime of the longer horizon at each decision, '' where unknown
    emergency_stops: int = 0  # of curves[0]: how often max_drawdown took everything into cash
    shifts: Shifts | None = None
    steering: Mapping[str, Any] | None = None  # what training measured of it (policy.train_policy), by the model's row
    promotion: tuple[int, float, str] | None = None  # of the model: its id, what its residual counts, the verdict
    shifts_refused: str = ""  # why there are none
    contributions: Mapping[str, float] = field(
        default_factory=dict
    )  # of curves[0] by symbol, in quote; sum: its profit
