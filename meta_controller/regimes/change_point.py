"""Change point: how long has the market been as it is now, which way does it drift, how wild is it?

Bayesian online change-point detection (Adams, MacKay 2007) with a constant hazard and, within a run, Gaussian returns
of unknown mean and variance under a normal-inverse-gamma prior, so that a run's predictive is Student's t. Runs may
begin every STEP_S, and the posterior of the run's length is exact on that grid: the evidence of a run is in closed
form from running sums, so that only the message from one possible change to the next is a recursion, over the
MEMORY_S before the week's start. A logit turns what is known of the present run into class probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from meta_controller.controller import HORIZONS_S
from meta_controller.market_index import BLOCK_S, DAY_S, LEAST_BARS, MarketHistory, block_start
from meta_controller.outcomes import outcomes
from meta_controller.regimes.expert import Calls, Expert
from meta_controller.regimes.logit import (
    LEAST_PAST_S,
    call_logit,
    fit_logit,
    log_terciles,
    log_volatility,
    mean_over,
    running,
)
from shared.rows import FloatArray, IntArray

STEP_S = 12 * 3600
MEMORY_S = 60 * DAY_S  # a run that began before is one that began then
RUN_S = 20 * DAY_S  # the mean length of a run
RECENT_S = DAY_S  # a run that began within it is news
SCALE_S = 90 * DAY_S  # returns are measured in the volatility of the time up to them
LEARN_S = 365 * DAY_S
SETTLING_S = 30 * DAY_S  # what is learnt from has this behind it
LONGEST_Z = 5.0  # such volatilities: an hour beyond says no more than this, or each jump would begin a run

DRIFT_T = 3.0  # a run of RUN_S with this t-statistic has a mean one standard deviation off the prior's
SHAPE = 2.0  # of the inverse gamma: what the prior knows of the variance weighs as twice as many bars
RIDGE = 100.0
TREND_RIDGE = 3000.0


@dataclass(frozen=True, slots=True)
class Runs:
    """What is known of the run that each of some bars is in, from the bars up to it; every array is [n].

    ``up``: the probability that its mean return is over 0. ``t``: its mean over the mean's standard error.
    ``log_volatility``: of a bar. ``changed``: the probability that it began within RECENT_S. ``age``: the log of its
    expected length, in STEP_S.
    """

    up: FloatArray
    t: FloatArray
    log_volatility: FloatArray
    changed: FloatArray
    age: FloatArray


def run_posterior(history: MarketHistory, rows: IntArray) -> Runs:
    """What is known at each of some consecutive ``rows`` of the run that it is in."""
    returns = _scaled(history)
    weeks = (history.first + rows * history.timeframe_s - 1) // BLOCK_S  # as in block_start: a week owns its end
    parts = [_week(history, returns, rows[weeks == week]) for week in range(int(weeks[0]), int(weeks[-1]) + 1)]
    return Runs(*np.concatenate(parts, axis=1))


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Running sums of the scaled returns and of their squares, [n + 1]; the log of each bar's scale, [n]."""

    first: FloatArray
    second: FloatArray
    log_scale: FloatArray


def _scaled(history: MarketHistory) -> _Scaled:
    """Each return over the volatility of the SCALE_S that end with the bar before it."""
    before = np.maximum(np.arange(len(history)) - 1, 0)
    log_scale = log_volatility(mean_over(running(history.returns**2), before, history.bars(SCALE_S)))
    z = np.clip(history.returns / np.exp(log_scale), -LONGEST_Z, LONGEST_Z)
    return _Scaled(running(z), running(z * z), log_scale)


@dataclass(frozen=True, slots=True)
class _Posterior:
    """Of the mean and the variance over some bars: normal-inverse-gamma, from a prior of mean 0 and variance 1
    (Murphy 2007, §3); ``log_evidence`` of the bars themselves. All arrays have one shape; no bars: the prior."""

    length: IntArray
    mean: FloatArray
    precision: FloatArray
    shape: FloatArray
    rate: FloatArray
    log_evidence: FloatArray


def _posterior(returns: _Scaled, starts: IntArray, ends: IntArray, prior_precision: float) -> _Posterior:
    """Of the bars from each of ``starts`` to before each of ``ends``."""
    ends = np.maximum(starts, ends)
    length = ends - starts
    total, squares = returns.first[ends] - returns.first[starts], returns.second[ends] - returns.second[starts]
    bars = length.astype(np.float64)
    precision, shape = prior_precision + bars, SHAPE + 0.5 * bars
    rate = SHAPE + 0.5 * np.maximum(squares - total * total / precision, 0.0)
    of_length = _log_gammas(int(length.max()).bit_length(), prior_precision)[length]
    return _Posterior(length, total / precision, precision, shape, rate, of_length - shape * np.log(rate))


@cache
def _log_gammas(bits: int, prior_precision: float) -> FloatArray:
    """What the log evidence of n bars owes to n alone, for n below 2**bits."""
    at_prior = SHAPE * math.log(SHAPE) - math.lgamma(SHAPE)
    return np.array([
        math.lgamma(SHAPE + 0.5 * n) + at_prior - 0.5 * n * math.log(2.0 * math.pi)
        + 0.5 * math.log(prior_precision / (prior_precision + n))
        for n in range(2**bits)
    ])  # fmt: skip


def _week(history: MarketHistory, returns: _Scaled, rows: IntArray) -> FloatArray:
    """The fields of Runs at ``rows``, which lie in one week, as [5, len(rows)].

    The arrays are as wide for the week's first row as for its last, or sums would differ in their last bits; runs
    that have not begun have no weight.
    """
    starts, step = _starts(history, int(rows[0])), history.bars(STEP_S)
    log_survival = math.log1p(-min(0.5, step / history.bars(RUN_S)))
    prior_precision = history.bars(RUN_S) / DRIFT_T**2
    run = _posterior(returns, starts, rows[:, None] + 1, prior_precision)
    log_weights = _messages(returns, starts, prior_precision, step, log_survival) + run.log_evidence
    log_weights = np.where(run.length > 0, log_weights + run.length * (log_survival / step), -np.inf)
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    t = run.mean / np.sqrt(run.rate / (run.shape * run.precision))
    of_run = (student_cdf(t, 2.0 * run.shape), t, 0.5 * np.log(run.rate / run.shape),
              run.length <= history.bars(RECENT_S), run.length / step)  # fmt: skip
    up, t, log_volatility, changed, age = ((weights * values).sum(axis=1) for values in of_run)
    return np.stack([up, t, log_volatility + returns.log_scale[rows], changed, np.log(age)])


def _starts(history: MarketHistory, row: int) -> IntArray:
    """The first bars of all runs that the week of ``row`` knows: every STEP_S from MEMORY_S before it to its end.

    A younger history begins with a run. What lies behind the history's end is put there.
    """
    week = block_start(history.first + row * history.timeframe_s)
    begin = (week - MEMORY_S - history.first) // history.timeframe_s + 1
    step = history.bars(STEP_S)
    starts = np.arange(begin, begin + history.bars(MEMORY_S + BLOCK_S), step)
    young = max(0, int((starts <= 0).sum()) - 1)
    return np.asarray(starts[young:].clip(0, len(history)))


def _messages(returns: _Scaled, starts: IntArray, prior_precision: float, step: int, log_survival: float) -> FloatArray:
    """log P(the bars before, a run begins at the start), for each of ``starts``; given one at the first."""
    run = _posterior(returns, starts[:, None], starts, prior_precision)  # [from, to]
    log_hazard = math.log(-math.expm1(log_survival))
    passed = (run.log_evidence + (run.length / step - 1.0) * log_survival + log_hazard).T.copy()  # [to, from]
    messages = np.zeros(len(starts))
    for k in range(1, len(starts)):
        terms = messages[:k] + passed[k, :k]
        highest = terms.max()
        messages[k] = highest + math.log(np.exp(terms - highest).sum())
    return messages


def student_cdf(t: FloatArray, freedom: FloatArray) -> FloatArray:
    """P(T < t) of Student's t, within 0.008 for four degrees of freedom and 0.0002 for thirty.

    Through the normal (Abramowitz, Stegun 1964, 26.7.8), and that within 1e-5 (26.2.16).
    """
    x = t * (1.0 - 0.25 / freedom) / np.sqrt(1.0 + t * t / (2.0 * freedom))
    size = np.abs(x)
    k = 1.0 / (1.0 + 0.33267 * size)
    tail = np.exp(-0.5 * size * size) / math.sqrt(2.0 * math.pi)
    tail = tail * (k * (0.4361836 + k * (-0.1201676 + k * 0.9372980)))
    return np.asarray(np.where(x > 0, 1.0 - tail, tail))


def fit(past: MarketHistory) -> dict[str, Any] | None:
    """One logit a horizon and axis, on the bars of the last LEARN_S whose outcome is known by the past's end.

    None from less than LEAST_PAST_S.
    """
    if len(past) < past.bars(LEAST_PAST_S):
        return None
    first = max(past.bars(SETTLING_S), len(past) - past.bars(LEARN_S))
    everything = run_posterior(past, np.arange(first, len(past)))
    fits = {}
    for horizon in HORIZONS_S:
        followed = outcomes(past, horizon)
        rows = np.arange(first, len(past) - past.bars(horizon))
        runs = Runs(*(getattr(everything, name)[: len(rows)] for name in Runs.__slots__))
        trend, volatility = features(past, runs, horizon, rows)
        fits[str(horizon)] = {
            "trend": fit_logit(trend, followed.trend[rows], TREND_RIDGE),
            "volatility": fit_logit(volatility, followed.volatility[rows], RIDGE),
        }
    return fits


def call(history: MarketHistory, parameters: Mapping[str, Any], bars: int) -> Calls:
    rows = np.arange(len(history) - bars, len(history))
    runs = run_posterior(history, rows)
    calls = []
    for horizon in HORIZONS_S:
        logits = parameters[str(horizon)]
        trend, volatility = features(history, runs, horizon, rows)
        calls.append(np.hstack([call_logit(logits["trend"], trend), call_logit(logits["volatility"], volatility)]))
    return np.stack(calls, axis=1)


def features(history: MarketHistory, runs: Runs, horizon: int, rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """What the logits see of the ``runs`` at ``rows``: of the trend [n, 5], of the volatility [n, 4]."""
    terciles = log_terciles(history, history.bars(horizon), rows)
    above = runs.log_volatility - terciles.mean(axis=1)
    trend = [runs.up, runs.t, np.abs(runs.t), runs.changed, above]
    volatility = [above, terciles[:, 1] - terciles[:, 0], runs.changed, runs.age]
    return np.stack(trend, axis=1), np.stack(volatility, axis=1)


EXPERT = Expert(call=call, fit=fit, least_bars=LEAST_BARS)
