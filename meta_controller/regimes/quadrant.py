"""Trend × volatility with hysteresis: the regime expert that is always there, as it has nothing to learn.

Both axes work alike. A number is read off every bar: for the trend a t-statistic, for the volatility a percentile. A
state machine with hysteresis walks over the bars and ends up holding a class. A softmax turns the bar's number into
probabilities, with edges where the machine has them, so that the held class has the most mass and the further inside
its region the number lies, the more.

The machine starts anew MACHINE_S before each block, from the raw class of the bar there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meta_controller.controller import HORIZONS_S, LONG_HORIZON_S, SHORT_HORIZON_S
from meta_controller.market_index import DAY_S, MarketHistory
from meta_controller.regimes.expert import CLASSES, FLOOR, Calls, Expert, Parameters
from meta_controller.regimes.states import HOUR_S, LEAST_SPREAD, Part, parts_by_block, trailing_mean
from shared.rows import FloatArray

MACHINE_S = 10 * DAY_S
REFERENCE_S = 180 * DAY_S  # what a volatility is a percentile of
DWELL_S = 6 * HOUR_S  # a class is held at least so long
TINY = 1e-12  # a volatility below any tick
LEAST_SQUARES = 1e-6  # of scaled returns, each of them near 1


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
class Reading:
    """How one horizon reads the index: the lookback of the trend, the half-life of the volatility's weights."""

    lookback_s: int
    half_life_s: int


# Lookbacks: of 20-day segments of opposite drift (t = 3 each), 120 hours call 85 of 100 bars right from the third day
# on (96 hours: 82; 168: 86, which is later everywhere else). The short horizon trades certainty for speed: with 36
# hours its trend changes about once a day on BTC and ETH, the long one's every third day.
READINGS = {
    SHORT_HORIZON_S: Reading(lookback_s=36 * HOUR_S, half_life_s=12 * HOUR_S),
    LONG_HORIZON_S: Reading(lookback_s=120 * HOUR_S, half_life_s=48 * HOUR_S),
}

# A trend is held until the evidence turns against it (t = 0), not merely weakens: with a margin of 0.5, 82 of 100 are
# right and changes half as many again. A margin of 1.4 has 90 right, but then a market without drift is called flat in
# 7 of 100 bars where this one does in 27, and the calls on BTC and ETH lose 0.05 of log loss.
# The volatility's edges are the terciles that the classes are scored by; against 30 and 80 that is worth 0.012 of
# skill. Its scale is near the best for forecasting the class of the next 4 and 24 hours (log loss, BTC and ETH, 2019
# to 2021). For the trend no scale beats the long-run frequencies: it says how the market has moved and promises
# little about how it will.
TREND = Ladder(lower=-0.75, upper=0.75, margin=0.75, scale=4.0)  # t-statistics
VOLATILITY = Ladder(lower=33.0, upper=67.0, margin=5.0, scale=30.0)  # percentiles


def call(history: MarketHistory, parameters: Parameters, bars: int) -> Calls:
    """See Expert; ``parameters`` are empty."""
    return np.concatenate([_call_part(part) for part in parts_by_block(history, bars, MACHINE_S, REFERENCE_S)])


def _call_part(part: Part) -> Calls:
    calls = np.empty((len(part.history) - part.wanted, len(HORIZONS_S), CLASSES))
    for n, horizon_s in enumerate(HORIZONS_S):
        t_values, percentiles = read(part.history, READINGS[horizon_s])
        calls[:, n, :3] = _walk(t_values, TREND, part)
        calls[:, n, 3:] = _walk(percentiles, VOLATILITY, part)
    return np.asarray(FLOOR + (1.0 - 3.0 * FLOOR) * calls)


def _walk(values: FloatArray, ladder: Ladder, part: Part) -> list[tuple[float, float, float]]:
    walked: list[float] = values[part.start :].tolist()
    held = held_classes(walked, ladder, part.history.bars(DWELL_S))
    skip = part.wanted - part.start
    return [probabilities(value, at, ladder) for value, at in zip(walked[skip:], held[skip:], strict=True)]


def read(history: MarketHistory, reading: Reading) -> tuple[FloatArray, FloatArray]:
    """The trend's t-statistic and the volatility's percentile at each bar, [n] each."""
    volatility = ewma(np.abs(history.returns), history.bars(reading.half_life_s))
    t_values = trend_t(history.returns, volatility, history.bars(reading.lookback_s))
    return t_values, volatility_percentiles(volatility, history.bars(REFERENCE_S))


def ewma(values: FloatArray, half_life: int) -> FloatArray:
    """The exponentially weighted mean of ``values`` up to each bar, shape (n,); n below 1000 half-lives.

    Growing weights and their sum in place of a recursion: with nothing negative in the sums nothing cancels.
    Absolute returns rather than squares are averaged: where outliers are common that is the less noisy
    estimate of volatility (Huber, Robust Statistics, 1981, §1.1), and a percentile has no use for the scale.
    """
    weights = np.exp2(np.arange(len(values)) / half_life)
    means: FloatArray = (values * weights).cumsum() / weights.cumsum()
    return means


def trend_t(returns: FloatArray, volatility: FloatArray, lookback: int) -> FloatArray:
    """The t-statistic of the mean return over ``lookback`` bars (fewer where the history begins), [n].

    Returns are first divided by the volatility of their bar, so that no wild hour outweighs a calm day:
    t = Σz / sqrt(Σz²), which is 0 in a market that does not move.
    """
    scaled = returns / np.maximum(volatility, TINY)
    counted = np.minimum(np.arange(1, len(returns) + 1), lookback)
    squares = np.maximum(trailing_mean(scaled * scaled, lookback) * counted, LEAST_SQUARES)
    return np.asarray(trailing_mean(scaled, lookback) * counted / np.sqrt(squares))


def volatility_percentiles(volatility: FloatArray, reference: int) -> FloatArray:
    """Where each volatility lies among the last ``reference`` up to it, 0 to 100; [n].

    The percentile is that of a lognormal fitted to them, since log volatility is close to normal (Andersen,
    Bollerslev, Diebold, Ebens 2001): unlike a rank it still tells calm from wild when either lasted for half
    the time. Its spread has a floor, so that a market of constant volatility is called mid.
    """
    logs = np.log(np.maximum(volatility, TINY))
    mean = trailing_mean(logs, reference)
    variance = trailing_mean(logs * logs, reference) - mean * mean
    scores = (logs - mean) / np.sqrt(2.0 * np.maximum(variance, LEAST_SPREAD**2))
    return np.array([50.0 * (1.0 + math.erf(score)) for score in scores.tolist()])


def held_classes(values: Sequence[float], ladder: Ladder, dwell: int) -> list[int]:
    """The class (0, 1, 2) that the state machine holds at each of ``values``, oldest first, never for fewer than
    ``dwell`` of them."""
    held = _class_between(values[0], ladder.lower, ladder.upper)
    lower, upper = ladder.edges(held)
    since, found = dwell, [held]
    for value in values[1:]:
        since += 1
        now = _class_between(value, lower, upper)
        if now != held and since >= dwell:
            held, since = now, 0
            lower, upper = ladder.edges(held)
        found.append(held)
    return found


def _class_between(value: float, lower: float, upper: float) -> int:
    return 0 if value <= lower else 2 if value >= upper else 1


def probabilities(value: float, held: int, ladder: Ladder) -> tuple[float, float, float]:
    """Probabilities of the classes 0, 1, 2; they sum to 1 and ``held`` has the most.

    A softmax whose classes tie exactly at the ladder's edges. A value that the machine has not followed yet
    (it holds a class for DWELL_S) is read as if it lay just inside the held class.
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


EXPERT = Expert(call)
