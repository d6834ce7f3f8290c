"""What an equity curve was worth, in numbers. Pure, numpy only.

What holds for every function here:

- ``times`` are int64 Unix seconds, strictly increasing; ``equity`` is in quote, finite and above zero, of the
  same length. A curve should begin with the capital before the first trade: costs before its first point count nowhere.
- ``returns`` are daily: relative changes of equity from one UTC midnight to the next, each midnight taking the
  last equity at or before it. What comes before the first and after the last midnight belongs to no day.
- A year has 365 days (crypto never closes), the risk-free rate is 0, standard deviations are of the sample (ddof=1).
- What is undefined is None, never 0 or infinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.rows import FloatArray, IntArray

DAY_S = 86_400
DAYS_A_YEAR = 365
YEAR_S = DAYS_A_YEAR * DAY_S
NO_VOLATILITY = 1e-12  # daily; what rounding leaves of a deviation that is zero (a double keeps 2e-16)


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
    max_drawdown: float | None
    longest_drawdown_s: int | None
    hit_rate: float | None
    turnover_per_year: float | None
    traded: float
    fees: float
    trades: int


def summarise(times: IntArray, equity: FloatArray, traded: float, fees: float, trades: int) -> Summary:
    """All figures of one curve; ``traded`` is the value bought plus the value sold, it and ``fees`` in quote.

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
        volatility=volatility(returns),
        sharpe=sharpe(returns),
        sharpe_standard_error=sharpe_standard_error(returns),
        sortino=sortino(returns),
        max_drawdown=max_drawdown(equity),
        longest_drawdown_s=longest_drawdown_s(times, equity),
        hit_rate=hit_rate(returns),
        turnover_per_year=turnover_per_year(times, equity, traded),
        traded=traded,
        fees=fees,
        trades=trades,
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


def volatility(returns: FloatArray) -> float | None:
    """Sample standard deviation (ddof=1) of daily returns, times sqrt(365); a fraction a year.

    None for fewer than two days.
    """
    return _deviation(returns) * math.sqrt(DAYS_A_YEAR) if len(returns) >= 2 else None


def sharpe(returns: FloatArray) -> float | None:
    """Mean over sample standard deviation (ddof=1) of daily returns against 0, times sqrt(365) (Sharpe, 1994).

    None for fewer than two days or without volatility.
    """
    if len(returns) < 2 or _deviation(returns) < NO_VOLATILITY:
        return None
    return float(returns.mean()) / _deviation(returns) * math.sqrt(DAYS_A_YEAR)


def sharpe_standard_error(returns: FloatArray) -> float | None:
    """Standard error of the annualised Sharpe ratio: sqrt((1 + SR_daily**2 / 2) / days) * sqrt(365).

    Lo, "The Statistics of Sharpe Ratios", Financial Analysts Journal 58(4), 2002: for independent, identically
    distributed returns, so the least of the doubt. None where the ratio is.
    """
    annual = sharpe(returns)
    if annual is None:
        return None
    return math.sqrt((1.0 + annual**2 / DAYS_A_YEAR / 2.0) / len(returns) * DAYS_A_YEAR)


def sortino(returns: FloatArray) -> float | None:
    """Mean daily return over the downside deviation against 0, times sqrt(365) (Sortino and Price, 1994).

    Downside deviation: the root of the mean, over all days, of min(return, 0) squared. None for fewer than two
    days or without a losing one.
    """
    if len(returns) < 2:
        return None
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    return float(returns.mean()) / downside * math.sqrt(DAYS_A_YEAR) if downside >= NO_VOLATILITY else None


def hit_rate(returns: FloatArray) -> float | None:
    """Days that gained as a fraction of the days that gained or lost; days without change (all in cash) count
    as neither. None where no day gained or lost."""
    moved = np.count_nonzero(returns)
    return float(np.count_nonzero(returns > 0.0)) / moved if moved else None


def drawdowns(equity: FloatArray) -> FloatArray:
    """At each point, how far equity stands below its highest so far; a fraction in [0, 1]."""
    below: FloatArray = 1.0 - equity / np.maximum.accumulate(equity)
    return below


def max_drawdown(equity: FloatArray) -> float | None:
    """The deepest of ``drawdowns``, over all points and not only midnights; None for fewer than two points."""
    return float(drawdowns(equity).max()) if len(equity) >= 2 else None


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


def _deviation(returns: FloatArray) -> float:
    return float(returns.std(ddof=1))
