"""What the state models share: features of the index, steps of four hours, and the tables from states to classes.

States are learnt and filtered in steps of STEP_S: a filter over hourly bars is four filters side by side, one for each
hour of the step, and each bar is called by its own. The filter begins FILTER_S before the block of the bar it calls,
the features REFERENCE_S before that: a call is a function of the bars since then, and no bar's row of a later one.

A state says little by itself of classes that are relative to the last half-year, so the table for the volatility has
a second axis: where volatility stands today in its own past.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from meta_controller.controller import HORIZONS_S, LONG_HORIZON_S, SHORT_HORIZON_S
from meta_controller.market_index import BLOCK_S, DAY_S, MarketHistory, block_start
from meta_controller.outcomes import REFERENCE_S, UNKNOWN, Outcomes, outcomes
from meta_controller.regimes.expert import CLASSES, FLOOR, Calls, Expert, Parameters
from shared.rows import FloatArray, IntArray

HOUR_S = 3600
STEP_S = 4 * HOUR_S
FILTER_S = 30 * DAY_S
WARM_S = 14 * DAY_S  # a fit leaves out what comes before: there is too little to compare with
LEAST_FIT_BARS = 500

TINY_VARIANCE = 1e-18  # of a bar: below any tick
LEAST_SPREAD = 0.15  # of log volatility: what estimation noise alone makes it vary; less means "as ever"
FARTHEST = 4.0  # standard deviations; a crash is no farther away than this

# All below: log loss on BTC and ETH, 2019 to 2021. The level of volatility is the mean of its scores over these spans
# (as in Corsi's HAR, 2009); the table is learnt at the knots, and between them interpolated.
LEVEL_S = {SHORT_HORIZON_S: (HOUR_S, 6 * HOUR_S, DAY_S, 7 * DAY_S),
           LONG_HORIZON_S: (DAY_S // 2, DAY_S, 4 * DAY_S, 14 * DAY_S)}  # fmt: skip
KNOTS = np.array([-1.6, -0.8, -0.2, 0.4, 1.0, 1.8])
# Pseudo-counts, in horizons that do not overlap: of a third each in the long-run frequencies, of these in what a state
# means for the trend (there is next to nothing to find) and in what a level means, of the latter in a state's cell.
LONG_RUN, TREND_OF_STATE, LEVEL, CELL = 3.0, 50.0, 2.0, 5.0


@dataclass(frozen=True, slots=True)
class StateModel:
    """What one model adds: ``observe(history)`` is what it sees of each bar, [n, d]; ``learn`` makes its parameters
    from sequences of it, [steps, sequences, d]; ``weigh(observed, parameters)`` are the states' weights at each step
    given the steps up to it, [steps, sequences, states], each row's sum 1, in an order that means something."""

    observe: Callable[[MarketHistory], FloatArray]
    learn: Callable[[FloatArray], dict[str, Any]]
    weigh: Callable[[FloatArray, Parameters], FloatArray]

    def expert(self) -> Expert:
        return Expert(self.call, self.fit, LEAST_FIT_BARS)

    def fit(self, past: MarketHistory) -> dict[str, Any] | None:
        """None where no outcome of some horizon is known yet: of bars of minutes, LEAST_FIT_BARS are few days."""
        found = [outcomes(past, horizon_s) for horizon_s in HORIZONS_S]
        if any((labels.volatility == UNKNOWN).all() for labels in found):
            return None
        step, warm = past.bars(STEP_S), min(past.bars(WARM_S), len(past) // 2)
        observed = self.observe(past)[warm:]
        states = self.learn(sequences(observed, step, past.bars(FILTER_S)))
        weights = self._weights(observed, step, states)
        tables = [_tables(past, *of, weights, warm) for of in zip(HORIZONS_S, found, strict=True)]
        return {"states": states, "trend": [trend for trend, _ in tables], "volatility": [vol for _, vol in tables]}

    def call(self, history: MarketHistory, parameters: Parameters, bars: int) -> Calls:
        parts = [self._call_part(part, parameters) for part in parts_by_block(history, bars, FILTER_S, REFERENCE_S)]
        return np.concatenate(parts)

    def _call_part(self, part: Part, parameters: Parameters) -> Calls:
        history, wanted = part.history, part.wanted
        observed = self.observe(history)[part.start :]
        weights = self._weights(observed, history.bars(STEP_S), parameters["states"])[wanted - part.start :]
        calls = np.empty((len(weights), len(HORIZONS_S), CLASSES))
        for n, horizon_s in enumerate(HORIZONS_S):
            levels = hats(volatility_level(history, horizon_s)[wanted:])
            calls[:, n, :3] = mixture(weights, parameters["trend"][n])
            calls[:, n, 3:] = mixture(cells(weights, levels), parameters["volatility"][n])
        return np.asarray(FLOOR + (1.0 - 3.0 * FLOOR) * calls)

    def _weights(self, observed: FloatArray, step: int, states: Parameters) -> FloatArray:
        weights = self.weigh(in_steps(observed, step), states)
        return weights.reshape(-1, weights.shape[2])[: len(observed)]


# --- where a filter begins ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """The bars that the calls of one block look at: a filter runs from ``start``, calls are made from ``wanted``."""

    history: MarketHistory
    start: int
    wanted: int


def parts_by_block(history: MarketHistory, bars: int, filter_s: int, reach_s: int) -> Iterator[Part]:
    """The last ``bars`` bars by block; each filter begins ``filter_s`` before its block, its history ``reach_s``
    before that, or where the history does. Neither depends on where the history ends."""
    first, step_s, end = history.first, history.timeframe_s, len(history)
    wanted = max(0, end - bars)
    while wanted < end:
        boundary = block_start(first + wanted * step_s)
        opening, until = ((at - first) // step_s + 1 for at in (boundary, boundary + BLOCK_S))  # first bars after them
        until = min(end, until)
        start = max(0, opening - history.bars(filter_s))
        begin = max(0, start - history.bars(reach_s))
        yield Part(_slice(history, begin, until), start - begin, wanted - begin)
        wanted = until


def _slice(history: MarketHistory, begin: int, end: int) -> MarketHistory:
    return dataclasses.replace(history, first=history.first + begin * history.timeframe_s,
                               returns=history.returns[begin:end], variance=history.variance[begin:end],
                               present=history.present[begin:end])  # fmt: skip


def in_steps(values: FloatArray, step: int) -> FloatArray:
    """[n, d] to [steps, step, d], row t the bars from t·step on; what is missing of the last row is zeros."""
    steps = -(-len(values) // step)
    padded = np.zeros((steps * step, values.shape[1]))
    padded[: len(values)] = values
    return padded.reshape(steps, step, values.shape[1])


def sequences(observed: FloatArray, step: int, bars: int) -> FloatArray:
    """[n, d] cut from its end into spans of ``bars`` bars, each of them ``step`` sequences side by side (one for each
    bar of a step): [steps, sequences, d]. Shorter than one span: one span of what there is."""
    steps = min(bars, len(observed)) // step
    spans = len(observed) // (steps * step)
    cut = observed[len(observed) - spans * steps * step :].reshape(spans, steps, step, observed.shape[1])
    return np.ascontiguousarray(cut.transpose(1, 0, 2, 3)).reshape(steps, spans * step, observed.shape[1])


# --- features ----------------------------------------------------------------------------------------------------


def trailing_mean(values: FloatArray, bars: int) -> FloatArray:
    """The mean of the last ``bars`` values up to each, of all there are while there are fewer; [n].

    By differences of one running sum: its bits depend on where ``values`` begin, never on where they end.
    """
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - bars, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def against_its_past(values: FloatArray, bars: int) -> FloatArray:
    """How many standard deviations each value lies above the mean of the last ``bars``, within ±FARTHEST; [n]."""
    mean = trailing_mean(values, bars)
    variance = trailing_mean(values * values, bars) - mean * mean
    scores = (values - mean) / np.sqrt(np.maximum(variance, LEAST_SPREAD**2))
    return np.asarray(np.clip(scores, -FARTHEST, FARTHEST))


def log_volatility(variance: FloatArray, bars: int) -> FloatArray:
    """Half the logarithm of the mean of the last ``bars`` variances up to each, [n]."""
    return np.asarray(0.5 * np.log(np.maximum(trailing_mean(variance, bars), TINY_VARIANCE)))


def volatility_score(history: MarketHistory, seconds: int) -> FloatArray:
    """Log volatility over ``seconds`` against the REFERENCE_S up to each bar, [n]; of a bar's variance, the closes and
    the range each say half (the range is less noisy: Parkinson 1980; the closes are what is scored)."""
    variance = 0.5 * (history.returns**2 + history.variance)
    return against_its_past(log_volatility(variance, history.bars(seconds)), history.bars(REFERENCE_S))


def volatility_level(history: MarketHistory, horizon_s: int) -> FloatArray:
    """Where volatility stands in its own past, as far as it matters for a horizon; standard deviations, [n]."""
    spans = LEVEL_S[horizon_s]
    return np.asarray(sum(volatility_score(history, seconds) for seconds in spans) / len(spans))


def trend_score(history: MarketHistory, seconds: int) -> FloatArray:
    """The t-statistic Σr / √Σr² of the returns of the ``seconds`` up to each bar, within ±FARTHEST; [n]."""
    bars = history.bars(seconds)
    counted = np.minimum(np.arange(1, len(history) + 1), bars)
    mean, square = trailing_mean(history.returns, bars), trailing_mean(history.returns**2, bars)
    return np.asarray(np.clip(mean * np.sqrt(counted / np.maximum(square, TINY_VARIANCE)), -FARTHEST, FARTHEST))


# --- from states to classes --------------------------------------------------------------------------------------


def hats(levels: FloatArray) -> FloatArray:
    """The weights of KNOTS at each level, [n, knots]: linear between two knots, the outermost beyond them."""
    inside = np.clip(levels, KNOTS[0], KNOTS[-1])
    left = np.clip(np.searchsorted(KNOTS, inside, side="right") - 1, 0, len(KNOTS) - 2)
    share = (inside - KNOTS[left]) / (KNOTS[left + 1] - KNOTS[left])
    weights = np.zeros((len(levels), len(KNOTS)))
    rows = np.arange(len(levels))
    weights[rows, left], weights[rows, left + 1] = 1.0 - share, share
    return weights


def cells(weights: FloatArray, levels: FloatArray) -> FloatArray:
    """Every state at every knot, [n, states·knots]."""
    return np.asarray((weights[:, :, None] * levels[:, None, :]).reshape(len(weights), -1))


def mixture(weights: FloatArray, table: list[list[float]]) -> FloatArray:
    """Σ over cells of weight · the cell's probabilities, [n, 3]; term by term, as the bits of a matrix product depend
    on its number of rows."""
    total = np.zeros((len(weights), 3))
    for column, row in zip(weights.T, table, strict=True):
        total += column[:, None] * np.array(row)
    return total


def _tables(
    past: MarketHistory, horizon_s: int, found: Outcomes, weights: FloatArray, warm: int
) -> tuple[list[list[float]], list[list[float]]]:
    """P(trend | state), [states][3], and P(volatility | state, knot), [states·knots][3]."""
    bars = past.bars(horizon_s)
    levels = hats(volatility_level(past, horizon_s)[warm:])
    trend, activity = found.trend[warm:], found.volatility[warm:]
    of_state = shares(weights, trend, bars, long_run(trend, bars), TREND_OF_STATE)
    of_level = shares(levels, activity, bars, long_run(activity, bars), LEVEL)
    of_cell = shares(cells(weights, levels), activity, bars, np.tile(of_level, (weights.shape[1], 1)), CELL)
    return of_state.tolist(), of_cell.tolist()


def long_run(labels: IntArray, bars: int) -> FloatArray:
    """The frequencies of the classes, [3], LONG_RUN horizons short of certain."""
    return np.asarray(shares(np.ones((len(labels), 1)), labels, bars, np.full(3, 1.0 / 3.0), LONG_RUN)[0])


def shares(weights: FloatArray, labels: IntArray, bars: int, prior: FloatArray, strength: float) -> FloatArray:
    """The frequencies of the classes in each cell, [cells, 3], with ``strength`` pseudo-counts of ``prior``.

    ``weights`` [n, cells] say how much of each bar lies in each cell. Labels of ``bars`` bars overlap, so a bar counts
    for one ``bars``-th; labels that are UNKNOWN count for nothing.
    """
    counts = np.stack([weights[labels == label].sum(axis=0) for label in range(3)], axis=1) / bars
    return np.asarray((counts + strength * prior) / (counts.sum(axis=1, keepdims=True) + strength))
