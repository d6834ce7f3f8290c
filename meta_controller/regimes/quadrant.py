"""Trend × volatility with hysteresis: the regime expert that is always there.

Both axes work alike. A number is read off every bar: for the trend a t-statistic, for the volatility a
percentile. A state machine with hysteresis walks over the window's last bars and ends up holding a class. A
softmax turns the last number into probabilities, with edges where the machine has them, so that the held
class has the most mass and the further inside its region the number lies, the more.

Nothing is remembered between calls: the machine starts anew on each window, from the raw class of its first
bar, so a call is a function of the returns it is given and of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from meta_controller.controller import LONG_HORIZON_S, SHORT_HORIZON_S, TRENDS, VOLATILITIES, HorizonCall
from shared.rows import FloatArray

MACHINE_BARS = 240  # K: the last bars that the state machine walks over
REFERENCE_BARS = 1200  # the bars that a volatility is a percentile of; K + 1200 - 1 returns fill the window
DWELL_BARS = 6  # a class is held at least so long
LEAST_RETURNS = 160  # the machine starts no earlier: the longest lookback, and some volatilities to compare with
LEAST_LOG_SPREAD = 0.15  # of log volatility: what estimation noise alone makes it vary; less means "as ever"
TINY = 1e-12  # a volatility below any tick


@dataclass(frozen=True, slots=True)
class Ladder:
    """Three classes on one axis: 0 up to ``lower``, 2 from ``upper``, 1 between; an outer class, once held, is
    left only ``margin`` further inside. ``scale`` is how far from an edge the odds change by a factor e."""

    lower: float
    upper: float
    margin: float
    scale: float

    def edges(self, held: int) -> tuple[float, float]:
        """The two edges while ``held`` is held."""
        return self.lower + self.margin * (held == 0), self.upper - self.margin * (held == 2)


@dataclass(frozen=True, slots=True)
class Horizon:
    """How one horizon reads the index; lengths in bars, the half-life of the volatility's weights too."""

    horizon_s: int
    lookback: int
    half_life: int


# Lookbacks: a drift of t = 3 in 20 days shows as t = 1.5 in 120 bars, and a switch is seen after about 60; 72 and
# 168 bars are more often wrong about such segments. The short horizon trades certainty for speed: with 36 bars
# its regime changes about once a day on BTC and ETH (24 bars: 1.4 times), the long one's every third day.
HORIZONS = (Horizon(SHORT_HORIZON_S, lookback=36, half_life=12), Horizon(LONG_HORIZON_S, lookback=120, half_life=48))

# A trend is held until the evidence turns against it (t = 0), not merely weakens: on segments of opposite drift
# such calls are right in 82 of 100 cases and change half as often as with a margin of 0.25 (75 of 100).
# The scales are near the best for forecasting the class of the next 4 and 24 hours (log loss, BTC and ETH, 2019
# to 2021). For the volatility that beats its long-run frequencies, in 2022 to 2024 too; for the trend nothing
# does, so its scale is wide: it says how the market has moved and promises little about how it will.
TREND = Ladder(lower=-0.75, upper=0.75, margin=0.75, scale=4.0)  # t-statistics
VOLATILITY = Ladder(lower=30.0, upper=80.0, margin=5.0, scale=30.0)  # percentiles


def call_regimes(returns: FloatArray) -> tuple[HorizonCall, ...]:
    """One call a horizon from the index's log returns, shape (n,), oldest first; n at least LEAST_RETURNS."""
    if len(returns) < LEAST_RETURNS:
        raise ValueError(f"{len(returns)} returns, the quadrant needs at least {LEAST_RETURNS}")
    return tuple(_call(returns, horizon) for horizon in HORIZONS)


def _call(returns: FloatArray, horizon: Horizon) -> HorizonCall:
    bars = min(MACHINE_BARS, len(returns) - LEAST_RETURNS + 1)
    volatility = ewma(np.abs(returns), horizon.half_life)
    t_values = trend_t(returns, volatility, horizon.lookback, bars)
    percentiles = volatility_percentiles(volatility, bars)
    trend, activity = held_class(t_values, TREND), held_class(percentiles, VOLATILITY)
    down, flat, up = probabilities(t_values[-1], trend, TREND)
    low, mid, high = probabilities(percentiles[-1], activity, VOLATILITY)
    compared = min(REFERENCE_BARS, len(returns))
    reasons = (
        f"trend {TRENDS[trend]} (t {t_values[-1]:+.2f} over {horizon.lookback} bars), "
        f"volatility {VOLATILITIES[activity]} (percentile {percentiles[-1]:.0f} of {compared} bars)"
    )
    certainty = (3.0 * max(down, flat, up) - 1.0) / 2.0  # 0 for a third each, 1 for a sure thing
    return HorizonCall(horizon.horizon_s, down, flat, up, low, mid, high, (up - down) * certainty, reasons)


def ewma(values: FloatArray, half_life: int) -> FloatArray:
    """The exponentially weighted mean of ``values`` up to each bar, shape (n,); n below 1000 half-lives.

    Growing weights and their sum in place of a recursion: with nothing negative in the sums nothing cancels.
    Absolute returns rather than squares are averaged: where outliers are common that is the less noisy
    estimate of volatility (Huber, Robust Statistics, 1981, §1.1), and a percentile has no use for the scale.
    """
    weights = np.exp2(np.arange(len(values)) / half_life)
    means: FloatArray = (values * weights).cumsum() / weights.cumsum()
    return means


def trend_t(returns: FloatArray, volatility: FloatArray, lookback: int, bars: int) -> list[float]:
    """The t-statistic of the mean return over ``lookback`` bars, for each of the last ``bars`` bars.

    Returns are first divided by the volatility of their bar, so that no wild hour outweighs a calm day:
    t = Σz / sqrt(Σz²), which is 0 in a market that does not move.
    """
    scaled = returns / np.maximum(volatility, TINY)
    windows = sliding_window_view(scaled[-(bars + lookback - 1) :], lookback)
    squares = np.maximum((windows * windows).sum(axis=1), TINY)
    t_values: list[float] = (windows.sum(axis=1) / np.sqrt(squares)).tolist()
    return t_values


def volatility_percentiles(volatility: FloatArray, bars: int) -> list[float]:
    """Where each of the last ``bars`` volatilities lies among the REFERENCE_BARS up to it, 0 to 100.

    The percentile is that of a lognormal fitted to them, since log volatility is close to normal (Andersen,
    Bollerslev, Diebold, Ebens 2001): unlike a rank it still tells calm from wild when either lasted for half
    the window. Its spread has a floor, so that a market of constant volatility is called mid.
    """
    logs = np.log(np.maximum(volatility, TINY))
    centred = logs - logs.mean()
    sums = np.concatenate([[0.0], centred.cumsum()])
    squares = np.concatenate([[0.0], (centred * centred).cumsum()])
    ends = np.arange(len(logs) - bars, len(logs)) + 1
    starts = np.maximum(ends - REFERENCE_BARS, 0)
    count = ends - starts
    mean = (sums[ends] - sums[starts]) / count
    variance = (squares[ends] - squares[starts]) / count - mean * mean
    spread = np.sqrt(np.maximum(variance, LEAST_LOG_SPREAD**2))
    scores = ((centred[-bars:] - mean) / spread).tolist()
    return [50.0 * (1.0 + math.erf(score / math.sqrt(2.0))) for score in scores]


def held_class(values: Sequence[float], ladder: Ladder) -> int:
    """The class (0, 1, 2) that the state machine holds after walking over ``values``, oldest first."""
    held = _class_between(values[0], ladder.lower, ladder.upper)
    lower, upper = ladder.edges(held)
    since = DWELL_BARS
    for value in values[1:]:
        since += 1
        now = _class_between(value, lower, upper)
        if now != held and since >= DWELL_BARS:
            held, since = now, 0
            lower, upper = ladder.edges(held)
    return held


def _class_between(value: float, lower: float, upper: float) -> int:
    return 0 if value <= lower else 2 if value >= upper else 1


def probabilities(value: float, held: int, ladder: Ladder) -> tuple[float, float, float]:
    """Probabilities of the classes 0, 1, 2; they sum to 1 and ``held`` has the most.

    A softmax whose classes tie exactly at the ladder's edges. A value that the machine has not followed yet
    (it holds a class for DWELL_BARS) is read as if it lay just inside the held class.
    """
    lower, upper = ladder.edges(held)
    inside = ladder.scale / 20.0
    if held == 0:
        value = min(value, lower - inside)
    elif held == 1:
        value = min(max(value, lower + inside), upper - inside)
    else:
        value = max(value, upper + inside)
    weights = math.exp((lower - value) / ladder.scale), 1.0, math.exp((value - upper) / ladder.scale)
    total = sum(weights)
    return weights[0] / total, weights[1] / total, weights[2] / total
