"""Chance as a rival: the policy's own weights, shifted in time.

A circular shift keeps how much was held, for how long, and what was traded, but not when: what it earns was luck or the
market, and not timing (the "random" strategy; compare the block-permutation tests of White, Econometrica 68, 2000, and
Masters, Permutation and Randomization Tests for Trading System Development, 2020).
"""

from __future__ import annotations

import math

import numpy as np

from policy.result import Shifts
from policy.simulator import Costs
from policy.weight_path import WeightPaths
from shared.performance import DAY_S, daily_returns
from shared.performance.returns import sharpe
from shared.rows import FloatArray, IntArray

LEAST_SHIFT_DAYS = 30
LEAST_SPAN_DAYS = 3 * LEAST_SHIFT_DAYS
PERCENTILES = (5.0, 50.0, 95.0)


def too_short(times: IntArray, step_s: int) -> str:
    """Why weights at ``times`` (Unix seconds, ``step_s`` apart) cannot be shifted; empty where they can."""
    days = len(times) * step_s / DAY_S
    return f"span too short for shifts: {int(days)} days, {LEAST_SPAN_DAYS} needed" if days < LEAST_SPAN_DAYS else ""


def draw_shifts(moments: int, step_s: int, count: int, seed: int) -> IntArray:
    """``count`` shifts (fewer where there are not so many) of at least LEAST_SHIFT_DAYS either way, in decisions; no
    shift twice. ValueError for a span that is too short."""
    least = math.ceil(LEAST_SHIFT_DAYS * DAY_S / step_s)
    possible = moments - 2 * least + 1
    if possible < 1:
        raise ValueError(f"{moments} decisions every {step_s} s are too few for shifts of {LEAST_SHIFT_DAYS} days")
    drawn = np.random.default_rng(seed).permutation(possible)[:count]
    return np.sort(drawn) + least


def run_shifts(
    paths: WeightPaths, weights: FloatArray, times: IntArray, costs: Costs, shifts: IntArray
) -> tuple[Shifts, FloatArray]:
    """What the ``weights`` [T, N] of ``times`` earn at each of ``shifts`` [K] beside themselves unshifted, all by the
    same machinery; and the equities [K, D] at the last decision of each UTC day [D]."""
    last_of_day = np.flatnonzero(np.r_[times[1:] // DAY_S != times[:-1] // DAY_S, True])
    own = _sharpe(times, paths.run(weights, costs).equity)
    equities = np.empty((len(shifts), len(last_of_day)))
    returns, sharpes = np.empty(len(shifts)), np.empty(len(shifts))
    for k, run in enumerate(paths.run_shifts(weights, shifts.tolist(), costs)):
        equities[k] = run.equity[last_of_day]
        returns[k] = run.closed / run.equity[0] - 1.0
        sharpes[k] = _sharpe(times, run.equity)
    low, median, high = np.percentile(equities, PERCENTILES, axis=0)
    percentile = None if math.isnan(own) else float(np.mean(np.nan_to_num(sharpes) < own))
    return Shifts(times[last_of_day], low, median, high, returns, sharpes, percentile), equities


def _sharpe(times: IntArray, equity: FloatArray) -> float:
    """NaN where it is undefined."""
    ratio = sharpe(daily_returns(times, equity))
    return math.nan if ratio is None else ratio
