"""What an equity curve was worth, in numbers. Pure, numpy only.

What holds for every function here:

- ``times`` are int64 Unix seconds, strictly increasing; ``equity`` is in quote, finite and above zero, of the
  same length. A curve should begin with the capital before the first trade: costs before its first point count nowhere.
- ``returns`` are daily: relative changes of equity from one UTC midnight to the next, each midnight taking the
  last equity at or before it. What comes before the first and after the last midnight belongs to no day.
- A year has 365 days (crypto never closes). Figures of daily returns alone are in ``returns``.
- What is undefined is None, never 0 or infinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.performance import returns as of_returns
from shared.performance.returns import DAYS_A_YEAR, Regression
from shared.rows import FloatArray, IntArray

DAY_S = 86_400
YEAR_S = DAYS_A_YEAR * DAY_S


@dataclass(frozen=True, slots=True)
class Summary:
    """One curve's figures; see the functions of the same names for units and sources."""

    start: int | None
    end: int | None
    days: int  # daily returns, whole UTC days
    total_return: float | None
    cagr: float | None
    volatility: float | None
    sharpe: float | None
    sharpe_standard_error: float | None
    sortino: float | None
    calmar: float | None
    max_drawdown: float | None
    longest_drawdown_s: int | None
    ulcer_index: float | None
    value_at_risk: float | None
    expected_shortfall: float | None
    tail_ratio: float | None
    skewness: float | None
    kurtosis: float | None
    worst_day: float | None
    worst_week: float | None
    hit_rate: float | None
    profit_factor: float | None
    minimum_track_record_days: float | None
    turnover_per_year: float | None
    traded: float
    fees: float
    slippage: float | None
    cost_share: float | None
    trades: int
    trades_per_day: float | None
    trade_hit_rate: float | None
    trade_profit_factor: float | None
    exposure: float | None
    regression: Regression | None  # on the benchmark


def summarise(
    times: IntArray,
    equity: FloatArray,
    traded: float,
    fees: float,
    trades: int,
    *,
    slippage: float | None = None,
    weights: FloatArray | None = None,
    trade_profits: FloatArray | None = None,
    benchmark: FloatArray | None = None,
) -> Summary:
    """All figures of one curve; ``traded`` is the value bought plus the value sold, it, ``fees`` and ``slippage`` (what
    fills cost beyond the reference price, half-spread included) in quote.

    ``weights``: gross weights over time (any step, evenly spaced); ``trade_profits``: of closed round trips, net, in
    quote; ``benchmark``: daily returns of the same days. What needs one that is not given is None.
    Raises ValueError for a curve that is not one (lengths, order of times, equity not finite or not above zero).
    """
    _require_curve(times, equity)
    returns = daily_returns(times, equity)
    return Summary(
        start=int(times[0]) if len(times) else None,
        end=int(times[-1]) if len(times) else None,
        days=len(returns),
        total_return=total_return(equity),
        cagr=cagr(times, equity),
        volatility=of_returns.volatility(returns),
        sharpe=of_returns.sharpe(returns),
        sharpe_standard_error=of_returns.sharpe_standard_error(returns),
        sortino=of_returns.sortino(returns),
        calmar=calmar(times, equity),
        max_drawdown=max_drawdown(equity),
        longest_drawdown_s=longest_drawdown_s(times, equity),
        ulcer_index=ulcer_index(times, equity),
        value_at_risk=of_returns.value_at_risk(returns),
        expected_shortfall=of_returns.expected_shortfall(returns),
        tail_ratio=of_returns.tail_ratio(returns),
        skewness=of_returns.skewness(returns),
        kurtosis=of_returns.kurtosis(returns),
        worst_day=of_returns.worst_day(returns),
        worst_week=of_returns.worst_week(returns),
        hit_rate=of_returns.hit_rate(returns),
        profit_factor=of_returns.profit_factor(returns),
        minimum_track_record_days=of_returns.minimum_track_record_days(returns),
        turnover_per_year=turnover_per_year(times, equity, traded),
        traded=traded,
        fees=fees,
        slippage=slippage,
        cost_share=None if slippage is None else cost_share(equity, fees + slippage),
        trades=trades,
        trades_per_day=trades / (years(times) * DAYS_A_YEAR) if years(times) else None,
        trade_hit_rate=None if trade_profits is None else of_returns.hit_rate(trade_profits),
        trade_profit_factor=None if trade_profits is None else of_returns.profit_factor(trade_profits),
        exposure=None if weights is None else exposure(weights),
        regression=None if benchmark is None else of_returns.regression(returns, benchmark),
    )


def _require_curve(times: IntArray, equity: FloatArray) -> None:
    if len(times) != len(equity):
        raise ValueError(f"a curve needs a time for each equity; it has {len(times)} times and {len(equity)} equities")
    if np.any(np.diff(times) <= 0):
        raise ValueError("the times of a curve must increase; sort them and drop repeated ones")
    bad = np.flatnonzero(~(np.isfinite(equity) & (equity > 0.0)))
    if len(bad):
        raise ValueError(
            f"equity must be finite and above zero, but is {equity[bad[0]]} at Unix time {times[bad[0]]}; "
            "leave out bars before the book began"
        )


def daily_equity(times: IntArray, equity: FloatArray) -> tuple[IntArray, FloatArray]:
    """Each UTC midnight within the curve (Unix seconds) and the last equity at or before it (quote)."""
    if not len(times):
        return np.empty(0, np.int64), np.empty(0)
    midnights = np.arange(-(-times[0] // DAY_S) * DAY_S, times[-1] + 1, DAY_S, dtype=np.int64)
    return midnights, equity[np.searchsorted(times, midnights, side="right") - 1]


def daily_returns(times: IntArray, equity: FloatArray) -> FloatArray:
    """Relative change of equity from each UTC midnight to the next; one fewer than there are midnights."""
    _, daily = daily_equity(times, equity)
    returns: FloatArray = daily[1:] / daily[:-1] - 1.0
    return returns


def years(times: IntArray) -> float:
    """From the first point to the last, in years of 365 days; 0 for fewer than two points."""
    return float(times[-1] - times[0]) / YEAR_S if len(times) else 0.0


def total_return(equity: FloatArray) -> float | None:
    """Last equity over first, minus 1; a fraction. None for fewer than two points."""
    return float(equity[-1] / equity[0]) - 1.0 if len(equity) >= 2 else None


def cagr(times: IntArray, equity: FloatArray) -> float | None:
    """Compound annual growth: (last / first) ** (1 / years) - 1, a fraction a year; None without a span.

    Below one year it extrapolates, and a report should not show it (the GIPS standards annualise no shorter return).
    """
    if not years(times) or len(equity) < 2:
        return None
    growth = math.log(float(equity[-1] / equity[0])) / years(times)
    return math.expm1(growth) if growth < 700.0 else None  # beyond, a double overflows


def drawdowns(equity: FloatArray) -> FloatArray:
    """At each point, how far equity stands below its highest so far; a fraction in [0, 1]."""
    below: FloatArray = 1.0 - equity / np.maximum.accumulate(equity)
    return below


def max_drawdown(equity: FloatArray) -> float | None:
    """The deepest of ``drawdowns``, over all points and not only midnights; None for fewer than two points."""
    return float(drawdowns(equity).max()) if len(equity) >= 2 else None


def calmar(times: IntArray, equity: FloatArray) -> float | None:
    """Compound annual growth over the maximum drawdown, of the whole curve (Young, Futures 20, 1991, took the last
    three years); None where nothing was lost or there is no growth figure."""
    growth, deepest = cagr(times, equity), max_drawdown(equity)
    return growth / deepest if growth is not None and deepest else None


def ulcer_index(times: IntArray, equity: FloatArray) -> float | None:
    """The root of the mean squared drawdown at UTC midnights, a fraction (Martin and McCann, 1989); None for fewer
    than two midnights."""
    _, daily = daily_equity(times, equity)
    return math.sqrt(float(np.mean(drawdowns(daily) ** 2))) if len(daily) >= 2 else None


def cost_share(equity: FloatArray, costs: float) -> float | None:
    """``costs`` (fees and slippage, quote) over what would have been gained without them: last equity minus first plus
    costs. Above 1: costs ate all and more. None where nothing would have been gained, or for fewer than two points."""
    gross = float(equity[-1] - equity[0]) + costs if len(equity) >= 2 else 0.0
    return costs / gross if gross > 0.0 else None


def exposure(weights: FloatArray) -> float | None:
    """The mean gross weight (value held over equity; 1 = all invested, all of the time); None without one."""
    return float(weights.mean()) if len(weights) else None


def longest_drawdown_s(times: IntArray, equity: FloatArray) -> int | None:
    """The longest time from a highest equity, through lower ones, to its return (or the curve's end), in seconds.

    0 for a curve that never fell; None for fewer than two points.
    """
    if len(equity) < 2:
        return None
    highs = np.flatnonzero(equity >= np.maximum.accumulate(equity))
    ends = np.append(highs[1:], len(equity) - 1)
    waits = times[ends] - times[highs]
    fell = (ends - highs > 1) | (equity[ends] < equity[highs])
    return int(waits[fell].max(initial=0))


def turnover_per_year(times: IntArray, equity: FloatArray, traded: float) -> float | None:
    """Value traded over mean equity and over years; ``traded`` sums both sides, so selling everything once and
    buying it back is 2. None without a span."""
    return traded / float(equity.mean()) / years(times) if years(times) else None
