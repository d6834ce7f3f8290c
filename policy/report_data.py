"""What a report is made from: a backtest's result, or what an evaluation found. All but the curves may be left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from policy.report_words import listed, minute, money, percent, signed
from shared.rows import FloatArray, IntArray

if TYPE_CHECKING:
    from policy.decision_path import Decision
    from policy.result import BacktestResult, Curve, Shifts
    from policy.simulator import SimulatedFill


@dataclass(frozen=True, slots=True)
class Band:
    """Between ``low`` and ``high`` [T] lay the growth (equity over the first equity) of most of many draws at ``times``
    [T], Unix seconds. ``kind``: 'luck' (the policy's own days, drawn anew) or 'shifts' (its weights at other times).
    ``median`` [T] or None; ``said`` stands beside the name in the legend."""

    kind: str
    name: str
    times: IntArray
    low: FloatArray
    high: FloatArray
    said: str
    median: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know before any figure. ``level``: 'red' (proves nothing), 'amber' (read with care) or 'plain'."""

    level: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """How much of the model's residual the promotion lets trade: 1, or 0 where the baseline won."""

    model_id: int
    residual: float
    verdict: str


@dataclass(frozen=True, slots=True)
class SteeringPlot:
    """What steering does, as points: (risk aversion, mean exposure) and (turnover penalty, turnover a year)."""

    exposure: Sequence[tuple[float, float]]
    turnover: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Table:
    """Any further table, in words: the first cell of a row names it, the others are figures."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``curves[0]`` is the policy's; the baselines follow, and all begin at the same moment. ``closes`` [B, N] at
    curves[0].times, NaN for missing bars; ``regimes``: the regime at each decision, '' where none was known.
    ``provenance``: 'real' or 'simulated'; ``in_sample``: empty, or why this proves nothing. ``terms`` are shown as
    they are; ``against_shifts`` says how the policy stands among random shifts of its own weights, or why it is not
    known."""

    kind: str  # 'backtest', 'evaluation'
    lead: str
    curves: Sequence[Curve]
    provenance: str
    in_sample: str = ""
    notices: Sequence[Notice] = ()
    promotion: Promotion | None = None
    bands: Sequence[Band] = ()
    against_shifts: str = ""
    symbols: Sequence[str] = ()
    closes: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    fills: Sequence[SimulatedFill] = ()
    closing: Sequence[SimulatedFill] = ()  # how what was open at the end was sold; not among the fills
    decision_times: Sequence[datetime] = ()
    decisions: Sequence[Decision] = ()
    regimes: Sequence[str] = ()
    steering: SteeringPlot | None = None
    tables: Sequence[Table] = ()
    terms: dict[str, str] = field(default_factory=dict)


def report_of(result: BacktestResult) -> Report:
    """The report of one backtest."""
    times, shifts = result.curves[0].times, result.shifts
    when = f", from {minute(times[0])} to {minute(times[-1])} UTC" if len(times) else ""
    return Report(
        kind="backtest",
        lead=(
            f"What this wallet’s trader would have done with {listed(result.symbols)} on {result.provenance} "
            f"prices{when}: {len(result.decision_times):,} decisions by the functions that trade live, filled at the "
            "wallet’s own costs."
        ),
        curves=result.curves,
        provenance=result.provenance,
        in_sample=result.in_sample,
        notices=_notices(result),
        promotion=Promotion(*result.promotion) if result.promotion else None,
        steering=_steering(result.steering),
        bands=[_shifts_band(shifts, float(result.curves[0].equity[0]))] if shifts else [],
        against_shifts=_against(shifts) if shifts else result.shifts_refused,
        symbols=result.symbols,
        closes=result.closes,
        fills=result.fills,
        closing=result.closing,
        decision_times=result.decision_times,
        decisions=result.decisions,
        regimes=result.regimes,
        terms=result.terms,
    )


def _steering(measured: Mapping[str, Any] | None) -> SteeringPlot | None:
    """What training measured on what it held back; None where the model's row says nothing."""
    if not measured:
        return None
    exposure, turnover = ([(float(x), float(y)) for x, y in measured[name]] for name in ("exposure", "turnover"))
    return SteeringPlot(exposure, turnover)


def _notices(result: BacktestResult) -> list[Notice]:
    found, own = [], result.curves[0]
    if result.emergency_stops:
        stops = (
            f"{result.emergency_stops}: the drawdown limit took everything into cash, and trading went on 7 days later"
        )
        found.append(Notice("amber", "Emergency stops:", f"{stops}."))
    if result.closing:
        closed, marked = money(float(own.equity[-1])), money(own.last_marked)
        text = f"{len(result.closing)} were sold and charged: {closed} is left of {marked} at the last prices."
        found.append(Notice("plain", "Positions open at the end:", text))
    return found


def _shifts_band(shifts: Shifts, capital: float) -> Band:
    name = f"{len(shifts.returns):,} random shifts, 5–95 %"
    low, median, high = (equities / capital for equities in (shifts.low, shifts.median, shifts.high))
    said = (
        f"{signed(float(low[-1]) - 1.0)} to {signed(float(high[-1]) - 1.0)}, median {signed(float(median[-1]) - 1.0)}"
    )
    return Band("shifts", name, shifts.times, low, high, said, median)


def _against(shifts: Shifts) -> str:
    many = f"{len(shifts.returns):,} random shifts of its own weights in time"
    if shifts.percentile is None:
        return f"Against {many}: undefined, as its Sharpe ratio is."
    return f"Its Sharpe ratio is above that of {percent(shifts.percentile)} of {many} (half of them would be chance)."
