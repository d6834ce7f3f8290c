"""What a backtest found: the curves, the decisions and fills behind them, and on what terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from policy.decision_path import Decision
from policy.simulator import SimulatedFill
from shared.rows import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Curve:
    """One strategy's equity: ``times`` are bar closes (Unix seconds), ``equity`` in quote, same length."""

    name: str
    times: IntArray
    equity: FloatArray
    fees: float = 0.0
    traded: float = 0.0  # sum of the values bought and sold, in quote
    trades: int = 0


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """``curves[0]`` is the wallet's own policy; the baselines follow. ``terms`` are shown as they are."""

    curves: Sequence[Curve]
    symbols: Sequence[str]
    closes: FloatArray  # [B, N] at curves[0].times, NaN for missing bars
    decision_times: Sequence[datetime]
    decisions: Sequence[Decision]
    fills: Sequence[SimulatedFill]
    provenance: str
    in_sample: str  # empty, or why this result was not known in time and proves nothing
    terms: dict[str, str] = field(default_factory=dict)
