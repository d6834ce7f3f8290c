"""Trend and volatility of one instrument, from exactly its last closes.

The trend is an equal mix of EWMA crossovers of daily closes, each scaled by the volatility of price changes
(Carver, Systematic Trading, 2015, ch. 7). The volatility is an EWMA of squared log returns of bars (RiskMetrics, 1996)
as slow as Carver's: what it says moves positions, and moving them costs; a policy that wants to know what the last
hours were like reads it off the embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared.rows import Candles, FloatArray, IntArray

DAY_S = 86_400
DAYS_A_YEAR = 365
SECONDS_A_YEAR = DAYS_A_YEAR * DAY_S
TREND_DAYS = 360  # daily closes that a trend is read from
CROSSOVERS = ((8, 32), (16, 64), (32, 128), (64, 256))  # fast and slow spans, in days
FORECAST_CAP = 2.0  # of a crossover, in its standard deviations
VOLATILITY_DAYS = 90
VOLATILITY_SPAN = 32  # in days
MIN_DAYS = 10  # a younger series has no signal; one younger than TREND_DAYS counts as flat before its first close
MIN_PRESENT = 0.9  # of the bars of the last VOLATILITY_DAYS, or since the series' first


@dataclass(frozen=True, slots=True)
class Signal:
    """``trend`` in [-1, 1]; ``volatility`` annualised, as a fraction; ``price`` is the last close."""

    price: float
    trend: float
    volatility: float


def signal_window(timeframe_s: int) -> int:
    """The bars that a signal is a function of."""
    return TREND_DAYS * (DAY_S // timeframe_s)


def _ewma_weights(span: float, length: int) -> FloatArray:
    """Weights of an EWMA over so many values, oldest first, summing to 1."""
    weights = (1 - 2 / (span + 1)) ** np.arange(length - 1, -1, -1)
    normalised: FloatArray = weights / weights.sum()
    return normalised


FAST_LESS_SLOW = np.stack(
    [_ewma_weights(fast, TREND_DAYS) - _ewma_weights(slow, TREND_DAYS) for fast, slow in CROSSOVERS]
)


def _standard_deviations() -> FloatArray:
    """Of each crossover, in daily volatilities, on a random walk: the crossover is a weighted sum of returns."""
    response = np.cumsum(FAST_LESS_SLOW[:, ::-1], axis=1)[:, :-1]  # weight of each return, newest first
    deviations: FloatArray = np.sqrt((response**2).sum(axis=1))
    return deviations


CROSSOVER_WEIGHTS = FAST_LESS_SLOW / _standard_deviations()[:, None]


@cache
def _risk_weights(bars_a_day: int) -> FloatArray:
    length = VOLATILITY_DAYS * bars_a_day - 1
    return _ewma_weights(VOLATILITY_SPAN * bars_a_day, length)


class ClosesOnGrid:
    """One instrument's closes on the grid of its timeframe, gaps filled with the close before.

    ``signal(t)`` depends on the candles in its window only, however many more there are.
    """

    def __init__(self, candles: Candles, timeframe_s: int, first: int, last: int) -> None:
        """Serves every close t in [first, last] (Unix seconds, on the grid)."""
        self._timeframe_s, self._bars_a_day = timeframe_s, DAY_S // timeframe_s
        self._window = signal_window(timeframe_s)
        self._start = first - (self._window - 1) * timeframe_s
        bars = (last - self._start) // timeframe_s + 1
        slots = (candles.as_of - self._start) // timeframe_s
        inside = (slots >= 0) & (slots < bars)
        slots = slots[inside]
        self._present = np.zeros(bars, dtype=bool)
        self._present[slots] = True
        self._count: IntArray = np.r_[0, np.cumsum(self._present)]
        closes = np.full(bars, np.nan)
        closes[slots] = candles.close[inside]
        newest = np.maximum.accumulate(np.where(self._present, np.arange(bars), 0))
        self._closes: FloatArray = closes[newest]
        positions = np.where(self._present, np.arange(bars), bars)
        self._next: IntArray = np.minimum.accumulate(positions[::-1])[::-1]  # the first present bar from here on

    @property
    def closes(self) -> FloatArray:
        """Every close on the grid [bars], the first one a window before the first that is served; NaN before any."""
        return self._closes

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether a candle closed there [bars]; else the close is that of the one before."""
        return self._present

    def row(self, t: int) -> int:
        """Of the close ``t`` in ``closes``, the last one where that is over."""
        return min((t - self._start) // self._timeframe_s, len(self._closes) - 1)

    def signal(self, t: int) -> Signal | None:
        """The signal at the close ``t``; None when that candle is missing, or too little is there to go by."""
        end = (t - self._start) // self._timeframe_s
        begin = end - self._window + 1
        if not self._present[end]:
            return None
        oldest = int(self._next[begin])
        if end - oldest < MIN_DAYS * self._bars_a_day - 1:
            return None
        recent = max(end + 1 - VOLATILITY_DAYS * self._bars_a_day, oldest)
        if self._count[end + 1] - self._count[recent] < MIN_PRESENT * (end + 1 - recent):
            return None
        window = self._closes[begin : end + 1]
        return _signal_of(window, max(oldest - begin, 0), self._bars_a_day)

    def last_close(self, t: int) -> float:
        """The newest close in the window up to ``t``; NaN when there is none."""
        end = self.row(t)
        begin = max(end - self._window + 1, 0)
        return float(self._closes[end]) if self._count[end + 1] > self._count[begin] else math.nan


def _signal_of(window: FloatArray, oldest: int, bars_a_day: int) -> Signal:
    """``window``: all its closes, of which those before ``oldest`` are not its own: it was flat then."""
    first = window[oldest]
    recent = window[-VOLATILITY_DAYS * bars_a_day :].copy()
    recent[: max(len(recent) - (len(window) - oldest), 0)] = first
    daily = window[bars_a_day - 1 :: bars_a_day].copy()
    daily[np.arange(len(daily)) * bars_a_day + bars_a_day - 1 < oldest] = first
    returns = np.diff(np.log(recent))
    bar_volatility = math.sqrt(float(_risk_weights(bars_a_day) @ (returns * returns)))
    if bar_volatility == 0.0:
        return Signal(price=float(window[-1]), trend=0.0, volatility=0.0)
    daily_volatility = bar_volatility * math.sqrt(bars_a_day)
    crossovers = CROSSOVER_WEIGHTS @ np.log(daily) / daily_volatility
    trend = float(np.clip(crossovers, -FORECAST_CAP, FORECAST_CAP).mean() / FORECAST_CAP)
    return Signal(price=float(window[-1]), trend=trend, volatility=daily_volatility * math.sqrt(DAYS_A_YEAR))
